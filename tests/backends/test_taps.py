"""Taps are the hidden states of plain forwards, for every row that was fed."""

from __future__ import annotations

from types import MethodType

import pytest
import torch

import draftgraph as dg
from draftgraph.backends.base import Feed
from draftgraph.backends.prefill import read_piece
from draftgraph.backends.recurrent_model import torch_model
from draftgraph.backends.torch_model import TorchModel
from draftgraph.errors import ModelError, OptionError
from draftgraph.lab.train.features.unroll import read_target
from draftgraph.types import ROOT
from models import tiny_lm
from recurrent import recurrent

PROMPT, NEXT = [5, 9, 3, 40], [7, 2]
TREE = dg.TokenTree([7, 8, 7, 9], [ROOT, ROOT, 0, 2], [-1] * 4)
NAMES = ("hidden:0", "hidden:1", "hidden:2")


def plain(over: TorchModel, tokens: list[int]) -> list[torch.Tensor]:
    """Of every layer its states f[n, width] along a text."""
    with torch.inference_mode():
        found = over.model(input_ids=torch.tensor([tokens]), use_cache=False, output_hidden_states=True).hidden_states
    return [states[0] for states in found]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@torch.inference_mode()
def test_taps_are_the_hidden_states_of_plain_forwards(family: str) -> None:
    over = TorchModel(tiny_lm(family))
    text, other = over.open(8), over.open(8)
    over.forward([Feed(text, PROMPT)])
    fed = [Feed(other, [1, 2, 3]), Feed(text, NEXT, TREE.tokens, TREE.parents)]
    theirs, ours = over.forward(fed, NAMES)
    committed = plain(over, [*PROMPT, *NEXT])
    paths = [plain(over, [*PROMPT, *NEXT, *TREE.path_tokens(node)]) for node in range(len(TREE))]
    assert list(ours.taps) == list(NAMES)
    for i, name in enumerate(NAMES):
        expected = torch.cat([committed[i][-len(NEXT) :], *(path[i][-1:] for path in paths)])
        torch.testing.assert_close(ours.taps[name], expected, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(theirs.taps[name], plain(over, [1, 2, 3])[i], atol=2e-4, rtol=1e-3)
    head = over.model.get_output_embeddings()
    torch.testing.assert_close(head(ours.taps["hidden:2"])[len(NEXT) - 1 :], ours.logits, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@torch.inference_mode()
def test_keys_and_values_are_those_that_plain_forwards_cache(family: str) -> None:
    over = TorchModel(tiny_lm(family))
    text, other = over.open(8), over.open(8)
    over.forward([Feed(text, PROMPT)])
    fed = [Feed(other, [1, 2, 3]), Feed(text, NEXT, TREE.tokens, TREE.parents)]
    names = ("values:0", "hidden:1", "keys:1")
    theirs, ours = over.forward(fed, names)
    assert sorted(ours.taps) == sorted(names)

    def cached(tokens: list[int], name: str) -> torch.Tensor:
        return read_target(over.model, torch.tensor([tokens]), (name,))[1][0]

    for name in names:
        along = [[*PROMPT, *NEXT, *TREE.path_tokens(node)] for node in range(len(TREE))]
        expected = torch.cat(
            [cached([*PROMPT, *NEXT], name)[-len(NEXT) :], *(cached(path, name)[-1:] for path in along)]
        )
        torch.testing.assert_close(ours.taps[name], expected, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(theirs.taps[name], cached([1, 2, 3], name), atol=2e-4, rtol=1e-3)
    assert not over.cache.heard


@pytest.mark.parametrize("name", ["keys:2", "values:-1", "keys:", "values:²"])
@torch.inference_mode()
def test_keys_of_a_layer_that_is_not_there_are_refused_by_name(name: str) -> None:
    over = TorchModel(tiny_lm())
    with pytest.raises(OptionError, match=r"taps='.*' is not possible; write '(keys|values):0' to '(keys|values):1'"):
        over.forward([Feed(over.open(8), PROMPT)], [name])
    assert not over.cache._used


@torch.inference_mode()
def test_a_model_that_keeps_states_gives_no_keys() -> None:
    over = torch_model(recurrent("qwen3_5_text"))
    with pytest.raises(OptionError, match="gives hidden states, and no keys and values; write backend='torch'"):
        over.forward([Feed(over.open(8), PROMPT)], ["keys:0"])


@torch.inference_mode()
def test_taps_change_no_logits_and_leave_no_hooks() -> None:
    over = TorchModel(tiny_lm())
    first, second = over.open(8), over.open(8)
    without = over.forward([Feed(first, PROMPT)])[0]
    over.close(first)
    assert torch.equal(over.forward([Feed(second, PROMPT)], NAMES)[0].logits, without.logits)
    assert not without.taps
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in over.model.modules())


@torch.inference_mode()
def test_a_piece_of_a_prompt_has_its_taps() -> None:
    over = TorchModel(tiny_lm())
    over.most_rows = 3
    text = over.open(8)
    piece = read_piece(over, text, PROMPT, ["hidden:1"])
    assert piece is not None
    torch.testing.assert_close(piece.taps["hidden:1"], plain(over, PROMPT[:3])[1], atol=2e-4, rtol=1e-3)
    assert read_piece(over, text, PROMPT[3:]) is None


@pytest.mark.parametrize(
    "name", ["hidden:3", "hidden:-1", "hidden:", "hidden", "layer 2", "hidden:1.0", "hidden:²", ""]
)
@torch.inference_mode()
def test_a_tap_that_the_model_does_not_have_is_refused_by_name(name: str) -> None:
    over = TorchModel(tiny_lm())
    text = over.open(8)
    with pytest.raises(OptionError, match=r"taps='.*' is not possible; write 'hidden:0' .* to 'hidden:2'"):
        over.forward([Feed(text, PROMPT)], ["hidden:0", name])
    assert not over.cache._used
    assert not any(part._forward_pre_hooks for part in over.model.modules())


@torch.inference_mode()
def test_a_model_without_a_list_of_layers_gives_no_taps() -> None:
    over = TorchModel(tiny_lm())
    over.model.get_decoder = MethodType(lambda model: model, over.model)
    with pytest.raises(ModelError, match="LlamaForCausalLM has no list of 2 decoder layers"):
        over.forward([Feed(over.open(8), PROMPT)], ["hidden:1"])
