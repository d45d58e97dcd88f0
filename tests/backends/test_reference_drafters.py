"""Logits of imported drafters beside those of the packages that define their layouts; skipped where these are absent.

pip install --no-deps speculators dflash datasets pyarrow dill multiprocess xxhash pandas
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from draftgraph.backends.base import Feed
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


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    import safetensors.torch

    return dict(safetensors.torch.load_file(folder / "model.safetensors"))
