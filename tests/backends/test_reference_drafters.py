"""Logits of imported drafters beside those of the packages that define their layouts; skipped where these are absent.

pip install --no-deps speculators dflash datasets pyarrow dill multiprocess xxhash pandas
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedModel

from dflash_folders import MASK, SIZE, write_dflash
from draftgraph.backends.base import Feed
from draftgraph.backends.eagle3_export import exported
from draftgraph.backends.feature_model import FeatureHandle, FeatureModel
from draftgraph.backends.trained import find_trained
from draftgraph.types import ROOT
from eagle3_folders import write_eagle3
from models import tiny_lm

LAYERS, DEPTH = 6, 3
TEXT = [5, 9, 3, 40, 7, 2, 11, 30, 8, 21]
DRAFTED = [17, 4, 33]
NORMS = [
    {}, {"norm_before_residual": True}, {"norm_before_fc": True}, {"fc_norm": True, "norm_output": True},
]  # fmt: skip


def read(folder: Path) -> tuple[FeatureModel, torch.Tensor]:
    """The drafter, and features f[T, features] of TEXT."""
    target = tiny_lm(layers=LAYERS)
    found = find_trained(folder)
    assert found is not None
    model = found.read(target)
    states = target(torch.tensor([TEXT]), output_hidden_states=True).hidden_states
    return model, torch.cat([states[int(name.partition(":")[2])][0] for name in model.taps], dim=-1)


def drafted_logits(model: FeatureModel, features: torch.Tensor, cut: int) -> torch.Tensor:
    """Logits f[1 + DEPTH, K] behind TEXT and behind every token of DRAFTED, which was read behind it; beside a sibling each."""
    text = model.open(0)
    assert isinstance(text, FeatureHandle)
    text.learn(features[:-1])
    model.forward([Feed(text, TEXT[1:cut])])
    rows = [model.forward([Feed(text, TEXT[cut:])])[0].logits[0]]
    parent = ROOT
    for token in DRAFTED:
        rows.append(model.forward([Feed(text, (), [token + 1, token], [parent, parent])])[0].logits[1])
        parent = len(text.nodes) - 1
    return torch.stack(rows)[:, model.tokens]


@pytest.mark.parametrize("norms", NORMS, ids=lambda norms: " ".join(norms) or "plain")
@pytest.mark.parametrize("kind", ["llama", "qwen3", "two layers", "explicit", "whole vocabulary"])
@torch.inference_mode()
def test_eagle3_logits_are_those_of_speculators(kind: str, norms: dict[str, bool], tmp_path: Path) -> None:
    core = pytest.importorskip("speculators.models.eagle3.core")
    options: dict[str, Any] = {"qwen": kind == "qwen3", "layers": 2 if kind == "two layers" else 1}
    options |= {"ids": [1, 4]} if kind == "explicit" else {}
    options |= {"entries": 64} if kind == "whole vocabulary" else {}
    target = tiny_lm(layers=LAYERS)
    embedded = {"embed_tokens.weight": target.get_input_embeddings().weight.detach().clone()}
    folder = write_eagle3(tmp_path, target, "speculators", own=embedded, **options, **norms)
    ours = drafted_logits(*read(folder), cut=4)
    theirs = reference(core, folder, read(folder)[1])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    for layout in ("original", "sglang") if kind != "qwen3" else ():
        other = write_eagle3(tmp_path / layout, target, layout, **options, **norms)
        torch.testing.assert_close(drafted_logits(*read(other), cut=7), theirs, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_what_is_exported_runs_in_speculators(tmp_path: Path) -> None:
    core = pytest.importorskip("speculators.models.eagle3.core")
    target = tiny_lm(layers=LAYERS)
    embedded = {"embed_tokens.weight": target.get_input_embeddings().weight.detach().clone()}
    folder = write_eagle3(tmp_path / "drafter", target, "sglang", own=embedded, ids=[1, 3, 5], norm_output=True)
    other = tmp_path / "other"
    other.mkdir()
    for name, content in exported(folder, "speculators", target="made-up").items():
        (other / name).write_bytes(content)
    model, features = read(folder)
    torch.testing.assert_close(
        drafted_logits(model, features, 4), reference(core, other, features), atol=1e-4, rtol=1e-4
    )


def reference(core: Any, folder: Path, features: torch.Tensor) -> torch.Tensor:
    """The same logits by the package's own module, whose steps read the whole text at once."""
    config = core.Eagle3SpeculatorConfig.from_pretrained(folder)
    config.transformer_layer_config._attn_implementation = "eager"
    model = core.Eagle3DraftModel(config)
    missing = model.load_state_dict(weights_of(folder), strict=False)
    assert not missing.unexpected_keys
    model.eval()
    seen: list[torch.Tensor] = []
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    tokens = torch.tensor([[*TEXT[1:], *DRAFTED]])
    # rows beyond the text have no features: only rows up to its end are looked at
    padded = torch.nn.functional.pad(features[:-1], (0, 0, 0, len(DRAFTED)))[None]
    documents = torch.zeros(1, padded.shape[1], dtype=torch.long)
    model(padded, tokens, documents, ttt_steps=1 + len(DRAFTED))
    return torch.stack([logits[len(TEXT) - 2] for logits in seen])


GOLDEN: dict[str, tuple[dict[str, Any], list[float]]] = {
    "plain": ({}, [-2.824, -1.853, -1.354, -1.7]),
    "norm_before_residual": ({"norm_before_residual": True}, [-6.387, -7.58, -8.845, 0.46]),
    "norm_before_fc": ({"norm_before_fc": True}, [-2.562, -0.36, 0.385, 0.404]),
    "fc_norm": ({"fc_norm": True, "norm_output": True}, [-3.076, 3.437, 0.072, 3.794]),
    "original": ({}, [-1.14, 0.105, 0.505, 0.548]),
    "causal": ({"is_causal": True}, [-0.842, 0.133, 0.257, 0.203]),
    "dflash": ({"entries": 40}, [2.254, 1.142, 2.001, 2.149]),
    "dspark": ({"entries": 40}, [3.539, 3.534, 6.643, 2.116, 3.975]),
}
"""Logits of entry 7 by depth, as they were when they were compared with the packages."""


@pytest.mark.parametrize("kind", GOLDEN)
@torch.inference_mode()
def test_logits_are_those_that_were_compared(kind: str, tmp_path: Path) -> None:
    """What the tests below and above say, where the packages are absent."""
    target, (options, expected) = tiny_lm(layers=LAYERS), GOLDEN[kind]
    if kind in ("original", "causal", "dflash", "dspark"):
        layout = "original" if kind == "causal" else kind
        found = block_logits(write_dflash(tmp_path, target, layout, **options), target)
    else:
        found = drafted_logits(*read(write_eagle3(tmp_path, target, "speculators", layers=2, **options)), cut=4)
    torch.testing.assert_close(found[:, 7], torch.tensor(expected), atol=2e-3, rtol=1e-3)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    import safetensors.torch

    return dict(safetensors.torch.load_file(folder / "model.safetensors"))


def block_logits(folder: Path, target: PreTrainedModel) -> torch.Tensor:
    """Logits f[depths, K] of a block behind TEXT, whose tokens are DRAFTED's; a sibling is read beside every one."""
    found = find_trained(folder)
    assert found is not None
    model = found.read(target)
    text = model.open(0)
    assert isinstance(text, FeatureHandle)
    text.learn(features_of(model.taps, target)[:-1])
    model.forward([Feed(text, TEXT[1:4])])
    rows = [model.forward([Feed(text, TEXT[4:])])[0].logits[0]]
    parent = ROOT
    for token in following(model.depths or 0):
        rows.append(model.forward([Feed(text, (), [token + 1, token], [parent, parent])])[0].logits[1])
        parent = len(text.nodes) - 1
    return torch.stack(rows)[:, model.tokens]  # type: ignore[attr-defined]


def following(depths: int) -> list[int]:
    return [*DRAFTED, 12][: depths - 1]


def features_of(taps: Sequence[str], target: PreTrainedModel) -> torch.Tensor:
    states = target(torch.tensor([TEXT]), output_hidden_states=True).hidden_states
    return torch.cat([states[int(name.partition(":")[2])][0] for name in taps], dim=-1)


@pytest.mark.parametrize(
    "more", [{}, {"is_causal": True}, {"output_multiplier": 0.5, "final_logit_softcapping": 9.0}], ids=str
)
@torch.inference_mode()
def test_dflash_logits_are_those_of_its_package(more: dict[str, Any], tmp_path: Path) -> None:
    package = pytest.importorskip("dflash.model")
    target = tiny_lm(layers=LAYERS)
    folder = write_dflash(tmp_path, target, "original", **more)
    theirs = package.DFlashDraftModel.from_pretrained(folder, dtype=torch.float32).eval()
    features = features_of(["hidden:2", "hidden:3"], target)[None, :-1]
    block = torch.tensor([[TEXT[-1], *[MASK] * (SIZE - 1)]])
    hidden = theirs(
        position_ids=torch.arange(len(TEXT) - 1 + SIZE)[None],
        noise_embedding=target.get_input_embeddings()(block),
        target_hidden=features,
    )
    expected = theirs.compute_logits(hidden[0, 1:], target.get_output_embeddings())
    torch.testing.assert_close(block_logits(folder, target), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("anchor", [False, True])
@pytest.mark.parametrize("layout", ["dflash", "dspark"])
@torch.inference_mode()
def test_block_logits_are_those_of_speculators(layout: str, anchor: bool, tmp_path: Path) -> None:
    core = pytest.importorskip(f"speculators.models.{layout}.core")
    target = tiny_lm(layers=LAYERS)
    folder = write_dflash(tmp_path, target, layout, entries=40, anchor=anchor)
    kind = "DFlash" if layout == "dflash" else "DSpark"
    config = getattr(core, f"{kind}SpeculatorConfig").from_pretrained(folder)
    config.transformer_layer_config._attn_implementation = "eager"
    model = getattr(core, f"{kind}DraftModel")(config)
    model.load_state_dict(weights_of(folder), strict=False)
    model.embed_tokens.weight.copy_(target.get_input_embeddings().weight)
    model.eval()
    expected = their_block(model, features_of(["hidden:2", "hidden:3"], target))
    ours = block_logits(folder, target)
    if layout == "dspark":
        before = torch.tensor([[TEXT[-1], *following(len(ours))]])
        expected = expected + model.markov_head.block_bias(prev_token_ids=before, hidden_states=torch.empty(0))[0]
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def their_block(model: Any, features: torch.Tensor) -> torch.Tensor:
    """Rows of the package's module that speak of a token: one block, whose anchor is the last token of TEXT."""
    anchor = len(TEXT) - 1
    tokens = torch.tensor([[*TEXT, *[1] * SIZE]])
    wanted = torch.zeros(tokens.shape)
    wanted[0, anchor] = 1.0
    padded = torch.nn.functional.pad(features, (0, 0, 0, SIZE), value=7.0)[None]  # rows that a block must not see
    last = torch.zeros(1, tokens.shape[1], model.hidden_size)
    documents = torch.zeros_like(tokens)
    logits = model._backbone_forward(padded, tokens, wanted, last, documents, max_anchors=1)[1]
    return cast(torch.Tensor, logits[0, 0 if model.config.sample_from_anchor else 1 :])
