"""Reports on rules and proofs: what they must say, on terminals of any width and as Markdown."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console, Group
from rich.text import Text

from draftgraph.lab.prove.exact import CaseRow, ControlRow, Proof
from draftgraph.lab.prove.report import conclusion, proof_report, proofs_report, rules_table, summary
from draftgraph.verification.registry import rules
from draftgraph.view.sheet import Sheet, to_markdown

CASES = (
    CaseRow("chain", "sampled [q]", 3, 3, 197, 2e-16, 2.694, None, 2.764, 0.0253),
    CaseRow("tree", "fixed", 3, 3, 0, None, None, "chains [only]"),
)
CONTROLS = (
    ControlRow("un-warped bonus", "somewhere", 0.05, True, True),
    ControlRow("its repair", "repair", 1e-17, False, False),
)
PROOF = Proof("mine", True, False, "proven", True, 2e-16, 1e-12, ("random",), CASES, CONTROLS)
LOSSY = replace(
    PROOF,
    rule="bold",
    lossless=False,
    status="lossy, as labelled",
    max_tv=0.1,
    cases=(
        replace(CASES[0], tv=0.1, expected_tokens=3.5, gap=-0.266),
        replace(CASES[1], tv=1e-17, expected_tokens=1.5, refused=None),
    ),
)
REFUTED = replace(PROOF, rule="wrong", status="refuted", holds=False, max_tv=0.1, cases=LOSSY.cases)


def draw(*parts: object, width: int = 120) -> str:
    out = StringIO()
    Console(file=out, width=width, force_terminal=False).print(Group(*parts))
    return out.getvalue()


def test_rules_are_listed_with_what_they_claim_and_their_sources():
    text = draw(rules_table(rules()), width=260)
    for name, rule in rules().items():
        assert name in text
        assert rule.source in text


def test_a_proof_is_a_sentence_an_explanation_cases_and_controls():
    text = draw(*proof_report(PROOF))
    for words in (
        "3 tokens, drafts 3 deep",
        "sampled [q]",
        "2.694",
        "2.764",
        "2.5 %",
        "refused: chains [only]",
        "5.0e-02",
        "biased",
        "exact",
        "Not proven:",
    ):
        assert words in text
    assert text.startswith("rule 'mine' is lossless")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "'mine' is lossless on every draft that it accepts (largest TV 2.0e-16"),
        ({"continues": True}, "if the loop draws later positions from its continuation"),
        ({"status": "refuted", "max_tv": 0.1}, "NOT lossless, although it claims"),
        ({"status": "lossy, as labelled", "max_tv": 0.1}, "says that it is not lossless, and is lossy"),
        ({"status": "lossy, as labelled"}, "shows no bias on these drafts"),
        ({"status": "unproven", "cases": CASES[1:]}, "accepts none"),
        ({"status": "unproven", "controls": (replace(CONTROLS[0], failed=False),)}, "misjudged un-warped bonus"),
    ],
)
def test_a_verdict_says_what_and_why(changes, words):
    assert words in conclusion(replace(PROOF, **changes)).plain


def test_nothing_is_proven_of_a_lossy_rule():
    assert "nothing is proven of it" in conclusion(LOSSY).plain


def test_the_summary_counts_what_was_done():
    text = summary([PROOF, LOSSY]).plain
    for words in (
        "3 tokens and drafts 3 deep",
        "197 drafts",
        "1 known mistakes",
        "mine emits exactly",
        "1 were caught",
        "1 passed",
        "Bound:",
    ):
        assert words in text
    bare = replace(PROOF, controls=(), cases=tuple(replace(row, bound=None, gap=None) for row in CASES))
    assert "each of mine, mine emits" in summary([PROOF, PROOF]).plain
    text = summary([replace(bare, status="refuted")]).plain
    assert "exactly the target's law" not in text
    assert "Controls" not in text
    assert "draftgraph[prove]" in text


def test_several_rules_are_verdicts_and_a_matrix():
    text = draw(*proofs_report([PROOF, LOSSY, REFUTED]))
    for words in (
        "lossy, as labelled",
        "refused",
        "3.500*",
        "-26.6 %",
        "another law than the target's (bold, wrong)",
        "rule 'wrong' is NOT lossless",
        "3 rules: 1 proven, 1 refuted, 1 lossy, as labelled",
    ):
        assert words in text
    assert "un-warped" not in text
    assert "un-warped" in draw(*proofs_report([PROOF, LOSSY], verbose=True))


def test_a_rule_beyond_the_bound_of_the_others_is_explained():
    later = replace(PROOF, rule="later", continues=True, cases=(replace(CASES[0], bound=2.9, expected_tokens=2.9),))
    text = draw(*proofs_report([PROOF, later]))
    assert "later: sets the law of later tokens too" in text
    assert "2.764" in text


def test_rounding_of_the_solver_is_not_a_negative_gap():
    text = draw(*proof_report(replace(PROOF, cases=(replace(CASES[0], gap=-1e-12),))))
    assert "-0.0" not in text
    assert "0.0 %" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_wide_table_is_broken_between_columns_and_repeats_its_keys(width):
    names = [f"rule{i}" for i in range(12)]
    sheet = Sheet("all", ("#", *names), [["7", *(f"{i}.25" for i in range(12))]], numbers=12, keys=1)
    lines = draw(sheet, width=width).splitlines()
    assert max(map(len, lines)) <= width
    headers = [line for line in lines if "#" in line]
    assert sum(line.count("rule") for line in headers) == 12
    assert sum("│ 7" in line for line in lines) == len(headers) == {40: 3, 80: 2, 200: 1}[width]


def test_markdown_keeps_every_cell():
    text = to_markdown(
        "proofs", [Sheet("t", ("a", "b"), [["x|y", Text("1\n2", "red")]], numbers=1), Text("words", "bold")]
    )
    assert text == "# proofs\n\n**t**\n\n| a | b |\n| --- | ---: |\n| x\\|y | 1\\n2 |\n\nwords\n"
