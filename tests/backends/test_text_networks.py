"""Early exits and masked blocks as backends: whose weights they run, what their rows know, how they lie on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import draftgraph as dg
from draftgraph.backends.base import Feed
from draftgraph.backends.eagle3_export import exported
from draftgraph.backends.exit_model import ExitModel
from draftgraph.backends.exit_net import ExitNet, ExitShape
from draftgraph.backends.features import parameters_of
from draftgraph.backends.masked_model import MaskedModel
from draftgraph.backends.taps import decoder_layers
from draftgraph.backends.torch_model import TorchModel
from draftgraph.backends.trained import find_trained
from draftgraph.errors import DraftgraphError, ModelError, OptionError, PairError
from models import tiny_lm
from text_drafters import tiny_exit, tiny_masked, write_exit, write_masked

TEXT, DRAFTED = [5, 9, 3, 14, 7, 2, 11, 20], [17, 4, 3]
WINDOWED: dict[str, Any] = {
    "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": False, "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip


def target(family: str = "llama", **options: Any) -> Any:
    return tiny_lm(family, vocab=24, layers=4, **options).requires_grad_(False)


SCALED: dict[str, Any] = {"num_key_value_heads": 2, "tie_word_embeddings": False, "logits_scaling": 4.0}


# Exits.


@pytest.mark.parametrize(
    ("family", "options"), [("llama", {}), ("gpt2", {}), ("opt", {}), ("gemma2", WINDOWED), ("mixtral", {})], ids=str
)
@torch.inference_mode()
def test_the_cells_of_an_exit_are_those_of_a_plain_forward(family: str, options: dict[str, Any]) -> None:
    """Keys and values of the first layers, of committed rows and of drafted ones that were accepted."""
    over = target(family, **options)
    whole, model = TorchModel(over), ExitModel(*tiny_exit(over, layer=2))
    texts = [each.open(0) for each in (whole, model)]
    for each, text in zip((whole, model), texts, strict=True):
        each.forward([Feed(text, TEXT)])
        for node, token in enumerate(DRAFTED):
            each.forward([Feed(text, (), [token], [node - 1])])
        each.keep(text, [0, 1])
    for layer in range(2):
        for part in (0, 1):
            theirs, own = (
                each.cache.memory.tensors[layer][part][:, :, torch.from_numpy(text.slots)]
                for each, text in zip((whole, model), texts, strict=True)
            )
            assert own.shape[2] == len(TEXT) + 2
            assert torch.equal(own, theirs)


def test_the_targets_weights_are_not_copied() -> None:
    over = target()
    net, _ = tiny_exit(over, layer=3)
    layers, own = decoder_layers(over)[1], decoder_layers(net.core)[1]
    for number in range(3):
        for mine, theirs in zip(own[number].parameters(), layers[number].parameters(), strict=True):
            assert mine.data_ptr() == theirs.data_ptr()
    assert net.core.get_input_embeddings() is over.get_input_embeddings()
    assert {name.split(".")[-2] for name, _ in parameters_of(net)} >= {"q_proj", "down_proj"}
    assert all(name.startswith("core.model.layers.3.") for name, _ in parameters_of(net))


def test_training_an_exit_changes_its_own_block_alone() -> None:
    over = target()
    before = {name: weight.clone() for name, weight in over.named_parameters()}
    net, _ = tiny_exit(over)
    net.train()
    for _, weight in parameters_of(net):
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW([weight for _, weight in parameters_of(net)], lr=0.1)
    text = torch.tensor([TEXT])
    (output,) = net.steps(text, over.get_input_embeddings()(text), 1)
    net.logits(output).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(weight, before[name]) for name, weight in over.named_parameters())
    assert {name for name, weight in net.named_parameters() if weight.grad is not None} == dict(
        parameters_of(net)
    ).keys()
    assert not net.core.get_decoder().norm.training
    assert net.block.training


@pytest.mark.parametrize(
    ("family", "options"), [("llama", {}), ("gemma2", WINDOWED | {"sliding_window": 32}), ("granite", SCALED)], ids=str
)
@torch.inference_mode()
def test_steps_of_an_exit_are_passes_of_the_engine(family: str, options: dict[str, Any]) -> None:
    over = target(family, **options)
    net, tokens = tiny_exit(over)
    model = ExitModel(net, tokens)
    text = model.open(0)
    seen = [model.forward([Feed(text, TEXT)])[0].logits[0]]
    for node, token in enumerate(DRAFTED):
        seen.append(model.forward([Feed(text, (), [token], [node - 1])])[0].logits[0])
    whole = torch.tensor([[*TEXT, *DRAFTED]])
    for step, output in enumerate(net.steps(whole, over.get_input_embeddings()(whole), 1 + len(DRAFTED))):
        torch.testing.assert_close(seen[step][tokens], net.logits(output[0, len(TEXT) - 1]), atol=2e-4, rtol=1e-3)
        without = [token for token in range(24) if token not in tokens.tolist()]
        assert (seen[step][without] == -torch.inf).all()


@pytest.mark.parametrize("layer", [0, 4, 9])
def test_an_exit_that_the_target_does_not_have_is_refused(layer: int) -> None:
    with pytest.raises(ModelError, match=f"has 4 layers, so that an exit after {layer} is not possible; write 1 to 3"):
        ExitNet(ExitShape(32, (), 8, layer), target().config)


def test_targets_that_do_not_run_in_part_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    over = target()
    layer = decoder_layers(over)[1][1]
    plain = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *given, **named: 1.5 * plain(*given, **named))
    with pytest.raises(ModelError, match=r"do not run without the others .they give other hidden states alone"):
        tiny_exit(over)
    over = target()
    decoder_layers(over)[1][0].extra = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="do not run without the others"):
        tiny_exit(over)


# Masked blocks.


@pytest.mark.parametrize(("family", "options"), [("llama", {}), ("gpt2", {}), ("gemma2", WINDOWED)], ids=str)
@torch.inference_mode()
def test_steps_of_a_block_are_rows_of_the_engine(family: str, options: dict[str, Any]) -> None:
    if options:  # training knows no windows shorter than its texts
        options = options | {"sliding_window": 32}
    over = target(family, **options)
    net, tokens = tiny_masked(over)
    model = MaskedModel(net, tokens, over.get_input_embeddings())
    text = model.open(0)
    model.forward([Feed(text, TEXT[:3])])
    seen = [model.forward([Feed(text, TEXT[3:])])[0].logits[0]]
    for node, token in enumerate(DRAFTED):
        seen.append(model.forward([Feed(text, (), [token], [node - 1])])[0].logits[0])
    whole = torch.tensor([[*TEXT, *DRAFTED]])
    steps = net.steps(whole, over.get_input_embeddings()(whole), 9)
    assert len(steps) == 4
    for row, output in zip(seen, steps, strict=True):
        torch.testing.assert_close(row[tokens], net.logits(output[0, len(TEXT) - 1]), atol=2e-4, rtol=1e-3)


@torch.inference_mode()
def test_slots_differ_by_their_queries_and_know_the_text_alone() -> None:
    over = target()
    net, tokens = tiny_masked(over)
    model = MaskedModel(net, tokens, over.get_input_embeddings())

    def rows(drafted: list[int]) -> torch.Tensor:
        text = model.open(0)
        first = model.forward([Feed(text, TEXT)])[0].logits
        rest = [model.forward([Feed(text, (), [token], [node - 1])])[0].logits for node, token in enumerate(drafted)]
        return torch.cat([first, *rest])

    assert torch.equal(rows([1, 2, 3]), rows([9, 9, 9]))  # whatever was drafted before
    usual = rows([1, 2, 3])
    net.queries[[0, 1]] = net.queries[[1, 0]].clone()
    assert not torch.allclose(rows([1, 2, 3])[:2], usual[:2], atol=1e-2)
    net.queries.copy_(net.queries[0].expand_as(net.queries))
    alike = rows([1, 2, 3])
    assert not torch.allclose(alike[0], usual[0], atol=1e-2)


def test_a_gradient_of_a_slot_reaches_no_later_text() -> None:
    over = target()
    net, _ = tiny_masked(over)
    whole = torch.tensor([[*TEXT, *DRAFTED]])
    embedded = over.get_input_embeddings()(whole).detach().requires_grad_(True)
    net.blocks(embedded, torch.tensor([4])).square().sum().backward()
    reached = embedded.grad[0].abs().sum(dim=-1) > 0
    assert reached.tolist() == [True] * 5 + [False] * 6


@torch.inference_mode()
def test_later_passes_know_what_filled_the_surest_slots() -> None:
    over = target()
    net, tokens = tiny_masked(over, slots=4, passes=2)
    single, _ = tiny_masked(over, slots=4)
    rows = {}
    for name, each in (("two", net), ("one", single)):
        model = MaskedModel(each, tokens, over.get_input_embeddings())
        text = model.open(0)
        model.forward([Feed(text, TEXT)])
        rows[name] = text.rows
        assert len(text) == len(TEXT)
    logits = single.logits(rows["one"])
    surest = set(logits.softmax(-1).amax(-1).topk(2).indices.tolist())
    filled = tokens[logits.argmax(-1)]
    same = {slot for slot in range(4) if torch.equal(rows["one"][slot], rows["two"][slot])}
    assert same == surest
    whole = torch.tensor([[*TEXT, *filled.tolist()]])
    known = torch.tensor([[[slot in surest for slot in range(4)]]])
    expected = net.blocks(over.get_input_embeddings()(whole), torch.tensor([len(TEXT) - 1]), known)[0, 0]
    for slot in set(range(4)) - surest:
        torch.testing.assert_close(rows["two"][slot], expected[slot], atol=2e-4, rtol=1e-3)


@torch.inference_mode()
def test_a_later_pass_that_fails_leaves_nothing_behind() -> None:
    over = target()
    net, tokens = tiny_masked(over, passes=3)
    model = MaskedModel(net, tokens, over.get_input_embeddings())
    expected = model.forward([Feed(model.open(0), TEXT)])[0].logits
    text, plain, count = model.open(0), model.pass_over, 0

    def failing(feeds: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            raise RuntimeError("made up")
        return plain(feeds)

    model.pass_over = failing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="made up"):
        model.forward([Feed(text, TEXT)])
    assert not len(text)
    torch.testing.assert_close(model.forward([Feed(text, TEXT)])[0].logits, expected)


# On disk.


@pytest.mark.parametrize("write", [write_exit, write_masked])
def test_a_folder_is_read_as_it_was_written(write: Callable[..., Path], tmp_path: Path) -> None:
    over = target()
    found = find_trained(write(tmp_path, over))
    assert found is not None
    assert found.taps(4) == ()
    assert [check.outcome for check in found.checks(over)] == ["pass"] * 4
    made, tokens = (tiny_exit if write is write_exit else tiny_masked)(over)
    read: Any = found.read(over)
    assert torch.equal(read.tokens, tokens)
    for (name, mine), (_, theirs) in zip(parameters_of(read.net), parameters_of(made), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("write", [write_exit, write_masked])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"layers": 5}, "its num_hidden_layers is 4, the target's 5"),
        ({"layers": 4, "vocab": 40}, "its vocab_size is 24, the target's 40"),
        ({"layers": 4, "seed": 5}, "another target of the same sizes"),
        ({"layers": 4, "family": "qwen2"}, "its model_type is llama, the target's qwen2"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_folders_of_another_target_are_refused(
    write: Callable[..., Path], other: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, target())
    with pytest.raises(PairError, match=message):
        dg.Engine.from_pretrained(tiny_lm(**{"vocab": 24, **other}), draft_model=folder)


def edited(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def reweighted(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    file = folder / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    change(weights)
    safetensors.torch.save_file(weights, file)


def first_of(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return next(weight for name, weight in sorted(weights.items()) if name != "tokens")


@pytest.mark.parametrize("write", [write_exit, write_masked])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: edited(folder, version=9), "of version 9, and version 1 is read here"),
        (lambda folder: edited(folder, tokens=0), "its numbers .* do not fit each other"),
        (lambda folder: edited(folder, layer=4, slots=0), "do not fit each other|layer|slots"),
        (truncated, "truncated or broken"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot read"),
        (lambda folder: reweighted(folder, lambda each: first_of(each).fill_(torch.nan)), "holds NaN"),
        (lambda folder: reweighted(folder, lambda each: each.pop("tokens")), "does not name 17 different tokens"),
        (
            lambda folder: reweighted(folder, lambda each: each.update(odd=torch.ones(1))),
            "has unknown the weight 'odd'",
        ),
        (lambda folder: reweighted(folder, lambda each: each["tokens"].fill_(3)), "does not name 17 different tokens"),
    ],
    ids=["version", "entries", "numbers", "truncated", "missing", "NaN", "no tokens", "unknown", "same tokens"],
)
def test_broken_folders_are_refused_by_name(
    write: Callable[..., Path], spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    over = target()
    folder = write(tmp_path, over)
    spoil(folder)
    with pytest.raises(DraftgraphError, match=message):
        dg.Engine.from_pretrained(over, draft_model=folder)
    found = find_trained(folder)
    assert found is not None
    assert any(check.failed for check in found.checks(over))


@pytest.mark.parametrize(("write", "said"), [(write_exit, "early exits"), (write_masked, "masked blocks")])
def test_they_are_not_written_for_other_engines(write: Callable[..., Path], said: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"is of {said}, and only EAGLE-3 drafters are written"):
        exported(write(tmp_path, target()), "eagle3")


@pytest.mark.parametrize("fields", [{"passes": 5}, {"passes": 0}, {"slots": 10**9}, {"blocks": 0}], ids=str)
def test_numbers_of_blocks_that_make_no_sense_are_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    folder = write_masked(tmp_path, target())
    edited(folder, **fields)
    with pytest.raises(ModelError, match="do not fit each other"):
        dg.Engine.from_pretrained(target(), draft_model=folder)


@pytest.mark.parametrize("write", [write_exit, write_masked])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_targets_of_other_types_are_drafted_for(write: Callable[..., Path], dtype: torch.dtype, tmp_path: Path) -> None:
    folder = write(tmp_path, target())
    over = target().to(dtype)
    result = dg.Engine.from_pretrained(over, draft_model=folder, budget=4).generate(TEXT, max_new_tokens=10)
    assert len(result.token_ids) == 10
    assert result.stats.num_draft_tokens > 0
