"""Entries become token ids: windows, limits, conversations with and without a chat template."""

from __future__ import annotations

import pytest

from draftgraph.errors import OptionError
from draftgraph.lab.bench.encode import encode
from draftgraph.lab.bench.models import Models
from draftgraph.lab.bench.prompts import Entry, PromptFile
from models import plain, tiny_lm
from pairs import save_pair

TEMPLATE = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Models:
    return Models.load(*save_pair(tmp_path_factory.mktemp("pair")))


@pytest.fixture
def template(models, monkeypatch) -> None:
    monkeypatch.setattr(models.tokenizer, "chat_template", TEMPLATE, raising=False)


def file(*entries: Entry) -> PromptFile:
    return PromptFile("file", "form", entries, ())


def text(name: str, content: str, task: str = "t") -> Entry:
    return Entry(name, task, (content,), False)


def test_the_models_are_known(models):
    assert models.window == 256
    said = models.to_dict()
    assert (said["dtype"], said["device"]) == ("float32", "cpu")
    assert said["target_parameters"] == said["drafter_parameters"] > 0


def test_a_target_without_tokenizer_is_refused(tmp_path):
    tiny_lm().save_pretrained(tmp_path)
    with pytest.raises(OptionError, match="no tokenizer files"):
        Models.load(tmp_path, None)


def test_beginnings_are_encoded_as_they_are(models):
    done = encode([file(text("a", "def f"), text("b", " x\n"))], models, 8, None)
    assert [prompt.ids for prompt in done.prompts] == [models.tokenizer(t)["input_ids"] for t in ("def f", " x\n")]
    assert (done.skipped, done.how) == ([], "")


def test_what_does_not_fit_is_named_and_gives_its_place_to_others(models):
    long = "x" * 250
    done = encode([file(*(text(str(i), long if i % 2 == 0 else "short") for i in range(6)))], models, 16, 2)
    assert [prompt.name for prompt in done.prompts] == ["1", "3"]
    assert done.skipped == [(str(i), "250 + 16 tokens exceed the context window of 256") for i in (0, 2, 4)]
    assert len(encode([file(text("a", "x" * 240))], models, 16, None).prompts) == 1


def test_without_a_template_first_turns_are_continued_as_texts(models):
    done = encode([file(Entry("a", "t", ("one", "two", "three"), True))], models, 8, None)
    assert [(p.name, p.turn, p.ids) for p in done.prompts] == [("a", 1, models.tokenizer("one")["input_ids"])]
    assert "no chat template" in done.how
    assert "2 later turns were left out" in done.how


def test_every_turn_lies_behind_the_targets_own_answers(models, template):
    done = encode([file(Entry("a", "t", ("one", "two", "three"), True), text("b", "raw"))], models, 8, None)
    assert [(p.name, p.turn) for p in done.prompts] == [("a", 1), ("a, turn 2", 2), ("a, turn 3", 3), ("b", 1)]
    first, second, third, raw = (prompt.ids for prompt in done.prompts)
    assert first == models.tokenizer("<u>one<a>")["input_ids"]
    answer = models.tokenizer.decode(plain(models.target, first, 8))
    assert second == models.tokenizer(f"<u>one<a>{answer}<u>two<a>")["input_ids"]
    assert third[: len(second)] == second
    assert raw == models.tokenizer("raw")["input_ids"]
    assert "1 conversations were laid out by the tokenizer's chat template" in done.how


def test_a_conversation_ends_where_the_window_does(models, template):
    done = encode([file(Entry("a", "t", ("one", "x" * 250, "three"), True))], models, 8, None)
    assert [prompt.name for prompt in done.prompts] == ["a"]
    assert [name for name, _ in done.skipped] == ["a, turn 2"]


def test_a_template_that_fails_is_told(models, monkeypatch):
    monkeypatch.setattr(models.tokenizer, "chat_template", "{{ raise_exception('no such role') }}", raising=False)
    with pytest.raises(OptionError, match=r"chat template cannot lay out 1 messages \(TemplateError: no such role\)"):
        encode([file(Entry("a", "t", ("one",), True))], models, 8, None)
