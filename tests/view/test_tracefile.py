"""Trace files: what is written is read back, whole or not at all; anything else is refused by name."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from rich.console import Console

import draftgraph as dg
from draftgraph.errors import OptionError
from draftgraph.view import page, terminal, tracefile
from hostile import spoiled
from models import byte_tokenizer, perturbed, tiny_lm
from traces import NASTY, random_trace


@pytest.mark.parametrize(("rounds", "nodes"), [(0, 0), (1, 0), (3, 9)])
def test_what_is_saved_is_loaded(tmp_path, rounds, nodes):
    trace = random_trace(rounds, nodes)
    tracefile.save(trace, tmp_path / "a.json")
    assert tracefile.load(tmp_path / "a.json") == trace
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.fixture(scope="module")
def engine() -> dg.Engine:
    target = tiny_lm(vocab=256, window=256)
    return dg.Engine.from_pretrained(target, draft_model=perturbed(target, 0.05), tokenizer=byte_tokenizer(), budget=12)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_request_becomes_a_trace(engine, tmp_path, temperature):
    prompt = "é: abcabcabcabc"
    result = engine.generate(prompt, dg.SamplingParams(max_new_tokens=40, temperature=temperature, seed=3))
    trace = tracefile.make_trace(result, prompt, engine.tokenizer)
    tracefile.save(trace, tmp_path / "a.json")
    read = tracefile.load(tmp_path / "a.json")
    assert read == trace
    assert (read.text, read.seed, read.stats, read.choice["rule"]) == (result.text, 3, result.stats, result.stats.rule)
    assert "".join(read.prompt_pieces) == prompt
    assert "".join(read.pieces) == result.text
    assert list(map(replace_lists, read.rounds)) == list(map(replace_lists, result.rounds))


def replace_lists(record: Any) -> Any:
    """Sequences of any kind as lists, so that they can be compared."""
    return {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in vars(record).items()}


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("drafter", ["graph", "gsd", "lookup"])
def test_copies_lead_to_where_their_token_was_drafted(temperature, drafter):
    """At the place that a copy names, the same token comes before it as in the draft."""
    target = tiny_lm(vocab=12, window=256)
    draft_model = None if drafter == "lookup" else perturbed(target, 0.02)
    structure = "graph" if drafter == "lookup" else drafter
    engine = dg.Engine.from_pretrained(target, draft_model=draft_model, structure=structure, budget=24)
    prompt = [1, 2, 3, 4, 5] * 6
    result = engine.generate(prompt, dg.SamplingParams(max_new_tokens=60, temperature=temperature, top_k=3, seed=1))
    whole, seen = prompt + result.token_ids, set()
    for number, record in enumerate(result.rounds):
        last = whole[record.length - 1]
        for parent, origin, at in zip(record.parents, record.origins, record.drafted_at, strict=True):
            seen.add(origin)
            before = last if parent < 0 else record.tokens[parent]
            if origin == "drafter":
                assert at == parent
            elif origin == "merge":
                assert at is None or (last if at < 0 else record.tokens[at]) == before
            elif origin == "rejected":
                assert result.rounds[number - 1].tokens[at] == before
                assert at not in result.rounds[number - 1].path
            else:
                assert 0 < at < record.length
                assert whole[at - 1] == before
    assert seen - {"drafter"}


# --- what is refused --------------------------------------------------------------------------------------------------


def written(folder: Path, **changes: Any) -> Path:
    """A trace file with some fields changed; a field that becomes None is left out."""
    values = random_trace(2, 4).to_dict() | changes
    file = folder / "a.json"
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    return file


def refused(file: Path, *words: str) -> None:
    with pytest.raises(OptionError) as caught:
        tracefile.load(file)
    for word in (str(file), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, ("version 2", "reads version 1", "update draftgraph")),
        ({"version": 99, "rounds": "other"}, ("version 99",)),
        ({"version": True}, ("version is 'True'",)),
        ({"version": "1"}, ("version is '1'",)),
        ({"version": None}, ("version is 'None'",)),
        ({"format": "another"}, ("draftgraph trace",)),
        ({"stats": None}, ("'stats'",)),
        ({"surprise": 1}, ("'surprise'",)),
        ({"seed": 1.5}, ("seed is '1.5'",)),
        ({"text": ["a"]}, ("text",)),
        ({"rounds": [{}]}, ("number 0", "'bonus'")),
        ({"words": {"x": "y"}}, ("'x'", "whole number")),
        ({"words": {}}, ("round 1 names a token",)),
        ({"choice": {}}, ("choice",)),
        ({"pieces": []}, ("text of every token",)),
        ({"token_ids": [], "pieces": []}, ("emit more",)),
    ],
)
def test_files_of_another_kind_are_refused_by_name(tmp_path, changes, words):
    refused(written(tmp_path, **changes), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parents": [-1, 0, 1]}, "nodes without"),
        ({"parents": [-1, 1, 1, 0]}, "earlier node"),
        ({"parents": [-2, 0, 0, 0]}, "earlier node"),
        ({"path": [0, 3]}, "path"),
        ({"path": [7]}, "path"),
        ({"emitted": 9}, "emit"),
        ({"emitted": -1}, "emits more"),
        ({"length": 10**6}, "outside the text"),
        ({"seconds": {}}, "parts of time"),
        ({"origins": ["merge"] * 4, "drafted_at": [99, 0, 0, 0]}, "from nowhere"),
        ({"scores": [0.1, 0.2, "x", 0.3]}, "scores, number 2"),
        ({"sampled": [1, 0, 0, 0]}, "sampled, number 0"),
        ({"tokens": [True, 0, 0, 0]}, "tokens, number 0"),
    ],
)
def test_broken_rounds_are_refused_by_name(tmp_path, changes, words):
    whole = random_trace(1, 4)
    good = replace(
        whole.rounds[0], parents=[-1, 0, 0, 1], path=(0,), emitted=1, origins=["own"] * 4, drafted_at=[0] * 4
    )
    rounds = [vars(good) | changes]
    assert tracefile.load(written(tmp_path, **replace(whole, rounds=[good]).to_dict())).rounds[0].path == (0,)
    refused(written(tmp_path, **(whole.to_dict() | {"rounds": rounds})), words)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": NaN}', "[" * 100_000, "\udcff", '{"format": "draftgraph trace"']
)
def test_what_is_no_trace_is_refused(tmp_path, text):
    file = tmp_path / "a.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    refused(file, "cannot be drawn", "--trace")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(content=spoiled(random_trace(2, 4).to_dict() | {"words": {str(i): word for i, word in enumerate(NASTY)}}))
def test_a_spoiled_trace_is_refused_or_drawn(tmp_path, content):
    """What is not refused is drawn, in the terminal and as a page whose data is JSON."""
    file = tmp_path / "a.json"
    file.write_bytes(content)
    try:
        trace = tracefile.load(file)
    except OptionError as error:
        assert str(file) in str(error)  # noqa: PT017  # either way is right
        return
    out = StringIO()
    console = Console(file=out, width=100)
    for number, record in enumerate(trace.rounds, 1):
        console.print(terminal.round_tree(record, number, trace.words.__getitem__))
    console.print(terminal.transcript(trace.rounds, trace.pieces))
    console.print(terminal.summary(trace.stats, trace.choice["reason"], trace.rounds, trace.finish_reason, trace.seed))
    data = page.html(trace).split('<script type="application/json" id="trace">')[1].split("</script>")[0]
    json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_what_cannot_be_read_is_refused(tmp_path):
    refused(tmp_path / "absent.json", "cannot read")
    refused(tmp_path, "cannot read")


# --- what cannot be written -------------------------------------------------------------------------------------------


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_older_file_whole(tmp_path):
    file = tmp_path / "a.json"
    tracefile.save(random_trace(1, 2), file)
    before = file.read_bytes()
    with small_disk(4096), pytest.raises(OptionError, match=r"cannot write .*a\.json.*give another file"):
        tracefile.save(random_trace(50, 20), file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_places_where_no_file_can_be(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "absent" / "a.json", tmp_path / "file" / "a.json", Path("/dev/null")):
        with pytest.raises(OptionError, match="cannot write"):
            tracefile.refuse_unwritable(place)
    tracefile.refuse_unwritable(tmp_path / "file")
    with pytest.raises(OptionError, match="cannot write"):
        tracefile.save(random_trace(1, 1), tmp_path / "absent" / "a.json")


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.json").touch()
    (tmp_path / "link.json").symlink_to("real.json")
    tracefile.save(random_trace(1, 1), tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert tracefile.load(tmp_path / "real.json").rounds


def test_a_trace_from_before_rounds_had_reasons_is_read(tmp_path):
    old = random_trace(2, 3).to_dict()
    for record in old["rounds"]:
        del record["reason"]
    (tmp_path / "old.json").write_text(json.dumps(old), encoding="utf-8")
    assert [record.reason for record in tracefile.load(tmp_path / "old.json").rounds] == ["", ""]
