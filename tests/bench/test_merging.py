"""The study of merging: its arithmetic on drafts made by hand, its rounds against the engine's own, a miniature run."""

from __future__ import annotations

import importlib.util
import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.along import TAIL, Follower, by_source, weights
from bench.contenders import Task
from bench.merging_cases import CONDITIONS, NEVER, SOURCES, SUBJECTS, edge_setups, gsd, load, paper_setups
from bench.merging_clock import BASELINES, contenders, summarise
from bench.merging_figures import Figures, Gain, Saving, between, gain, key_of, saving, tally, worth
from bench.merging_report import markdown
from bench.recurrence import ORDERS, cost_of, front, passes_worth, recurring, saved
from hypothesis import given
from hypothesis import strategies as st

import draftgraph as dg
from bench import clock, merging, pairs
from draftgraph.draft.graph import DraftGraph
from draftgraph.types import FIXED, ROOT, TokenTree
from models import byte_tokenizer, perturbed, plain, tiny_lm

PROMPT = [5, 9, 7, 8]


def tree_of(tokens: Sequence[int], parents: Sequence[int]) -> TokenTree:
    return TokenTree(tokens, parents, [FIXED] * len(tokens))


class TestRecurrence:
    def test_counts_on_a_tree_made_by_hand(self):
        """1 2 3 and 4 2 3: the 2, the 3 and the pair (2, 3) occur twice; no triple does."""
        tree = tree_of([1, 4, 2, 2, 3, 3], [ROOT, ROOT, 0, 1, 2, 3])
        assert recurring(tree) == ((4, 2), (2, 1), (0, 0))

    def test_a_chain_repeats_itself(self):
        assert recurring(tree_of([1, 1, 1, 1], [ROOT, 0, 1, 2])) == ((4, 3), (3, 2), (2, 1))

    def test_nothing_recurs_among_different_tokens(self):
        assert recurring(tree_of([1, 2, 3], [ROOT, ROOT, 0])) == ((0, 0), (0, 0), (0, 0))
        assert recurring(tree_of([], [])) == ((0, 0), (0, 0), (0, 0))

    def test_a_full_tree_of_two_tokens_shares_nearly_everything(self):
        tokens, parents, level = [], [], [ROOT]
        for _ in range(3):
            below = []
            for node in level:
                for token in (0, 1):
                    tokens.append(token)
                    parents.append(node)
                    below.append(len(tokens) - 1)
            level = below
        assert recurring(tree_of(tokens, parents)) == ((14, 12), (12, 8), (0, 0))

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**6)), max_size=30))
    def test_counts_are_those_of_looking_at_every_pair(self, nodes):
        tree = tree_of([token for token, _ in nodes], [at % (i + 1) - 1 for i, (_, at) in enumerate(nodes)])
        paths = [tree.path_tokens(node) for node in range(len(tree))]
        for n, (shared, repeated) in zip(ORDERS, recurring(tree), strict=True):
            grams = [tuple(path[-n:]) if len(path) >= n else None for path in paths]
            assert shared == sum(gram is not None and grams.count(gram) > 1 for gram in grams)
            assert repeated == sum(gram is not None and gram in grams[:i] for i, gram in enumerate(grams))


class TestSavings:
    POINTS = ((4.0, 1.0), (8.0, 2.0), (6.0, 0.9), (16.0, 3.0), (20.0, 3.0))

    def test_only_the_cheapest_way_to_a_length_counts(self):
        assert front(self.POINTS) == [(0.0, 0.0), (4.0, 1.0), (8.0, 2.0), (16.0, 3.0)]

    @pytest.mark.parametrize(
        ("length", "cost"), [(0.0, 0.0), (0.5, 2.0), (1.0, 4.0), (1.5, 6.0), (2.25, 10.0), (3.0, 16.0), (3.1, None)]
    )
    def test_cost_is_linear_between_points(self, length, cost):
        assert cost_of(length, self.POINTS) == cost

    def test_savings(self):
        assert saved((5.0, 2.25), self.POINTS) == pytest.approx(0.5)
        assert saved((12.0, 2.25), self.POINTS) == pytest.approx(-0.2)
        assert saved((5.0, 9.0), self.POINTS) is None
        assert saved((5.0, 0.0), self.POINTS) is None

    @given(st.lists(st.tuples(st.floats(0.1, 99), st.floats(0.1, 9)), min_size=1, max_size=12), st.randoms())
    def test_no_point_saves_anything_against_itself(self, points, chance):
        assert front(points) == front(chance.sample(points, len(points)))
        for cost, length in points:
            needed = cost_of(length, points)
            assert needed is not None
            assert needed <= cost * (1 + 1e-9)
            assert saved((cost, length), points) <= 1e-9

    def test_gains_in_passes(self):
        lengths = [1.0, 2.0, 2.5, 2.75]
        assert passes_worth(0.5, lengths, 0) == pytest.approx(0.5)
        assert passes_worth(1.25, lengths, 0) == pytest.approx(1.5)
        assert passes_worth(0.0, lengths, 1) == 0.0
        assert passes_worth(-0.25, lengths, 1) == pytest.approx(-0.5)
        assert passes_worth(1.0, lengths, 2) == pytest.approx(4.0)  # beyond what was measured: the last slope
        assert passes_worth(1.0, lengths, 3) == 0.0  # nothing is known of further passes
        assert between([1, 2, 4, 8], [1.0, 2.0, 3.0, 5.0]) == [1.0, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]


def test_accepted_mass_is_split_by_source_and_match_length():
    graph = DraftGraph()
    graph.add(ROOT, 1, 0.9)
    graph.add(0, 2, 0.5, origin="merge", matched=1)
    graph.add(1, 3, 0.4, origin="own", matched=9)
    graph.add(2, 3, 0.3, origin="own", matched=4)
    assert by_source(graph, [0.5, 0.25, 0.125, 0.0625]) == {("drafter", 0): 0.5, ("merge", 1): 0.25, ("own", 4): 0.1875}


def test_weights_are_the_expectation_of_the_verdict():
    tree = tree_of([1, 2, 0, 1], [ROOT, ROOT, 0, 2])
    p = torch.softmax(torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=1)
    stop = dg.rules()["walk"].outcome(tree, p).stop
    depth = [0, *tree.depths]
    assert sum(weights(tree, p)) == pytest.approx(sum(prob * d for prob, d in zip(stop, depth, strict=True)))


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    target = tiny_lm(window=256)
    return target, perturbed(target, 0.1)


class TestAlong:
    @pytest.mark.parametrize(
        "options",
        [{"structure": "tree"}, {"structure": "graph"}, {"structure": "gsd", "gsd_match": 0}, SOURCES["all + table"]],
    )
    def test_along_its_own_greedy_text_nothing_is_replaced(self, pair, options):
        """Rounds, acceptance, evaluations, and where accepted tokens come from are those of the engine left alone."""
        options = options | {"budget": 16, "num_speculative_tokens": 3}
        text = [*PROMPT, *plain(pair[0], PROMPT, 60)]
        led = Follower(*pair, options).follow(text, len(PROMPT), 0.0, 1, 10**6)
        free = dg.Engine.from_pretrained(pair[0], draft_model=pair[1], **options)
        alone = free.generate(PROMPT, dg.SamplingParams(max_new_tokens=200, ignore_eos=True, temperature=0.0))
        records = [record for record in alone.rounds if record.length < len(text) - TAIL]
        assert [one.length for one in led] == [len(record.path) for record in records]
        assert [one.evaluations for one in led] == [record.num_evaluations for record in records]
        assert [one.nodes for one in led] == [len(record.tokens) for record in records]
        origins = [record.origins[node] for record in records for node in record.path]
        mass = [source for one in led for (source, _), value in one.accepted.items() for _ in range(round(value))]
        assert sorted(origins) == sorted(mass)

    @pytest.mark.parametrize("sampled", [True, False])
    def test_every_way_to_draft_meets_the_same_text(self, pair, sampled):
        chance = random.Random(3)
        text = [*PROMPT, *(chance.randrange(60) for _ in range(40))]
        follower = Follower(*pair, {"structure": "tree", "budget": 8}, sampled)
        rounds = follower.follow(text, len(PROMPT), 1.0, 1, 10**6)
        assert follower.engine.drafter is follower.watched
        assert 40 - TAIL >= len(rounds) >= (40 - TAIL) / 9
        assert all(0.0 <= one.length <= 8.0 for one in rounds)
        assert len(follower.follow(text, len(PROMPT), 1.0, 1, 3)) == 3

    def test_the_verdict_is_the_way_of_the_text(self):
        rule = Follower(*(tiny_lm(),) * 2, {}).rule
        rule.text = [7, 1, 2, 3, 9]
        tree = tree_of([5, 1, 2, 4, 3], [ROOT, ROOT, 1, 1, 2])
        noise, p = dg.engine.Noise(0), torch.ones(6, 10)
        assert rule.verdict(tree, p, noise, 1).path == (1, 2, 4)
        assert rule.verdict(tree, p, noise, 1).token == 9
        assert rule.verdict(tree, p, noise, 4).path == ()

    def test_a_filled_draft_is_as_large_as_allowed(self, pair):
        text = [*PROMPT, *plain(pair[0], PROMPT, 40)]
        options = {"structure": "tree", "budget": 32, "num_speculative_tokens": 6}
        usual, filled = (
            Follower(*pair, options, fill=fill).follow(text, len(PROMPT), 0.0, 1, 5) for fill in (False, True)
        )
        assert {one.nodes for one in filled} == {32}
        assert statistics.fmean(one.nodes for one in usual) < 32


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("full", [True, False])
def test_setups_can_be_asked_for_and_told_apart(temperature, full):
    for setups in (list(paper_setups(temperature, full)), list(edge_setups(temperature, full))):
        for setup in setups:
            dg.Config(**merging.options_of(setup))
        assert len({(setup.draft, setup.depth, setup.nodes) for setup in setups}) == len(setups)


def cell(
    draft: str, depth: int, nodes: int, lengths: list[float], part: str = "edges", **fields: Any
) -> dict[str, Any]:
    made = {
        "part": part, "subject": "story", "text": "own", "temperature": 1.0, "draft": draft, "depth": depth,
        "nodes_at_most": nodes, "lengths": lengths, "evaluations": [1.0 * depth] * len(lengths),
        "passes": [1.0 * depth] * len(lengths), "rounds": 9, "nodes": 1.0 * nodes, "merged": 0.0,
        "by_source": {"drafter 0": 0.75, "merge 2": 0.25}, "recurring": [0.7, 0.2, 0.1], "repeating": [0.4, 0.1, 0.0],
    }  # fmt: skip
    return made | fields


class TestFigures:
    def test_gains_are_paired(self):
        """Texts differ by far more than the ways to draft; only the difference within a text counts."""
        found = gain(cell("a", 1, 8, [1.1, 5.2, 9.3]), cell("b", 1, 8, [1.0, 5.0, 9.0]))
        assert found.value == pytest.approx(0.2)
        assert found.error == pytest.approx(0.1 / 3**0.5)
        assert (found.base, found.sign) == (5.0, 1)
        assert str(found) == "+0.20 ± 0.06"
        assert Gain(-0.2, 0.11, 1.0).sign == 0
        assert Gain(-0.2, 0.09, 1.0).sign == -1
        assert gain(None, cell("b", 1, 8, [1.0])) is None

    def test_savings_come_with_an_interval_over_texts(self):
        curve = [cell("tree", depth, 8, [1.0 * depth, 1.2 * depth]) for depth in (1, 2, 4)]
        cheap = cell("gsd", 8, 8, [2.0, 2.4], evaluations=[1.0, 1.0])
        found = saving(cheap, curve)
        assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
        assert found.sign == 1
        assert saving(cell("gsd", 8, 8, [9.0, 9.0]), curve) == Saving(None, None, None)
        assert str(saving(cell("gsd", 8, 8, [9.0, 9.0]), curve)) == "not reached"
        dear = saving(cell("gsd", 8, 8, [2.0, 2.4], evaluations=[3.0, 3.0]), curve)
        assert (dear.value, dear.sign) == (pytest.approx(-0.5), -1)
        assert str(dear) == "−50% (−50%…−50%)"

    def test_a_gain_in_passes(self):
        tree = [cell("none", depth, 32, [1.0 * depth]) for depth in (1, 2, 3, 4, 8)]
        figures = Figures([*tree, cell("all", 2, 32, [3.5])])
        where = ("story", "own", 1.0)
        assert worth(figures, where, "all", "none", 2, 32) == pytest.approx(1.5)
        assert worth(figures, where, "all", "none", 3, 32) is None
        assert worth(Figures(tree[:1]), where, "all", "none", 2, 32) is None

    def test_signs_are_counted(self):
        assert tally([1, -1, 0, 1]) == "better in 2, worse in 1, cannot be told apart in 1 of 4"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data folder with tiny models under the names of the story pair, and texts of random bytes."""
    folder = tmp_path_factory.mktemp("data")
    target = tiny_lm(vocab=256, window=256)
    for name, model in (("stories260K", target), ("stories260K-draft-124k", perturbed(target, 0.05))):
        model.save_pretrained(folder / "models" / name)
        byte_tokenizer().save_pretrained(folder / "models" / name)
    chance = random.Random(0)
    rows = [{"text": "".join(chance.choices("abc ", k=90))} for _ in range(3)]
    (folder / "prompts").mkdir()
    lines = "\n".join(map(json.dumps, rows))
    (folder / "prompts" / "stories_dev90.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def small(data, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A miniature run end to end: its folder and its JSON."""
    out = tmp_path_factory.mktemp("out")
    merging.main(["--quick", "--processes", "1", "--subject", "story", "code", "--data", str(data), "--out", str(out)])
    return out, json.loads((out / "merging-quick.json").read_text(encoding="utf-8"))


def test_a_run_measures_every_setup_in_every_condition(small):
    cells = small[1]["cells"]
    wanted = {
        (part, kind, temperature, setup.draft, setup.depth, setup.nodes)
        for kind, temperature in CONDITIONS[:2]
        for part, setups in merging.PARTS.items()
        for setup in setups(temperature, False)
    }
    names = ("part", "text", "temperature", "draft", "depth", "nodes_at_most")
    assert {tuple(one[name] for name in names) for one in cells} == wanted
    assert len(cells) == len(wanted)
    for one in cells:
        assert len(one["lengths"]) == len(one["evaluations"]) == len(one["passes"]) == 2
        assert 0.0 <= one["merged"] <= one["nodes"] <= one["nodes_at_most"] + 1e-9
        assert max(one["passes"]) <= one["depth"]
        assert sum(one["by_source"].values()) == pytest.approx(1.0, abs=1e-3) or not one["by_source"]
    assert all(one["merged"] == 0.0 for one in cells if one["draft"] in ("none", "none, filled", gsd(NEVER)))


def test_the_report_answers_the_questions_and_says_what_is_missing(small):
    text = (small[0] / "merging-quick.md").read_text(encoding="utf-8")
    for said in (
        "Does merging save drafter evaluations?", "Does the published order beat a budgeted tree?",
        "Which source is best?", "Does reading copies ahead save passes?", "## Recurrence", "## Source by source",
        "second-hand", "python bench/merging.py --clock", "Left out: code: the code pair",
    ):  # fmt: skip
        assert said in text
    for block in text.split("\n\n"):
        if block.startswith("| "):
            assert len({line.count("|") for line in block.splitlines()}) == 1
    assert (small[0] / "merging-quick.png").is_file() == (importlib.util.find_spec("matplotlib") is not None)


def test_what_is_measured_again_replaces_its_own_cells_only(small, data, monkeypatch):
    out, report = small
    typed = ["--quick", "--processes", "1", "--subject", "story", "--data", str(data)]
    again = merging.read(out / "merging-quick.json")
    again["cells"][0]["rounds"] = -1  # of the part "paper"
    merging.add_cells(again, merging.parse([*typed, "--part", "ahead"]))
    order = {key_of(one): one for one in again["cells"]}
    assert len(order) == len(again["cells"]) == len(report["cells"])
    for one in report["cells"][1:]:
        assert order[key_of(one)]["lengths"] == pytest.approx(one["lengths"], abs=1e-3)
    assert again["cells"][0]["rounds"] == -1
    run = merging.Job.run
    asked = []
    monkeypatch.setattr(merging.Job, "run", lambda job: asked.append(job.key) or run(job))
    lost = [again["cells"].pop(5), again["cells"].pop()]
    merging.add_cells(again, merging.parse([*typed, "--resume"]))
    assert set(asked) == set(map(key_of, lost))
    assert len(again["cells"]) == len(report["cells"])


def test_own_texts_at_temperature_0_are_greedy(data):
    story = load(SUBJECTS[0], data, 2, 12)
    for (natural, start), (own, same) in zip(story.natural, story.texts("own", 0.0), strict=True):
        assert start == same
        assert own == [*natural[:start], *plain(story.target, natural[:start], len(natural) - start)]


def test_without_models_there_is_nothing_to_measure(tmp_path):
    with pytest.raises(SystemExit, match="nothing to measure"):
        merging.main(["--subject", "story", "--data", str(tmp_path), "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        merging.parse(["--prompts", "0"])


class TestClock:
    def test_ratios_are_paired_within_a_turn(self):
        def run(contender: str, prompt: str, seconds: float) -> clock.Run:
            return clock.Run("code", 0.0, contender, prompt, 0, 0, seconds, 10, 5, 5, None, None)

        # The machine is ten times slower during the second turn; that must not show.
        runs = [run(name, "a", 1.0) for name in BASELINES] + [run("gsd", "a", 2.0)]
        runs += [replace(one, prompt="b", seconds=10 * one.seconds) for one in runs]
        found = {pace.contender: pace for pace in summarise(runs)}
        assert found["gsd"].faster == dict.fromkeys(BASELINES, (0.5, 0.5, 0.5))
        assert (found["gsd"].length, found["gsd"].turns) == (2.0, 2)

    def test_everybody_runs_and_is_reported(self, small):
        target = tiny_lm(vocab=256, window=256)
        pair = pairs.Pair(
            "bundled", "tiny", target, perturbed(target), byte_tokenizer(), [pairs.Prompt("p", "own", PROMPT)]
        )
        everybody = contenders(pair, Task(0.0, 8))
        paces = summarise(clock.measure(everybody, pair.prompts, 1, "bundled", 0.0))
        assert [pace.contender for pace in paces] == [one.name for one in everybody]
        text = markdown(small[1] | {"clock": [vars(pace) for pace in paces]})
        assert "gsd 32, never merging" in text
        assert "On the clock" in text
