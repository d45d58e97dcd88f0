"""Training of drafters that read the text alone: what is learnt, what a card says, what the command refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Beta as TrueBeta
from typer.testing import CliRunner

import draftgraph as dg
from draftgraph.backends.features import FeatureShape
from draftgraph.cli.program import app
from draftgraph.errors import ModelError
from draftgraph.lab.train.features import loop, stored
from draftgraph.lab.train.features.answers import Answer
from draftgraph.lab.train.features.batches import make_batch
from draftgraph.lab.train.features.confidence import Beta, Mixture, fit, labelled
from draftgraph.lab.train.features.loop import Training
from draftgraph.lab.train.features.masked import chosen, masked_loss
from draftgraph.lab.train.features.measure import acceptance
from draftgraph.lab.train.features.networks import NETWORKS, Sizes, network_of
from draftgraph.lab.train.features.project import Project, Settings
from draftgraph.lab.train.features.recipe import Recipe, Span
from draftgraph.lab.train.features.unroll import Read, entries_of, read_target
from draftgraph.verification.published.confidence import ConfidenceRule
from models import tiny_lm
from text_drafters import tiny_exit, tiny_masked, write_exit

PROMPTS = [[1 + i % 20, 2 + i % 7] for i in range(60)]
SETTINGS = Settings(tokens=700, most=12, batch=4, head=20, rows=128, epochs=4.0)
NAMES = ("exit", "specdec", "specdiff")


def target() -> Any:
    return tiny_lm(vocab=24, logit_gain=1.5, layers=4).requires_grad_(False)


@cache
def answers() -> list[Answer]:
    """What the target says, which no network changes."""
    with TemporaryDirectory() as folder:
        return Project(Path(folder) / "drafter", replace(SETTINGS, tokens=900)).answers(target(), PROMPTS, [])


def some_answers(count: int) -> list[Answer]:
    random = np.random.default_rng(0)
    return [Answer(random.integers(1, 24, 9 + i % 9).astype(np.int32), 3, 1.0) for i in range(count)]


@pytest.mark.parametrize("name", NAMES)
def test_training_improves_what_is_held_out(name: str, tmp_path: Path) -> None:
    over, given = target(), answers()
    network = network_of(name, Sizes(slots=None if name == "exit" else 3))
    torch.manual_seed(0)
    net: Any = network.make(FeatureShape(32, (), 24), over.config)
    tokens = torch.arange(24)
    net.start_from(over, tokens)
    before = acceptance(net.eval(), over, tokens, given, 512)["sampled"].predicted
    recipe = Recipe(rows=256, peak=1e-2, patience=99, stages=network.stages, objective=network.objective)
    Training(net, over, tokens, given, given, recipe, Span(updates=40), tmp_path / "state.pt").run()
    after = acceptance(net.eval(), over, tokens, given, 512)["sampled"]
    assert after.predicted > before + 0.1
    if name != "exit":
        assert after.kept[3:] == (0.0, 0.0)  # a block of three speaks of no fourth token


def test_what_a_block_learns_is_the_divergence_of_its_masked_slots() -> None:
    """Summed block by block and slot by slot from rows of single texts."""
    over = target()
    net, tokens = tiny_masked(over, slots=3)
    batch = make_batch(some_answers(4), torch.device("cpu"))
    read = Read(*read_target(over, batch.tokens, ()))
    head = Read(read.logits[..., tokens], read.features, read.embedded)
    entries = entries_of(tokens, 24)
    for revealed in (0.0, 0.6):
        roots, known = chosen(batch, 3, revealed)
        assert bool(known.any()) is (revealed > 0)
        total, weights = 0.0, 0.0
        for slot in range(3):
            values = []
            for text in range(4):
                outputs = net.blocks(read.embedded[text : text + 1], roots, known[text : text + 1])[0]
                for block, root in enumerate(roots.tolist()):
                    row = root + slot
                    last = row >= batch.tokens.shape[1] or not batch.learnt[text, root] or not batch.learnt[text, row]
                    if last or bool(known[text, block, slot]):
                        continue
                    q = net.logits(outputs[block, slot]).log_softmax(-1)
                    p = head.logits[text, row].log_softmax(-1)
                    said = int(entries[batch.tokens[text, row + 1]])
                    if not bool(known[text, block].any()):
                        values.append(float((p.exp() * (p - q)).sum()))
                    elif said >= 0:
                        values.append(float(-q[said]))
            total += 0.8**slot * sum(values) / max(1, len(values))
            weights += 0.8**slot
        found = masked_loss(net, head, batch, revealed, entries)
        assert found.item() == pytest.approx(total / weights, rel=1e-4)
        assert (
            masked_loss(net, head, batch, revealed, entries).item() == found.item()
        )  # the same again: runs are resumed


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_folder_drafts(name: str, tmp_path: Path) -> None:
    over = target()
    training = Project(tmp_path / "drafter", replace(SETTINGS, network=name))
    training.begin()
    card = training.train(over, answers())
    assert card["settings"]["network"] == name
    plain, drafted = (
        dg.Engine.from_pretrained(over, draft_model=folder, budget=4 if folder else 0)
        for folder in (None, training.out)
    )
    asked: dict[str, Any] = {"max_new_tokens": 30, "temperature": 0.0}
    result = drafted.generate([3, 1], **asked)
    assert result.token_ids == plain.generate([3, 1], **asked).token_ids
    assert result.stats.num_accepted_tokens > 0
    assert ("confidence" in card) is (name == "exit")
    if name == "exit":
        rule = ConfidenceRule(card["confidence"]["threshold"])
        trusting = dg.Engine.from_pretrained(over, draft_model=training.out, rule=rule, budget=4)
        assert not trusting.generate([3, 1], **asked).stats.lossless


@pytest.mark.parametrize("name", ["specdec", "specdiff"])
def test_a_killed_training_of_blocks_ends_as_one_that_was_left_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it reads the target and twice while it learns; blocks and given tokens are chosen as they would have been."""
    over, answers = target(), some_answers(70)
    settings = replace(SETTINGS, network=name, epochs=2.0, rows=64)
    left, killed = (Project(tmp_path / folder / "drafter", settings) for folder in ("left", "killed"))
    left.train(over, answers)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(stored, "PART_ROWS", 100)
    for where, what, count in ((stored, "write_bytes", 3), (Training, "_update", 3), (Training, "_update", 4)):
        with monkeypatch.context() as patch:
            patch.setattr(where, what, dying_after(count, getattr(where, what)))
            with pytest.raises(KeyboardInterrupt):
                killed.train(over, answers)
    assert (killed.work / "states").exists()
    killed.train(over, answers)
    for file in ("config.json", "model.safetensors"):
        assert (killed.out / file).read_bytes() == (left.out / file).read_bytes()


def dying_after(count: int, work: Callable[..., Any]) -> Callable[..., Any]:
    """What works so many times, and is then interrupted."""
    calls: list[int] = []

    def dies(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt
        return work(*arguments)

    return dies


@pytest.mark.parametrize("name", NAMES)
def test_targets_in_bfloat16_are_trained_for(name: str, tmp_path: Path) -> None:
    over = target().to(torch.bfloat16)
    training = Project(tmp_path / "drafter", replace(SETTINGS, network=name, epochs=1.0))
    training.begin()
    training.refuse_unfit(over)
    training.train(over, some_answers(70))
    result = dg.Engine.from_pretrained(target(), draft_model=training.out, budget=4).generate([3, 1], max_new_tokens=9)
    assert result.stats.num_draft_tokens > 0


def test_an_exit_that_a_target_does_not_have_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    training = Project(tmp_path / "drafter", replace(SETTINGS, network="exit", layer=4))
    with pytest.raises(ModelError, match="has 4 layers, so that an exit after 4 is not possible; write 1 to 3"):
        training.refuse_unfit(target())


def test_sizes_that_were_asked_for_are_those_of_the_network() -> None:
    config = target().config
    shape = FeatureShape(32, (), 24)
    assert network_of("exit", Sizes(layer=3)).make(shape, config).shape.layer == 3  # type: ignore[attr-defined]
    assert network_of("exit", Sizes()).make(shape, config).shape.layer == 2  # type: ignore[attr-defined]
    made: Any = network_of("specdiff", Sizes(slots=7, passes=3)).make(shape, config)
    assert (made.shape.slots, made.shape.passes, made.queries.shape) == (7, 3, (7, 32))
    assert network_of("specdec", Sizes()).make(shape, config).shape.passes == 1  # type: ignore[attr-defined]
    assert network_of("own", Sizes()) is NETWORKS["own"]


def test_settings_without_sizes_are_written_as_before() -> None:
    assert "layer" not in json.loads(SETTINGS.to_json())
    assert json.loads(replace(SETTINGS, network="exit", layer=2).to_json())["layer"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--exit-layer", "2"], "--exit-layer 2 is for --network exit, and own was asked for; leave it out"),
        (["--network", "exit", "--slots", "4"], "--slots 4 is for --network specdec or specdiff, and exit"),
        (["--network", "specdec", "--passes", "2"], "--passes 2 is for --network specdiff, and specdec"),
        (["--network", "specdiff", "--passes", "6"], "--passes 6 fill 5 slots"),
        (["--network", "early"], "one of own, .*exit, specdec, specdiff"),
    ],
)
def test_options_of_other_networks_are_refused(options: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "nowhere", "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 2
    assert re.search(message, " ".join(result.output.split()))


# Thresholds.


@pytest.mark.parametrize(
    ("agree", "differ", "share"),
    [((8, 2), (2, 4), 0.6), ((20, 2), (2, 2), 0.7), ((5, 1), (1, 3), 0.5), ((3, 1.2), (1.2, 2.5), 0.8)],
)
def test_the_threshold_that_is_right_most_often_is_recovered(
    agree: tuple[float, float], differ: tuple[float, float], share: float
) -> None:
    torch.manual_seed(0)
    count = 3000
    right = int(share * count)
    values = torch.cat([TrueBeta(*agree).sample((right,)), TrueBeta(*differ).sample((count - right,))])  # type: ignore[no-untyped-call]
    found = fit(values, torch.arange(count) < right)
    assert found is not None
    places = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    above = TrueBeta(*map(float, agree)).log_prob(places).exp() * share  # type: ignore[no-untyped-call]
    below = TrueBeta(*map(float, differ)).log_prob(places).exp() * (1 - share)  # type: ignore[no-untyped-call]
    # right calls at threshold t: agreement above it, disagreement up to it
    calls = (above.sum() - above.cumsum(0)) + below.cumsum(0)
    assert found.threshold == pytest.approx(float(places[calls.argmax()]), abs=0.05)


def test_thresholds_of_labels_that_say_nothing() -> None:
    same = torch.full((60,), 0.5)
    assert fit(same, torch.ones(60, dtype=torch.bool)) is None
    assert fit(same[:9], torch.arange(9) < 4) is None
    degenerate = fit(same, torch.arange(60) < 20)
    assert degenerate is not None
    assert 0.0 <= degenerate.threshold <= 1.0
    apart = fit(torch.cat([torch.ones(50), torch.zeros(50)]), torch.arange(100) < 50)
    assert apart is not None
    assert 0.2 < apart.threshold < 0.8
    assert Mixture(Beta(2, 2), Beta(2, 2), 0.3).threshold == 1.0  # trust nothing
    assert Mixture(Beta(2, 2), Beta(2, 2), 0.7).threshold == 0.0


def test_an_exits_confidence_is_that_of_the_engine(tmp_path: Path) -> None:
    """What thresholds are fitted to is what the rule reads."""
    over = target()
    net, tokens = tiny_exit(over)
    text = [3, 1, 7, 2, 9]
    answer = Answer(np.array([*text, 4, 4], dtype=np.int32), 4, 0.0)
    confidences, agreed = labelled(net, over, tokens, [answer], 64)
    seen: list[Any] = []

    class Listening(ConfidenceRule):
        def chances(self, tree: Any, p: torch.Tensor) -> list[float]:
            seen.append((tree.tokens, tree.confidence, int(p[0].argmax())))
            return super().chances(tree, p)

    engine = dg.Engine.from_pretrained(
        over, draft_model=write_exit(tmp_path, over), rule=Listening(1.0), structure="chain", budget=1
    )
    engine.generate(text, max_new_tokens=3, temperature=0.0)
    drafted, confidence, choice = next(each for each in seen if len(each[0]))
    assert confidence[0] == pytest.approx(float(confidences[0]), rel=1e-3)
    assert (drafted[0] == choice) is bool(agreed[0])
