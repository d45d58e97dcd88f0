"""Training: what is measured is what a chain does; a killed run ends as one that was left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import draftgraph as dg
from draftgraph.backends.feature_files import packed
from draftgraph.lab.train.errors import TrainingError
from draftgraph.lab.train.features import loop, project
from draftgraph.lab.train.features.answers import Answer
from draftgraph.lab.train.features.batches import endless, grouped, make_batch
from draftgraph.lab.train.features.loop import Training
from draftgraph.lab.train.features.measure import acceptance
from draftgraph.lab.train.features.objective import loss
from draftgraph.lab.train.features.project import Project, Settings
from draftgraph.lab.train.features.reading import LiveReading
from draftgraph.lab.train.features.recipe import Recipe, Span
from draftgraph.lab.train.features.unroll import read_target, steps
from feature_drafters import tiny_net
from models import tiny_lm

TARGET_OPTIONS: dict[str, Any] = {"vocab": 24, "logit_gain": 1.5}
PROMPTS = [[1 + i % 20, 2 + i % 7] for i in range(60)]
SETTINGS = Settings(tokens=900, most=12, batch=4, head=20, rows=128, epochs=6.0)


def target() -> PreTrainedModel:
    return tiny_lm(**TARGET_OPTIONS).requires_grad_(False)


def some_answers(count: int, temperature: float = 1.0) -> list[Answer]:
    random = np.random.default_rng(0)
    return [Answer(random.integers(1, 24, 6 + i % 9).astype(np.int32), 3, temperature) for i in range(count)]


def test_groups_keep_to_their_rows_and_epochs_to_their_answers() -> None:
    answers = some_answers(50)
    for group in grouped(answers, 40):
        assert len(group) == 1 or len(group) * max(len(a.ids) for a in group) <= 40
    groups = endless(answers, 40, seed=3)
    count = len(grouped(answers, 40))
    for _ in range(2):
        epoch = [answer for _ in range(count) for answer in next(groups)]
        assert {id(answer) for answer in epoch} == {id(answer) for answer in answers}
    later, again = endless(answers, 40, 3, start=5), endless(answers, 40, 3)
    for _ in range(5):
        next(again)
    assert [id(a) for a in next(later)] == [id(a) for a in next(again)]


def test_rows_that_are_learnt_lie_behind_the_first_answer_token() -> None:
    batch = make_batch([Answer(np.arange(1, 8, dtype=np.int32), 3, 0.0)], torch.device("cpu"))
    assert batch.rows(0).tolist() == [3, 4, 5]
    assert batch.rows(2).tolist() == [3]
    assert batch.rows(5).tolist() == []


def test_the_loss_is_the_divergence_from_the_target() -> None:
    """KL over the head, summed row by row from laws that are computed one text at a time."""
    over = target()
    net, tokens = tiny_net(over)
    answers = some_answers(4)
    head = net.head
    expected = torch.zeros(3)
    rows = torch.zeros(3)
    for answer in answers:
        ids = torch.from_numpy(answer.ids.astype(np.int64))[None]
        logits, features, embedded = read_target(over, ids, net.shape.taps)
        for step, output in enumerate(steps(net, features, embedded, 3)):
            for row in range(answer.prompt, ids.shape[1] - 1 - step):
                p = logits[0, row + step, tokens].softmax(-1)
                q = head(output[0, row]).softmax(-1)
                expected[step] += (p * (p / q).log()).sum()
                rows[step] += 1
    weights = torch.tensor([1.0, 0.8, 0.64])
    mean = (expected / rows * weights).sum() / weights.sum()
    batch = make_batch(answers, torch.device("cpu"))
    found = loss(net, LiveReading(over, head, net.shape.taps).read(answers, batch), batch, 3)
    assert found.item() == pytest.approx(mean.item(), rel=1e-4)


def test_acceptance_is_what_a_chain_of_the_engine_gets(tmp_path: Path) -> None:
    """Measured along the target's own texts, and then by drafting at every position of them."""
    over = tiny_lm(vocab=24, logit_gain=0.7).requires_grad_(False)
    net, tokens = tiny_net(over)
    engine = dg.Engine.from_pretrained(over, budget=0)
    texts = [engine.generate([3, 1], max_new_tokens=100, temperature=t, seed=s) for s in range(4) for t in (0.0, 1.0)]
    answers = [
        Answer(np.array([3, 1, *text.token_ids], dtype=np.int32), 2, (0.0, 1.0)[i % 2]) for i, text in enumerate(texts)
    ]
    found = acceptance(net, over, tokens, answers, 512, depth=2)
    folder = tmp_path / "drafter"
    folder.mkdir()
    for name, content in packed(net, tokens, over, torch.float32).items():
        (folder / name).write_bytes(content)
    drafting = dg.Engine.from_pretrained(over, draft_model=folder, structure="chain", budget=1, rule="token")
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        rounds = [
            record
            for seed in range(10 if temperature else 1)
            for record in drafting.generate([3, 1], max_new_tokens=100, temperature=temperature, seed=seed).rounds
            if record.tokens
        ]
        rate = sum(len(record.path) for record in rounds) / len(rounds)
        assert found[name].by_position[0] == pytest.approx(rate, abs=0.1)


def a_project(folder: Path) -> tuple[Project, Callable[[], dict[str, Any]]]:
    training = Project(folder / "drafter", SETTINGS)

    def run() -> dict[str, Any]:
        training.begin()
        over = target()
        return training.train(over, training.answers(over, training.prompts(lambda: PROMPTS), []))

    return training, run


def dying_after(count: int, work: Callable[..., Any]) -> Callable[..., Any]:
    """What works so many times, and is then interrupted."""
    calls: list[int] = []

    def dies(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt
        return work(*arguments)

    return dies


def timeless(card: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in card.items() if name != "seconds"}


def test_a_killed_run_ends_as_one_that_was_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, run_left = a_project(tmp_path / "left")
    card = run_left()
    killed, run_killed = a_project(tmp_path / "killed")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    for where, name, count in ((project, "write_answers", 2), (Training, "_update", 4), (Training, "_update", 4)):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, dying_after(count, getattr(where, name)))
            with pytest.raises(KeyboardInterrupt):
                run_killed()
    assert (killed.work / "training.pt").exists()
    assert timeless(run_killed()) == timeless(card)
    assert not (killed.work / "states").exists()
    for name in ("config.json", "model.safetensors"):
        assert (killed.out / name).read_bytes() == (left.out / name).read_bytes()
    assert json.loads((killed.out / "card.json").read_text())["held_out"] == card["held_out"]


def test_training_improves_what_is_held_out(tmp_path: Path) -> None:
    over = target()
    training = Project(tmp_path / "drafter", SETTINGS)
    answers = training.answers(over, PROMPTS, [])
    net, tokens = tiny_net(over)
    before = acceptance(net, over, tokens, answers, 512)["sampled"].predicted
    trained = Training(net.train().requires_grad_(True), over, tokens, answers, answers, Recipe(rows=256, peak=5e-3, patience=99),
                       Span(updates=90), tmp_path / "state.pt")  # fmt: skip
    trained.run()
    assert acceptance(net, over, tokens, answers, 512)["sampled"].predicted > before + 0.15


def test_other_settings_do_not_go_on(tmp_path: Path) -> None:
    Project(tmp_path / "drafter", SETTINGS).begin()
    Project(tmp_path / "drafter", SETTINGS).begin()
    with pytest.raises(TrainingError, match="begun with other settings"):
        Project(tmp_path / "drafter", Settings()).begin()


def test_too_few_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="1 answers leave"):
        Project(tmp_path / "drafter", SETTINGS).train(target(), some_answers(1))


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    over = target()
    net, tokens = tiny_net(over)
    (tmp_path / "state.pt").write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match=r"state\.pt is broken"):
        Training(net, over, tokens, [], [], Recipe(), Span(updates=1), tmp_path / "state.pt")
