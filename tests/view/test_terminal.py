"""Pictures of rounds and results: what they must say, with and without colours."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from draftgraph.request.record import RoundRecord
from draftgraph.request.stats import PARTS, Stats
from draftgraph.view import terminal

WORDS = {1: "if", 2: " x", 3: " y", 4: ":\n", 5: " [b]", 6: "\x1b[2J", 7: " end"}
RECORD = RoundRecord(
    length=4, tokens=[1, 2, 3, 4, 5, 6], parents=[-1, 0, 0, 1, 3, 2], sampled=[False, False, True, True, False, True],
    origins=["drafter"] * 4 + ["own", "drafter"], scores=[0.9, 0.5, 0.3, 0.4, 0.2, 0.1], path=(0, 1, 3), bonus=7,
    drafted_at=[-1, 0, 0, 1, 2, 2], emitted=4, num_passes=3, num_evaluations=4, seconds=dict.fromkeys(PARTS, 0.1),
)  # fmt: skip
STATS = Stats(
    rule="layer", structure="graph", lossless=True, mean_acceptance_length=4.0, draft_acceptance_rate=0.5,
    acceptance_histogram=[0, 0, 0, 1], num_rounds=1, num_draft_tokens=6, num_accepted_tokens=3,
    num_drafter_evaluations=4, num_drafter_passes=3, num_merged_nodes=1, num_verified_nodes=6,
    num_prompt_tokens=4, num_output_tokens=4, accepted_by_source={"drafter": 3}, accepted_by_match_length={"drafter": [3]},
    seconds=dict.fromkeys(PARTS, 0.1),
)  # fmt: skip


def draw(renderable: object, width: int = 100, colours: bool = False) -> str:
    out = StringIO()
    Console(file=out, width=width, force_terminal=colours, color_system="truecolor" if colours else None).print(
        renderable
    )
    return out.getvalue()


def picture(record: RoundRecord, **options) -> str:
    return draw(terminal.round_tree(record, 1, WORDS.__getitem__), **options)


def test_a_round_shows_every_node_once_with_score_and_law():
    assert picture(RECORD).splitlines() == [
        "round 1  6 nodes, 3 drafter passes, 3 accepted, 4 tokens out",
        "└── ✓ “if” 0.90 F",
        "    ├── ✓ “ x” 0.50 F  ✓ “:\\n” 0.40 S",
        "    │   ├── “ [b]” 0.20 F ↩ own",
        "    │   └── + “ end” bonus",
        "    └── “ y” 0.30 S  “\\x1b[2J” 0.10 S",
    ]


def test_accepted_path_bonus_and_copies_have_their_colours():
    coloured = picture(RECORD, colours=True)
    assert "\x1b[1;32m✓ “if”" in coloured
    assert "\x1b[1;33m+ “ end” bonus" in coloured
    assert "\x1b[35m↩ own" in coloured
    assert "\x1b[2m“ y”" in coloured


def test_what_a_stop_cut_off_is_marked():
    cut = picture(replace(RECORD, emitted=2))
    assert "2 accepted, 2 tokens out" in cut
    assert "“:\\n” 0.40 S (not emitted)" in cut
    assert "bonus (not emitted)" in cut


def test_a_round_without_a_draft_is_its_bonus_token():
    record = replace(
        RECORD,
        tokens=[],
        parents=[],
        sampled=[],
        origins=[],
        scores=[],
        drafted_at=[],
        path=(),
        emitted=1,
        num_passes=0,
    )
    assert picture(record).splitlines() == [
        "round 1  0 nodes, 0 drafter passes, 0 accepted, 1 token out",
        "└── + “ end” bonus",
    ]


def test_a_long_chain_is_broken_between_nodes():
    n = 12
    record = replace(
        RECORD, tokens=[2] * n, parents=list(range(-1, n - 1)), sampled=[True] * n, origins=["drafter"] * n,
        scores=[0.5] * n, drafted_at=[], path=tuple(range(n)), emitted=n + 1,
    )  # fmt: skip
    lines = picture(record, width=40).splitlines()
    assert max(map(len, lines)) <= 40
    assert sum(line.count("“ x” 0.50 S") for line in lines) == n


def test_transcript_colours_tokens_by_who_chose_them():
    text = terminal.transcript([RECORD], ["if", " x", "\x1b[2J", " end"])
    assert text.plain == "if x\\x1b[2J end"
    assert [str(span.style) for span in text.spans] == [terminal.ACCEPTED] * 3 + [terminal.BONUS]


@pytest.mark.parametrize(
    ("raw", "safe"), [("a\tb\nc", "a\tb\nc"), ("\x07\x1b[0m\r", "\\x07\\x1b[0m\\r"), ("é漢", "é漢")]
)
def test_text_cannot_drive_the_terminal(raw, safe):
    assert terminal.printable(raw) == safe


def test_legend_explains_every_mark_and_fits():
    text = draw(terminal.legend(), width=80)
    for mark in ("✓", "+", "S SAMPLED", "F FIXED", "↩"):
        assert mark in text
    assert len(text.splitlines()) == 3


def test_summary_has_the_numbers():
    text = draw(terminal.summary(STATS, "of a reason", (), "length", 11))
    assert "of a reason" in text
    for words in (
        "layer",
        "lossless: exactly the target's law; numerics: not said",
        "4.00",
        "50%",
        "3 of 6 drafted tokens: 3 from drafter",
        "6.7",
        "seconds: rule",
    ):
        assert words in text
    assert "NOT lossless" in draw(terminal.summary(replace(STATS, lossless=False), "", (), "stop", 1))


def test_summary_of_nothing_divides_by_nothing():
    empty = replace(STATS, num_rounds=0, num_output_tokens=0, seconds=dict.fromkeys(PARTS, 0.0))
    assert "an interruption" in draw(terminal.summary(empty, "", (), None, 1))


def test_a_round_and_the_summary_say_why_so_much_was_drafted():
    reason = "draft: 3.2 tokens per round expected of 4 levels, 280 tokens/s; none 180; costs measured now"
    told = replace(RECORD, reason=reason)
    assert reason in picture(told)
    rounds = (told, replace(RECORD, reason="plain: the next token is the last one"))
    text = draw(terminal.summary(STATS, "", rounds, "length", 1), 200)
    assert f"1 round draft, 1 round plain; first {reason}" in text
