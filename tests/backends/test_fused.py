"""What tells the networks of the papers apart: gates, halves, tri-grams, heads by depth."""

from __future__ import annotations

import pytest
import torch

from draftgraph.backends.base import Feed
from draftgraph.backends.feature_model import FeatureModel
from draftgraph.backends.fused import FusedNet
from draftgraph.backends.fusion import TokenGated, TokenMlp
from draftgraph.backends.heads import DEPTHS
from draftgraph.backends.torch_model import TorchModel
from draftgraph.lab.train.features.batches import Batch
from draftgraph.lab.train.features.objective import loss
from draftgraph.lab.train.features.reading import LiveReading
from draftgraph.lab.train.features.recipe import Objective
from draftgraph.lab.train.features.unroll import read_target, steps
from draftgraph.types import ROOT
from feature_drafters import FORMS, tiny_form
from models import tiny_lm

TEXT = [5, 9, 3, 40, 7, 2, 11, 30, 8, 21]


def net_of(kind: str) -> FusedNet:
    net, _ = tiny_form(FORMS[kind], tiny_lm(layers=4))
    assert isinstance(net, FusedNet)
    return net


def some(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def outputs_of(net: FusedNet, count: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Of steps over a text, and the target's features."""
    _, features, embedded = read_target(tiny_lm(layers=4), torch.tensor([TEXT]), net.shape.taps)
    return steps(net, features, embedded, count), features


def test_the_gate_hears_the_token_alone() -> None:
    fusion = net_of("FSPAD").fusion
    assert isinstance(fusion, TokenGated)
    tokens, feature = some(3, 32).requires_grad_(True), some(3, 32, 1)
    gates = fusion.gates(tokens)
    assert not torch.allclose(gates[0], gates[1])
    opened = fusion(tokens, feature) - fusion.both(torch.cat([tokens, feature], dim=-1))
    value = fusion.up(fusion.norm(fusion.both(torch.cat([tokens, feature], dim=-1))))
    torch.testing.assert_close(opened, fusion.down(gates * value))
    torch.nn.init.constant_(fusion.gate.weight, 0.0)  # silu(0) = 0: a shut gate leaves the linear fusion
    torch.testing.assert_close(fusion(tokens, feature), fusion.both(torch.cat([tokens, feature], dim=-1)))


def test_the_token_guides_the_mlp_apart_from_the_sum() -> None:
    fusion = net_of("GRIFFIN").fusion
    assert isinstance(fusion, TokenMlp)
    tokens, feature = some(2, 32), some(2, 32, 1)
    joined = fusion.both(torch.cat([tokens, feature], dim=-1))
    units = torch.nn.functional.silu(fusion.up(torch.cat([fusion.norm(joined), tokens], dim=-1)))
    torch.testing.assert_close(fusion(tokens, feature), joined + fusion.down(units))


@pytest.mark.parametrize("kind", ["FSPAD", "GRIFFIN"])
def test_each_loss_reaches_its_half_alone(kind: str) -> None:
    over = tiny_lm(layers=4).requires_grad_(False)
    net = net_of(kind).requires_grad_(True)
    learnt = torch.ones(1, len(TEXT), dtype=torch.bool)
    batch = Batch(torch.tensor([TEXT]), learnt.clone(), torch.zeros(1))
    batch.learnt[:, -1] = False
    down = net.core.model.layers[0].mlp.down_proj
    for objective, reached in ((Objective(law=1.0), 1), (Objective(law=0.0, feature=1.0), 0)):
        net.zero_grad()
        read = LiveReading(over, net.head, net.shape.taps).read([], batch)
        loss(net, read, batch, 1, objective).backward()
        halves = down.weight.grad.chunk(2, dim=0)
        assert bool((halves[reached] != 0).any())
        assert bool((halves[1 - reached] == 0).all())


def test_the_row_below_reads_the_feature_half_and_the_head_the_other() -> None:
    net = net_of("FSPAD")
    states, embedded = some(2, 64), some(2, 32, 1)
    feature, logit = states[0, :32], states[0, 32:]
    torch.testing.assert_close(net.carried(states)[0], feature)
    torch.testing.assert_close(net.logits(states)[0], net.head(logit))
    other = torch.cat([states[:, :32], some(2, 32, 5)], dim=-1)
    torch.testing.assert_close(net.drafted(states, embedded), net.drafted(other, embedded))


@pytest.mark.parametrize("ago", [0, 1, 2])
def test_every_token_of_a_trigram_changes_the_first_logits(ago: int) -> None:
    over = TorchModel(tiny_lm(layers=4))
    net, tokens = tiny_form(FORMS["Chimera"], over.model)
    model = FeatureModel(net, tokens, over.model.get_input_embeddings())
    features = read_target(over.model, torch.tensor([TEXT]), model.taps)[1][0, :-1]

    def first_logits(text: list[int]) -> torch.Tensor:
        handle = model.open(0)
        handle.learn(features)  # those of the same text: tokens reach the logits by the tri-gram alone
        with torch.inference_mode():
            return model.forward([Feed(handle, text)])[0].logits[0][tokens]

    changed = list(TEXT)
    changed[-1 - ago] += 1
    assert not torch.allclose(first_logits(changed), first_logits(TEXT), atol=1e-3)
    far = list(TEXT)
    far[-4] += 1
    torch.testing.assert_close(first_logits(far), first_logits(TEXT))


def test_without_its_trigram_the_first_token_has_other_logits() -> None:
    net = net_of("Chimera")
    (before,), _ = outputs_of(net, 1)
    torch.nn.init.zeros_(net.fusion.project.weight)
    (after,), _ = outputs_of(net, 1)
    assert not torch.allclose(net.logits(before[0, -1]), net.logits(after[0, -1]), atol=1e-2)


def test_keys_are_made_of_features_and_queries_of_tokens() -> None:
    net = net_of("Chimera")
    attention = net.core.model.layers[0].self_attn
    both = some(2, 64)
    others = torch.cat([both[:, :32], some(2, 32, 9)], dim=-1)
    torch.testing.assert_close(attention.q_proj(both), attention.q_proj(others))
    assert not torch.allclose(attention.k_proj(both), attention.k_proj(others))
    turned = torch.cat([some(2, 32, 9), both[:, 32:]], dim=-1)
    torch.testing.assert_close(attention.v_proj(both), attention.v_proj(turned))


def test_heads_read_the_targets_feature_of_the_root_and_their_depth() -> None:
    net = net_of("Chimera")
    found, features = outputs_of(net, DEPTHS + 2)
    above = torch.nn.functional.pad(features[:, :-1], (0, 0, 1, 0))
    for depth, states in enumerate(found):
        torch.testing.assert_close(states[..., 32:64], above)  # row t of every step has the root t
        torch.testing.assert_close(states[..., 64], torch.full_like(states[..., 64], depth))
        read = torch.cat([states[0, -1, 32:64], states[0, -1, :32]])
        weight = net.heads.weight[min(depth, DEPTHS - 1)]
        torch.testing.assert_close(net.logits(states[0, -1]), weight @ read, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_branches_of_different_depths_have_their_own_heads() -> None:
    over = TorchModel(tiny_lm(layers=4))
    net, tokens = tiny_form(FORMS["Chimera"], over.model)
    model = FeatureModel(net, tokens, over.model.get_input_embeddings())
    text = model.open(0)
    text.learn(read_target(over.model, torch.tensor([TEXT]), model.taps)[1][0, :-1])
    model.forward([Feed(text, TEXT)])
    model.forward([Feed(text, (), [17, 4], [ROOT, ROOT])])
    model.forward([Feed(text, (), [33, 5], [0, 1])])
    assert [float(text.outputs[node][-1]) for node in (ROOT, 0, 1, 2, 3)] == [0, 1, 1, 2, 2]
    torch.testing.assert_close(text.outputs[3][32:64], text.outputs[ROOT][32:64])
