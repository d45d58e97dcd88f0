"""Answers by our own engine: those of the target alone, whoever else is in the batch, and by every temperature's law."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import draftgraph as dg
from draftgraph.engine.scheduler import Scheduler
from draftgraph.lab.train.features.answering import answer_with, answering
from draftgraph.lab.train.features.answers import read_answers
from draftgraph.lab.train.features.generate import answer_all
from draftgraph.lab.train.features.project import Project, Settings
from models import tiny_lm

PROMPTS = [[3, 1, 4, 1, 5, 9], [2, 6], [5, 3, 5, 8, 9, 7, 9, 3, 2], [3, 8, 4]]


def test_greedy_answers_are_those_of_the_padded_loop_up_to_their_end() -> None:
    model = tiny_lm().requires_grad_(False)
    asked = [(prompt, 0.0) for prompt in PROMPTS]
    whole = answer_all(model, asked, 20, [], captured=False)
    eos = [int(whole[0].ids[-6]), int(whole[2].ids[-3])]
    expected = answer_all(model, asked, 20, eos, captured=False)
    answer = answering(model, None, 20, eos, {})
    for found, said in zip(answer(asked, 7), expected, strict=True):
        assert (found.ids.tolist(), found.prompt, found.temperature) == (said.ids.tolist(), said.prompt, 0.0)


def test_the_models_own_ends_do_not_count_where_others_are_named() -> None:
    model = tiny_lm().requires_grad_(False)
    (free,) = answering(model, None, 12, [], {})([(PROMPTS[0], 0.0)], 0)
    model.generation_config.eos_token_id = int(free.ids[8])
    (again,) = answering(model, None, 12, [], {})([(PROMPTS[0], 0.0)], 0)
    assert again.ids.tolist() == free.ids.tolist()


def test_answers_to_one_prompt_differ_and_a_seed_gives_them_again() -> None:
    answer = answering(tiny_lm(logit_gain=0.5), None, 8, [], {})
    asked = [(PROMPTS[0], 1.0)] * 6
    first, second, other = answer(asked, 1), answer(asked, 1), answer(asked, 2)
    texts = [tuple(one.ids) for one in first]
    assert len(set(texts)) == 6
    assert texts == [tuple(one.ids) for one in second]
    assert not set(texts) & {tuple(one.ids) for one in other}


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_tokens_have_the_law_of_their_temperature(temperature: float) -> None:
    model = tiny_lm(vocab=12, logit_gain=1.0)
    engine = dg.Engine.from_pretrained(model, budget=0)
    count = 1500
    found = answer_with(engine, [([1, 2], temperature)] * count, 1, [], 5)
    said = Counter(int(one.ids[2]) for one in found)
    law = (model(input_ids=torch.tensor([[1, 2]])).logits[0, -1].float() / temperature).softmax(-1)
    for token, chance in enumerate(law.tolist()):
        assert abs(said[token] / count - chance) < 4.5 * (chance * (1 - chance) / count) ** 0.5 + 1e-3


def test_a_project_asks_at_the_temperatures_that_were_named(tmp_path: Path) -> None:
    settings = Settings(tokens=60, most=5, batch=1, temperatures=(0.3, 0.9))
    found = Project(tmp_path / "drafter", settings).answers(tiny_lm(), PROMPTS, [])
    assert {answer.temperature for answer in found} == {0.3, 0.9}
    files = sorted((tmp_path / ".drafter-training" / "answers").iterdir())
    assert len(files) == 3
    assert [a.ids.tolist() for a in read_answers(files)] == [a.ids.tolist() for a in found]
    assert "temperatures" not in Settings().to_json()


def test_as_many_are_answered_at_once_as_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny_lm().requires_grad_(False), []
    whole = answering(model, None, 6, [], {})([(prompt, 0.0) for prompt in PROMPTS], 3)
    step = Scheduler.step

    def watched(self: Scheduler) -> Any:
        done = step(self)
        seen.append(len(self.running))
        return done

    monkeypatch.setattr(Scheduler, "step", watched)
    few = answering(model, None, 6, [], {}, batch=2)([(prompt, 0.0) for prompt in PROMPTS], 3)
    assert max(seen) == 2
    assert [answer.ids.tolist() for answer in few] == [answer.ids.tolist() for answer in whole]
