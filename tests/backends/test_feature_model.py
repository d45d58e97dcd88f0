"""A feature drafter's passes: what they read, and that they are the steps that it is trained on."""

from __future__ import annotations

import pytest
import torch

from draftgraph.backends.base import Feed
from draftgraph.backends.feature_model import FeatureHandle, FeatureModel
from draftgraph.backends.torch_model import TorchModel
from draftgraph.errors import ModelError
from draftgraph.lab.train.features.unroll import read_target, steps
from draftgraph.types import ROOT
from feature_drafters import MIXED, tiny_form, tiny_net
from models import tiny_lm

TEXT = [5, 9, 3, 40, 7, 2, 11, 30, 8, 21]
DRAFTED = [17, 4, 33]


def parts(family: str = "llama", kind: str = "own") -> tuple[TorchModel, FeatureModel]:
    target = tiny_lm(family, layers=4)
    net, tokens = tiny_net(target) if kind == "own" else tiny_form(MIXED[kind], target)
    over = TorchModel(target)
    return over, FeatureModel(net, tokens, over.model.get_input_embeddings())


def features_of(over: TorchModel, model: FeatureModel, tokens: list[int]) -> torch.Tensor:
    return read_target(over.model, torch.tensor([tokens]), model.taps)[1][0]


def opened(over: TorchModel, model: FeatureModel, tokens: list[int]) -> FeatureHandle:
    """A request whose target has read all tokens but the last."""
    text = model.open(0)
    text.learn(features_of(over, model, tokens[:-1]))
    return text


KINDS = [(family, "own") for family in ("llama", "gpt2", "qwen3", "gemma", "phi")]
KINDS += [("llama", kind) for kind in MIXED] + [
    (family, kind) for family in ("qwen3", "gemma") for kind in ("FSPAD", "GliDe")
]


@pytest.mark.parametrize(("family", "kind"), KINDS)
@pytest.mark.parametrize("cut", [1, 4, len(TEXT) - 1])
@torch.inference_mode()
def test_passes_are_the_steps_that_are_trained(family: str, kind: str, cut: int) -> None:
    over, model = parts(family, kind)
    text = opened(over, model, TEXT)
    model.forward([Feed(text, TEXT[:cut])])
    seen = [model.forward([Feed(text, TEXT[cut:])])[0].logits[0]]
    for node, token in enumerate(DRAFTED):
        seen.append(model.forward([Feed(text, (), [token], [node - 1])])[0].logits[0])
    whole = torch.tensor([[*TEXT, *DRAFTED]])
    _, features, embedded = read_target(over.model, whole, model.taps)
    for step, output in enumerate(steps(model.net, features, embedded, 1 + len(DRAFTED))):
        expected = model.net.logits(output[0, len(TEXT) - 1])
        logits = seen[step][model.tokens]
        torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["own", *MIXED])
@torch.inference_mode()
def test_branches_do_not_see_each_other(kind: str) -> None:
    over, model = parts(kind=kind)
    text, alone = opened(over, model, TEXT), opened(over, model, TEXT)
    for handle in (text, alone):
        model.forward([Feed(handle, TEXT)])
    model.forward([Feed(text, (), [17, 4], [ROOT, ROOT])])
    model.forward([Feed(alone, (), [4], [ROOT])])
    both = model.forward([Feed(text, (), [33, 33], [0, 1])])[0].logits
    one = model.forward([Feed(alone, (), [33], [0])])[0].logits
    torch.testing.assert_close(both[1], one[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(both[0][model.tokens], both[1][model.tokens], atol=1e-2)


@pytest.mark.parametrize("kind", ["own", *MIXED])
@torch.inference_mode()
def test_accepted_tokens_are_read_again_with_the_targets_features(kind: str) -> None:
    over, model = parts(kind=kind)
    text, fresh = opened(over, model, TEXT), opened(over, model, [*TEXT, 17, 4])
    model.forward([Feed(text, TEXT)])
    model.forward([Feed(text, (), [17], [ROOT])])
    model.keep(text, [0])
    assert len(text) == len(TEXT)
    text.learn(features_of(over, model, [*TEXT, 17])[-2:])
    again = model.forward([Feed(text, [17, 4])])[0].logits
    once = model.forward([Feed(fresh, [*TEXT, 17, 4])])[0].logits
    torch.testing.assert_close(again, once, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_tokens_outside_of_the_head_have_no_mass() -> None:
    over, model = parts()
    logits = model.forward([Feed(opened(over, model, TEXT), TEXT)])[0].logits
    assert logits.shape == (1, over.vocab_size)
    outside = torch.ones(over.vocab_size, dtype=torch.bool)
    outside[model.tokens] = False
    assert outside.any()
    assert (logits[0, outside] == -torch.inf).all()
    assert logits[0, model.tokens].isfinite().all()


@torch.inference_mode()
def test_a_node_is_refused_before_its_parent_was_read() -> None:
    over, model = parts()
    text = opened(over, model, TEXT)
    with pytest.raises(ModelError, match="after a pass has read its parent"):
        model.forward([Feed(text, TEXT, [17], [ROOT])])
    model.forward([Feed(text, TEXT)])
    with pytest.raises(ModelError, match="after a pass has read its parent"):
        model.forward([Feed(text, (), [17, 4], [ROOT, 0])])
    assert model.forward([Feed(text, (), [17], [ROOT])])[0].logits.shape == (1, over.vocab_size)
