"""Which rows count, and what they are pulled to: masks by agreement, aligned features, the likeliest entries."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from draftgraph.backends.features import OwnNetwork
from draftgraph.lab.train.features.batches import Batch
from draftgraph.lab.train.features.objective import Read, counted, loss
from draftgraph.lab.train.features.reading import LiveReading
from draftgraph.lab.train.features.recipe import Objective
from draftgraph.lab.train.features.unroll import entries_of, read_target, steps, steps_of
from feature_drafters import FORMS, tiny_form
from models import tiny_lm

PASSES, AGREE, LENGTH = 4, 10, 40


def target() -> Any:
    return tiny_lm(vocab=24, logit_gain=1.5, layers=4).requires_grad_(False)


def network(kind: str, share: float = 0.8) -> tuple[OwnNetwork, torch.Tensor]:
    net, tokens = tiny_form(FORMS[kind], target(), share=share)
    return net.requires_grad_(True), entries_of(tokens, 24)


def batch() -> Batch:
    ids = torch.randint(0, 24, (2, LENGTH), generator=torch.Generator().manual_seed(4))
    learnt = torch.ones(2, LENGTH, dtype=torch.bool)
    learnt[:, :3] = learnt[:, -1] = learnt[1, 30:] = False
    return Batch(ids, learnt, torch.zeros(2))


def read(net: OwnNetwork, given: Batch) -> Read:
    return Read(*read_target(target(), given.tokens, net.shape.taps))


def read_part(net: OwnNetwork, given: Batch) -> Read:
    """Over the drafter's head."""
    return LiveReading(target(), net.head, net.shape.taps).read([], given)


@pytest.mark.parametrize("kind", ["GRIFFIN", "FSPAD", "Chimera"])
def test_a_pass_counts_where_the_text_was_among_the_likeliest_of_all_passes_before(kind: str) -> None:
    net, entries = network(kind)
    given = batch()
    found = counted(net, read(net, given), given, PASSES, Objective(agree=AGREE), entries)
    alive = set(given.rows(0).tolist())
    assert set(found[0][1].tolist()) == alive
    for step, (output, rows) in enumerate(found):
        kept = set(rows.tolist())
        assert kept == alive & set(given.rows(step).tolist())
        if step:  # by place in the text: the mask of a pass lies in the shifted mask of the one before
            before = {row + step - 1 for row in found[step - 1][1].tolist()}
            assert {row + step for row in kept} <= {place + 1 for place in before}
            assert len(kept) < len(found[step - 1][1])
        logits = net.logits(output.flatten(0, 1))
        said = entries[given.tokens.flatten().roll(-step - 1)]
        alive = {row for row in kept if said[row] in logits[row].topk(AGREE).indices}
    assert found[1][1].numel()


def test_rows_whose_draft_left_the_likeliest_get_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    net, entries = network("GRIFFIN")
    given = batch()
    outputs: list[torch.Tensor] = []

    def watched(*arguments: Any) -> list[torch.Tensor]:
        found = [output.detach().requires_grad_(True) for output in steps_of(*arguments)]
        outputs.extend(found)
        return found

    monkeypatch.setattr("draftgraph.lab.train.features.objective.steps_of", watched)
    objective = Objective(law=0.1, feature=1.0, best=0.5, agree=AGREE)
    loss(net, read_part(net, given), given, 3, objective, entries).backward()
    monkeypatch.undo()
    expected = counted(net, read(net, given), given, 3, objective, entries)
    for output, (_, rows) in zip(outputs, expected, strict=True):
        assert output.grad is not None
        touched = (output.grad.flatten(0, 1) != 0).any(dim=-1).nonzero()[:, 0]
        assert touched.tolist() == sorted(rows.tolist())
    assert len(expected[2][1]) < len(given.rows(2))


def test_without_a_mask_all_passes_count() -> None:
    net, entries = network("GRIFFIN")
    given = batch()
    for step, (_, rows) in enumerate(counted(net, read(net, given), given, 3, Objective(), entries)):
        assert rows.tolist() == given.rows(step).tolist()


def test_the_sum_has_every_part_with_its_weight() -> None:
    net, entries = network("FSPAD")
    given = batch()
    parts = [
        loss(net, read_part(net, given), given, 2, Objective(**part), entries).item()
        for part in ({"law": 1.0}, {"law": 0.0, "feature": 1.0}, {"law": 0.0, "best": 1.0})
    ]
    whole = loss(net, read_part(net, given), given, 2, Objective(law=0.1, feature=2.0, best=0.5), entries).item()
    assert whole == pytest.approx(0.1 * parts[0] + 2.0 * parts[1] + 0.5 * parts[2], rel=1e-5)


def test_features_are_pulled_to_those_of_the_token_that_the_row_reads() -> None:
    net, _ = network("FSPAD")
    given = batch()
    said = read(net, given)
    expected, count = torch.zeros(2), torch.zeros(2)
    for step, output in enumerate(steps(net, said.features, said.embedded, 2)):
        for row in given.rows(step).tolist():
            apart = (output.flatten(0, 1)[row, :32] - said.features.flatten(0, 1)[row + step]).abs()
            expected[step] += torch.where(apart < 1, apart**2 / 2, apart - 0.5).mean()
            count[step] += 1
    mean = (expected / count * torch.tensor([1.0, 0.8])).sum() / 1.8
    found = loss(net, read_part(net, given), given, 2, Objective(law=0.0, feature=1.0))
    assert found.item() == pytest.approx(mean.item(), rel=1e-4)


def test_blocks_learn_all_rows_in_one_pass() -> None:
    net, _ = network("GliDe")
    given = batch()
    ((output, rows),) = counted(net, read(net, given), given, 5, Objective(blocks=True), None)
    assert rows.tolist() == given.rows(0).tolist()
    said = read(net, given)
    torch.testing.assert_close(output, steps(net, said.features, said.embedded, 1, block=5)[0])
    assert not torch.allclose(output, steps(net, said.features, said.embedded, 1)[0], atol=1e-2)
