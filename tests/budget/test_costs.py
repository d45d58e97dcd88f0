"""The table of costs: what it says, how it is kept, and when it is measured again."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import draftgraph as dg
from cost_tables import cost, costs
from draftgraph.backends.fingerprint import fingerprint
from draftgraph.budget import cost_cache
from draftgraph.budget.cost_cache import costs_of
from draftgraph.budget.costs import Costs, Drafts, Level
from draftgraph.budget.timing import levels
from draftgraph.engine.pair_costs import pair_costs
from draftgraph.files import BrokenFileError
from draftgraph.request.record import RoundRecord
from models import perturbed, tiny_lm

CPU = torch.device("cpu")


class Measured:
    """A measurement that counts how often it was asked for."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Costs:
        self.times += 1
        return costs(note="")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_cache, "_UNSAVED", {})
    monkeypatch.setattr(cost_cache, "_MEASURED", set())
    monkeypatch.setenv(cost_cache.FOLDER, str(tmp_path / "cache"))


@pytest.fixture
def measured() -> Measured:
    return Measured()


def only_file() -> Path:
    [path] = cost_cache.folder().iterdir()
    return path


def test_a_change_of_size_is_worth_some_rows() -> None:
    padded = replace(costs().target, sizes=(1, 2, 4, 8, 32, 64), change=3e-4)
    row = (padded(32) - padded(1)) / 16
    assert padded.change_rows == pytest.approx(3e-4 / row)
    assert replace(padded, change=1.0).change_rows == 32.0
    assert replace(padded, sizes=()).change_rows == 0.0
    assert replace(padded, change=0.0).change_rows == 0.0


def test_costs_survive_being_written():
    for table in (costs(), costs(drafter=None)):
        again = Costs.from_dict(json.loads(json.dumps(table.to_dict())), "made up")
        assert json.dumps(again.to_dict()) == json.dumps(table.to_dict())
        assert again.round(3, [1.0, 2.0]) == table.round(3, [1.0, 2.0])


def test_a_round_is_its_rows_its_passes_and_what_is_around_them():
    table = costs()
    assert table.round(2, [1.0]) == pytest.approx((5 + 2 * 0.15 + 0.2 + 2 * 0.02 + 0.5 + 0.2) * 1e-3)
    assert costs(drafter=None).round(2, []) == pytest.approx((5 + 2 * 0.15 + 0.2 + 2 * 0.02) * 1e-3)


def test_costs_are_measured_once(measured: Measured):
    first = costs_of(["a pair"], CPU, measured)
    again = costs_of(["a pair"], CPU, measured)
    assert (first.note, measured.times) == ("measured now", 1)
    assert again.note.startswith("read from costs-")
    assert replace(again, note="").plain == replace(first, note="").plain
    costs_of(["another pair"], CPU, measured)
    assert measured.times == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 0}, f"the cache has version '0', not {cost_cache.VERSION}"),
        (
            {"version": cost_cache.VERSION - 1},
            f"the cache has version '{cost_cache.VERSION - 1}', not {cost_cache.VERSION}",
        ),
        ({"machine": {"cpu": "an abacus"}}, "the cache was written with cpu 'an abacus', here it is"),
        ({"machine": []}, "the cache cannot be read (its machine is a list, not an object)"),
        ({"costs": {}}, "the cache cannot be read (the table lacks"),
        ({"costs": 3}, "the cache cannot be read (the table is '3', not an object)"),
    ],
)
def test_a_cache_of_another_machine_or_version_is_measured_again_and_it_is_said(change, said: str, measured: Measured):
    costs_of(["a pair"], CPU, measured)
    path = only_file()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert said in costs_of(["a pair"], CPU, measured).note
    assert measured.times == 2
    assert costs_of(["a pair"], CPU, measured).note.startswith("read")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"version": 3}'])
def test_a_broken_cache_is_measured_again(content: bytes, measured: Measured):
    costs_of(["a pair"], CPU, measured)
    only_file().write_bytes(content)
    assert "measured again: the cache cannot be read" in costs_of(["a pair"], CPU, measured).note
    assert only_file().stat().st_size > 100, "it was written whole, and nothing partial is left"


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e-320, 1e6])
def test_times_that_cannot_be_are_not_believed(seconds: float, measured: Measured):
    costs_of(["a pair"], CPU, measured)
    held = json.loads(only_file().read_text())
    held["costs"]["target"]["seconds"][0] = seconds
    only_file().write_text(json.dumps(held))
    assert "pass times that cannot be" in costs_of(["a pair"], CPU, measured).note


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: Measured
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(cost_cache.FOLDER, str(tmp_path / "file" / "below"))
    assert "cannot be written" in costs_of(["a pair"], CPU, measured).note
    assert costs_of(["a pair"], CPU, measured) is costs_of(["a pair"], CPU, measured)
    assert measured.times == 1, "once per process"


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_the_folder_is_where_the_platform_keeps_caches(platform: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(cost_cache.FOLDER, "/somewhere")
    assert cost_cache.folder() == Path("/somewhere")
    monkeypatch.delenv(cost_cache.FOLDER)
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    expected = {"linux": Path("/xdg"), "darwin": Path.home() / "Library" / "Caches", "win32": Path("/local")}
    assert cost_cache.folder() == expected[platform] / "draftgraph"


def test_a_fingerprint_is_of_shape_type_and_weights():
    model = tiny_lm()
    assert fingerprint(model) == fingerprint(tiny_lm())
    others = [tiny_lm(seed=1), tiny_lm(layers=1), perturbed(model), tiny_lm().double()]
    assert len({fingerprint(other) for other in (model, *others)}) == 5


@pytest.mark.parametrize("lookup", [False, True])
def test_an_engine_is_measured_and_told_so(lookup: bool, monkeypatch: pytest.MonkeyPatch):
    for limit in ("BUSY", "WAITED"):  # whoever runs the tests may do something else meanwhile
        monkeypatch.setattr(f"draftgraph.budget.costs.{limit}", float("inf"))
    target = tiny_lm()
    engine = dg.Engine.from_pretrained(target, draft_model=None if lookup else perturbed(target))
    pair = (engine.target, engine.drafter, engine.config, engine._decode)
    table = pair_costs(*pair)
    assert table.note == "measured now"
    assert (table.drafter is None) == lookup
    assert table.plain > table.target(1) > 0.0
    assert all(0.0 <= level.reached <= 1.0 for level in table.levels)
    assert pair_costs(*pair).levels == table.levels
    assert pair_costs(*pair).note.startswith("read from")


def test_greedy_requests_have_levels_of_their_own():
    greedy = Drafts((1.0, 2.0, 3.0), (Level(0.5, 1.0, 2.0, 0.4),))
    table = replace(costs(), greedy=greedy)
    assert (table.at(0.0).overhead, table.at(0.0).levels) == (greedy.overhead, greedy.levels)
    assert table.at(0.7) == table
    assert replace(table, greedy=None).at(0.0).levels == table.levels
    assert table.at(0.0).target == table.target


def test_chains_have_levels_of_their_own_at_every_temperature():
    chains, greedy = (Drafts((x, 0.0, 0.0), (Level(x, 1.0, 1.0, x),)) for x in (0.3, 0.4))
    table = replace(costs(), chains=chains, greedy_chains=greedy)
    assert (table.of_chains.overhead, table.of_chains.levels) == (chains.overhead, chains.levels)
    assert table.at(0.0).of_chains.levels == greedy.levels
    assert table.at(0.0).greedy_chains is None
    assert costs().of_chains is None
    again = Costs.from_dict(json.loads(json.dumps(table.to_dict())), table.note)
    assert again.to_dict() == Costs.from_dict(json.loads(json.dumps(again.to_dict())), table.note).to_dict()
    assert list(again.greedy_chains.levels) == list(greedy.levels)
    broken = json.loads(json.dumps(table.to_dict()))
    broken["greedy_chains"]["levels"][0]["nodes"] = -1.0
    with pytest.raises(BrokenFileError, match="counts of drafts that cannot be"):
        Costs.from_dict(broken, "")


@pytest.mark.parametrize("block", [-1e-3, 1.0])
def test_a_block_is_part_of_what_a_round_takes(block: float):
    written = json.loads(json.dumps(replace(costs(), block=block).to_dict()))
    with pytest.raises(BrokenFileError, match="a block that takes more than its round"):
        Costs.from_dict(written, "")


def busy(share: float = 0.5, slower: float = 1.0) -> Costs:
    table = costs(note="")
    return replace(
        table, waited=share, target=replace(table.target, seconds=[slower * s for s in table.target.seconds])
    )


def in_a_new_process(later: float = cost_cache.PATIENCE_SECONDS + 1) -> None:
    """later  seconds after the costs were written."""
    cost_cache._MEASURED.clear()
    for file in Path(os.environ["DRAFTGRAPH_CACHE"]).glob("costs-*.json"):
        os.utime(file, (time.time() - later,) * 2)


@pytest.mark.parametrize(("nodes", "widest"), [((), 1), ((0.5,), 1), ((1.2, 2.5, 0.1), 3)])
def test_the_widest_level_is_known_where_no_drafts_were_counted(nodes: tuple[float, ...], widest: int):
    """As of a model so slow that nothing is drafted while it is timed."""
    assert replace(costs(), levels=tuple(Level(0.5, 1.0, each, 0.4) for each in nodes)).widest == widest


def test_costs_of_a_busy_machine_are_kept_and_measured_again_by_the_next_process(measured: Measured):
    first = costs_of(["a pair"], CPU, busy)
    assert "while others used the machine; a later process measures again" in first.note
    assert "delete" not in first.note
    assert costs_of(["a pair"], CPU, measured).note.startswith("read"), "within a process a seed gives the same text"
    assert measured.times == 0
    in_a_new_process()
    again = costs_of(["a pair"], CPU, measured)
    assert (again.note, again.busy) == ("measured again: others used the machine when it was measured", False)
    in_a_new_process()
    assert costs_of(["a pair"], CPU, measured).note.startswith("read")
    assert measured.times == 1


@pytest.mark.parametrize("later", [0.0, cost_cache.PATIENCE_SECONDS - 20])
def test_costs_of_a_busy_machine_are_good_enough_for_a_while(later: float, measured: Measured):
    """Where others use the machine for hours, each start would wait for a measurement that is no better."""
    costs_of(["a pair"], CPU, busy)
    in_a_new_process(later)
    assert costs_of(["a pair"], CPU, measured).note.startswith("read")
    assert measured.times == 0
    in_a_new_process()
    assert costs_of(["a pair"], CPU, lambda: busy(slower=2.0)).note.startswith("read"), "the new ones are no better"
    cost_cache._MEASURED.clear()
    assert costs_of(["a pair"], CPU, measured).note.startswith("read"), "that was tried a moment ago"
    assert measured.times == 0


def test_costs_of_a_busy_machine_from_the_future_are_measured_again(measured: Measured):
    costs_of(["a pair"], CPU, busy)
    in_a_new_process(-1000.0)
    assert not costs_of(["a pair"], CPU, measured).busy


@pytest.mark.parametrize(("slower", "kept"), [(2.0, 1.0), (0.5, 0.5)])
def test_of_two_tables_of_a_busy_machine_the_faster_is_kept(slower: float, kept: float):
    costs_of(["a pair"], CPU, busy)
    in_a_new_process()
    for _ in range(2):  # once per process
        found = costs_of(["a pair"], CPU, lambda: busy(slower=slower))
        assert found.target(1) == pytest.approx(kept * costs().target(1))


def test_passes_that_took_different_times_are_those_of_a_busy_machine():
    table = costs()
    high = [4 * seconds for seconds in table.target.seconds]
    assert replace(table, target=replace(table.target, high=high)).busy
    assert not table.busy


def test_a_refresh_measures_whatever_is_kept(measured: Measured):
    for times in (1, 2, 3):
        assert costs_of(["a pair"], CPU, measured, refresh=True).note == "measured now"
        assert measured.times == times


def test_a_refresh_measures_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch, measured: Measured):
    monkeypatch.setattr(cost_cache, "folder", lambda: None)
    costs_of(["a pair"], CPU, measured)
    costs_of(["a pair"], CPU, measured, refresh=True)
    costs_of(["a pair"], CPU, measured)
    assert measured.times == 2


def test_whoever_waits_is_told_before_it_begins(caplog: pytest.LogCaptureFixture, measured: Measured):
    def asks() -> Costs:
        [told] = caplog.records
        assert (told.name, told.levelname) == ("draftgraph.timing", "WARNING")
        assert "timing these models on this machine, once, for some seconds" in told.getMessage()
        assert str(cost_cache.folder()) in told.getMessage()
        return measured()

    costs_of(["a pair"], CPU, asks)
    costs_of(["a pair"], CPU, asks)
    assert (len(caplog.records), measured.times) == (1, 1)


def test_what_drafts_did_is_counted_by_depth():
    def record(path: tuple[int, ...], passes: int) -> RoundRecord:
        return RoundRecord(
            9, [1, 2, 3], [-1, -1, 0], [False] * 3, ["drafter"] * 3, [0.5, 0.25, 0.125], [None] * 3, path, 7, len(path) + 1,
            passes, 3, {},
        )  # fmt: skip

    assert levels([record((0, 2), 2), record((), 1)]) == (Level(0.5, 1.0, 2.0, 0.75), Level(0.5, 0.5, 1.0, 0.125))
    assert levels([]) == ()


def test_more_rows_than_measured_go_on_as_the_last_two_say():
    assert cost(1.0, 1.5, 2.5)(6) == pytest.approx(3.5)
