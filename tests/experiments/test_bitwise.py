"""Bit for bit: what is compared, and what an earlier run has found is not measured again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from experiments import bitwise
from published import read_quick


@dataclass
class Said:
    """What a result says."""

    token_ids: list[int]
    logprobs: list[float]
    stats: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(num_rounds=2))


def row() -> bitwise.Row:
    return bitwise.Row(bitwise.BUNDLED, "bf16", 1, "greedy", "chain of 6", 256)


def test_a_token_counts_up_to_the_first_difference_of_its_text():
    found = row()
    found.enter(Said([1, 2, 3], [-0.5, -0.25, -0.1]), Said([1, 2, 3], [-0.5, -0.25, -0.1]))
    assert (found.texts, found.other, found.tokens, found.bits) == (1, 0, 3, 0)
    found.enter(Said([1, 2, 3], [-0.5, -0.25, -0.1]), Said([1, 9, 3], [-0.5 + 1e-7, -0.5, -0.1]))
    assert (found.texts, found.other, found.tokens, found.bits) == (2, 1, 4, 1)
    assert found.largest == pytest.approx(1e-7)


def test_rows_that_were_measured_with_as_many_tokens_are_kept(tmp_path, monkeypatch, capsys):
    measured = []

    def measure(rows, source, data):
        measured.append([each.way for each in rows])
        for each in rows:
            each.texts = each.rounds = 2

    monkeypatch.setattr(bitwise, "measure", measure)
    bitwise.main(["--quick", "--out", str(tmp_path)])
    assert measured == [[*bitwise.WAYS]] * 2
    found = read_quick(tmp_path, "bitwise")
    assert {(each["mode"], each["sampling"]) for each in found["rows"]} == {("bf16", "greedy"), ("bf16", "T=1, seeded")}
    assert "0 tokens were compared" in capsys.readouterr().out

    file = tmp_path / "bitwise-quick.json"
    kept = json.loads(file.read_text(encoding="utf-8"))
    kept["rows"] = [each for each in kept["rows"] if each["way"] != "chain of 6"]
    file.write_text(json.dumps(kept), encoding="utf-8")
    bitwise.main(["--quick", "--out", str(tmp_path)])
    assert measured[2:] == [["chain of 6"]] * 2


def test_contexts_and_threads_are_chosen_and_told_apart(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(bitwise, "measure", lambda rows, source, data: measured.extend(rows))
    monkeypatch.setattr(bitwise, "_cells", lambda row: ["-"] * 11)
    options = ["--mode", "bf16", "--tokens", "64", "--only-threads", "--threads", "2", "--out", str(tmp_path)]
    bitwise.main(options)
    assert {each.threads for each in measured} == {2}
    first = len(measured)
    bitwise.main(options)
    assert len(measured) == first
    bitwise.main([*options, "--contexts", "40", "2000"])
    assert {tuple(each.contexts) for each in measured[first:]} == {(40, 2000)}
    assert len(measured) == 2 * first


def test_ways_that_decode_alone_get_part_of_the_texts_and_are_asked_one_by_one():
    class Engine:
        def generate(self, prompt, params):
            return [*prompt] if isinstance(prompt[0], list) else prompt

    batch, params = [[1], [2]], [None, None]
    for way in bitwise.WAYS.values():
        assert bitwise.decode(Engine(), way, batch, params) == batch
        assert bitwise.decode(Engine(), way, [], []) == []
        assert way.count(10 * bitwise.NEW) == (1 if way.alone else 10)
