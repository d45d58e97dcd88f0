"""Prompts that a target writes itself: where it begins, where they end, what is no prompt, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from draftgraph.errors import OptionError
from draftgraph.lab.train.errors import TrainingError
from draftgraph.lab.train.features import own_prompts, project
from draftgraph.lab.train.features.answers import Answer
from draftgraph.lab.train.features.own_prompts import BEGINNINGS, BEGUN, Writing, bos_id, mixed, writing_of
from draftgraph.lab.train.features.project import Project, Settings
from models import byte_tokenizer, tiny_lm

MARKED = "{% for m in messages %}<u>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
WORDED = "{% for m in messages %}Q: {{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
EOS = 7


def tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    made = byte_tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<u>", "<end>", "<a>"]})
    made.chat_template = template
    return made


def ids(text: str, template: str = MARKED) -> list[int]:
    return list(tokenizer(template)(text, add_special_tokens=False)["input_ids"])


def written(writing: Writing, number: int, text: str, template: str = MARKED) -> Answer:
    opening = writing.openings[number % len(writing.openings)].ids
    return Answer(np.array([*opening, *ids(text, template)], dtype=np.int32), len(opening), 1.0)


def test_half_of_the_prompts_begin_with_nothing_and_the_others_as_common_tasks() -> None:
    writing = writing_of(tokenizer(MARKED), [EOS], None)
    count = 2 * len(BEGINNINGS)
    asked = writing.asked(0, 4 * count)
    begun = [tokenizer(MARKED).decode(opening) for opening, _ in asked[:count]]
    assert begun[::2] == ["<u>"] * len(BEGINNINGS)
    assert begun[1::2] == ["<u>" + said.rstrip(" ") for said in BEGINNINGS]
    for number in range(count):  # every beginning is asked at every temperature
        assert {at for opening, at in asked[number::count]} == set(own_prompts.TEMPERATURES)
    assert writing.asked(5, 3) == asked[5:8]


def test_a_prompt_ends_with_the_users_turn_and_is_laid_out_as_a_chat() -> None:
    writing = writing_of(tokenizer(MARKED), [EOS], None)
    assert writing.ends == {EOS, *ids("<end>")}
    texts = [" Where is the station?<end>", " the cat sat here<end>"]
    found = writing.prompts(0, [written(writing, i, text) for i, text in enumerate(texts)])
    assert found == [
        ids("<u>Where is the station?<end><a>"), ids(f"<u>{BEGINNINGS[0]}the cat sat here<end><a>")
    ]  # fmt: skip


def test_words_that_a_template_puts_after_the_users_end_a_prompt() -> None:
    writing = writing_of(tokenizer(WORDED), [EOS], None)
    assert writing.ends == {EOS}
    found = writing.prompts(0, [written(writing, 0, " Where is the station?\nA: There. Q:", WORDED)])
    assert found == [ids("Q: Where is the station?\nA:", WORDED)]


@pytest.mark.parametrize(
    "text",
    ["Where is the station, which", "<end>", "Hm?<end>", "12345678901234<end>", "Where is the \xe9"[:-1] + "<end>x"],
    ids=["no end", "empty", "short", "no letters", "goes on"],
)
def test_what_is_no_prompt_is_left_out(text: str) -> None:
    writing = writing_of(tokenizer(MARKED), [EOS], None)
    assert writing.prompts(0, [written(writing, 0, text)]) == []


def test_half_a_character_is_no_prompt() -> None:
    writing = writing_of(tokenizer(MARKED), [EOS], None)
    whole = written(writing, 0, "Where is the caf\xe9?<end>")
    assert len(writing.prompts(0, [whole])) == 1
    accent = whole.ids.tolist().index(ids("\xe9")[1])
    assert writing.prompts(0, [Answer(np.delete(whole.ids, accent), whole.prompt, 1.0)]) == []


def test_a_model_without_a_template_begins_texts() -> None:
    writing = writing_of(None, [EOS], 3)
    assert writing.most == BEGUN
    texts = [np.array(text, dtype=np.int32) for text in ([3, 5, 6], [3, 5, EOS])]
    assert writing.prompts(0, [Answer(text, 1, 1.0) for text in texts]) == [[3, 5, 6]]


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        (None, "neither a chat template nor a token that texts begin with"),
        ("{{ messages[1].content }}", "cannot lay out a question"),
        ("{{ raise_exception('only pairs') }}", "cannot lay out a question"),
        ("hello", "does not show a user's words once"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "does not show a user's words once"),
        ("{{ messages[0].content | lower }}", "does not show a user's words once"),
    ],
)
def test_a_target_that_cannot_begin_is_refused(template: str | None, cause: str) -> None:
    with pytest.raises(OptionError, match=cause):
        writing_of(tokenizer(template), [EOS], None)


def test_texts_begin_with_what_the_target_says_first() -> None:
    model, spoken = tiny_lm(), tokenizer(None)
    assert bos_id(model, spoken) is None
    spoken.bos_token = "<a>"
    assert bos_id(model, spoken) == spoken.bos_token_id
    model.config.bos_token_id = 5
    assert bos_id(model, spoken) == 5


def test_prompts_are_mixed_once_by_a_seed() -> None:
    given, own = [[1], [2], [3]], [[3], [4], [5], [6]]
    assert sorted(mixed(given, own, 0)) == [[1], [2], [3], [4], [5], [6]]
    assert mixed(given, own, 0) == mixed(given, own, 0) != mixed(given, own, 1)


SETTINGS = Settings(batch=4, own_prompts=20)


def test_a_killed_run_writes_the_same_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, writing = tiny_lm(logit_gain=1.0), writing_of(None, [EOS], 3)
    whole = Project(tmp_path / "a", SETTINGS).own_prompts(model, writing)
    assert len(set(map(tuple, whole))) == len(whole) == 20
    write, files = project.write_answers, []

    def dies(file: Path, answers: Sequence[Answer]) -> None:
        files.append(file)
        if len(files) == 2:
            raise KeyboardInterrupt
        write(file, answers)

    monkeypatch.setattr(project, "write_answers", dies)
    with pytest.raises(KeyboardInterrupt):
        Project(tmp_path / "b", SETTINGS).own_prompts(model, writing)
    assert Project(tmp_path / "b", SETTINGS).own_prompts(model, writing) == whole
    assert len(set(files)) < len(files)  # the second one again, the first one not
    assert files.count(files[0]) == 1


def test_a_target_that_repeats_itself_is_named(tmp_path: Path) -> None:
    def same(opening: Any, ids: Sequence[int]) -> list[int]:
        return [1, 2]

    writing = writing_of(None, [EOS], 3)
    writing = Writing(writing.openings, 2, [EOS], same)
    with pytest.raises(TrainingError, match=r"1 different prompts, and 20 were asked for; write --own-prompts 1"):
        Project(tmp_path / "a", SETTINGS).own_prompts(tiny_lm(), writing)
    assert len(list((tmp_path / ".a-training" / "asked").iterdir())) == 1 + project.BARREN


def test_a_target_that_writes_no_prompt_at_all_is_not_asked_for_one(tmp_path: Path) -> None:
    writing = Writing(writing_of(None, [EOS], 3).openings, 2, [EOS], lambda opening, ids: None)
    with pytest.raises(TrainingError, match=r"0 different prompts, and 20 were asked for; give some with --prompts"):
        Project(tmp_path / "a", SETTINGS).own_prompts(tiny_lm(), writing)
