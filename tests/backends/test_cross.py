"""GliDe's cross attention: which keys of the target a row reads, in training and in drafts."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from draftgraph.backends.base import Feed
from draftgraph.backends.cross import CROSS, TOKENS, CrossNet
from draftgraph.backends.feature_model import FeatureModel
from draftgraph.backends.ragged_probe import attends_apart
from draftgraph.backends.torch_model import TorchModel
from draftgraph.errors import ModelError
from draftgraph.lab.train.features.unroll import read_target, steps
from draftgraph.types import ROOT
from feature_drafters import tiny_form
from models import tiny_lm

TEXT = [5, 9, 3, 40, 7, 2, 11, 30, 8, 21, 6, 1, 19]
BLOCK = 5


def parts(name: str = CROSS) -> tuple[PreTrainedModel, CrossNet]:
    over = tiny_lm(layers=3).requires_grad_(False)
    net, _ = tiny_form((name, "one"), over)
    assert isinstance(net, CrossNet)
    return over, net


def test_a_row_reads_the_targets_keys_of_earlier_blocks_alone() -> None:
    """The gradient of row i with respect to the target's keys and values of token j: zero unless block(j) < block(i)."""
    over, net = parts()
    _, features, embedded = read_target(over, torch.tensor([TEXT]), net.shape.taps)
    features = features.requires_grad_(True)
    (output,) = steps(net, features, embedded, 1, block=BLOCK)
    for i in range(len(TEXT)):
        (gradient,) = torch.autograd.grad(output[0, i].square().sum(), features, retain_graph=True)
        for part in gradient[0].chunk(2, dim=-1):  # keys, values
            read = [j for j in range(len(TEXT)) if bool((part[j] != 0).any())]
            assert read == list(range(i // BLOCK * BLOCK))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_drafted_rows_read_the_text_before_the_last_committed_token(depth: int) -> None:
    over, net = parts()
    _, features, embedded = read_target(over, torch.tensor([TEXT]), net.shape.taps)
    features = features.requires_grad_(True)
    output = steps(net, features, embedded, depth + 1)[depth]
    root = 6
    (gradient,) = torch.autograd.grad(output[0, root].square().sum(), features)
    assert [j for j in range(len(TEXT)) if bool((gradient[0, j] != 0).any())] == list(range(root))


def test_one_pass_in_blocks_is_the_steps_of_drafts() -> None:
    over, net = parts()
    _, features, embedded = read_target(over, torch.tensor([TEXT]), net.shape.taps)
    (whole,) = steps(net, features, embedded, 1, block=BLOCK)
    one_by_one = steps(net, features, embedded, BLOCK)
    for i in range(len(TEXT)):
        root, step = i // BLOCK * BLOCK, i % BLOCK
        torch.testing.assert_close(whole[0, i], one_by_one[step][0, root], atol=1e-4, rtol=1e-4)


def test_without_cross_attention_it_is_the_plain_drafter() -> None:
    over, net = parts()
    _, cut = parts(TOKENS)
    kept = {name: weight for name, weight in net.state_dict().items() if name in cut.state_dict()}
    cut.load_state_dict(kept)
    _, features, embedded = read_target(over, torch.tensor([TEXT]), net.shape.taps)
    plain = steps(cut, features, embedded, 3)
    torch.testing.assert_close(plain, steps(cut, 5 * features, embedded, 3))
    assert not torch.allclose(plain[2], steps(net, features, embedded, 3)[2], atol=1e-2)
    torch.testing.assert_close(plain, steps(net, torch.zeros_like(features), embedded, 3))
    torch.nn.init.zeros_(net.core.model.layers[1].out.weight)
    torch.testing.assert_close(plain, steps(net, features, embedded, 3))


@torch.inference_mode()
def test_a_request_does_not_read_the_keys_of_another() -> None:
    over, net = parts()
    target = TorchModel(over)
    model = FeatureModel(net, torch.arange(net.shape.tokens), over.get_input_embeddings())
    features = read_target(over, torch.tensor([TEXT]), model.taps)[1][0]

    def drafted(company: bool) -> torch.Tensor:
        text, other = model.open(0), model.open(0)
        text.learn(features[: len(TEXT) - 1])
        other.learn(7 * features[:4])
        first = [Feed(text, TEXT), Feed(other, TEXT[:3])] if company else [Feed(text, TEXT)]
        model.forward(first)
        second = [Feed(text, (), [17], [ROOT]), Feed(other, TEXT[3:5])] if company else [Feed(text, (), [17], [ROOT])]
        logits = model.forward(second)[0].logits
        for handle in (text, other):
            model.close(handle)
        return logits

    torch.testing.assert_close(drafted(True), drafted(False), atol=1e-4, rtol=1e-4)
    lonely = [model.open(0), model.open(0)]  # a first token reads no keys, whatever lies in other cells
    lonely[1].learn(features[:9])
    alone = model.forward([Feed(lonely[0], [4])])[0].logits
    model.close(lonely[0])
    again = model.open(0)
    torch.testing.assert_close(model.forward([Feed(lonely[1], TEXT[:9]), Feed(again, [4])])[1].logits, alone)
    assert target.vocab_size == alone.shape[-1]


@pytest.mark.parametrize("family", ["gpt2", "phi", "opt", "gptj"])
def test_targets_that_do_not_turn_whole_queries_are_refused(family: str) -> None:
    with pytest.raises(ModelError, match=f"model_type='{family}' does not turn whole queries by their position alone"):
        tiny_form((CROSS, "one"), tiny_lm(family, layers=3))


@torch.inference_mode()
def test_its_rows_do_not_attend_request_by_request() -> None:
    """That way shows no row which cells it may read."""
    over, net = parts()
    model = FeatureModel(net, torch.arange(net.shape.tokens), over.get_input_embeddings())
    assert not attends_apart(model)
