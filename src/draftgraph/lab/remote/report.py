"""The audit of a server as a report for someone who has not read the code."""

from __future__ import annotations

import math

from rich.text import Text

from draftgraph.errors import brief
from draftgraph.lab.audit.report import BAD, GOOD
from draftgraph.lab.remote.audit import COARSEST, ServerAudit
from draftgraph.lab.remote.greedy import Greedy, Parting
from draftgraph.lab.remote.plan import several
from draftgraph.lab.remote.selfcheck import SelfCheck
from draftgraph.lab.remote.stated import BY_RANK, Stated
from draftgraph.lab.remote.twosample import Comparison
from draftgraph.view.sheet import Sheet

TARGET = 0.05
"""The bias that the advice asks more answers for."""
SHOWN = 5
"""Partings that are told one by one."""


def server_report(audit: ServerAudit) -> list[Sheet | Text]:
    """What was tested, every test, what they could have seen, the verdict."""
    parts: list[Sheet | Text] = []
    judged = audit.judged
    if judged is not None and judged.two is not None:
        parts.append(_two(judged.two, audit))
    if judged is not None and judged.stated is not None:
        parts.append(_stated(judged.stated, "with drafts" if judged.yardstick else "", audit))
    if audit.greedy is not None:
        parts.append(_greedy(audit.greedy))
    parts += [_drafts(audit), *(Text(f"Note: {reason}.") for reason in audit.reasons)]
    if judged is not None:
        parts.append(_power(audit))
    return [*parts, conclusion(audit)]


def _two(two: Comparison, audit: ServerAudit) -> Sheet:
    prompts = len(audit.plan.prompts)
    return Sheet(
        f"With drafts against without: {several(prompts, 'prompt')}, {two.answers[0]} and {two.answers[1]} texts",
        ("looked at", "cells", "p-value", "TV", "95 %", "TV found"),
        [
            (
                view.name, str(view.cells), _p(view.p_value, two.alpha), f"{view.tv:.3f}", _span(view.interval),
                _tv(view.detectable_tv),
            )
            for view in two.views
        ]
        + [
            (f"prompt {i + 1}, all tokens", "—", _p(p, two.alpha), "—", "—", "—") for i, p in enumerate(two.prompts)
        ],
        numbers=5,
    )  # fmt: skip


def _stated(stated: Stated, which: str, audit: ServerAudit) -> Sheet:
    level = stated.alpha / max(len(stated.fits), 1) / 2
    return Sheet(
        f"Texts {which} against the probabilities that the server states".replace("  ", " "),
        ("counted", "at", "tokens", "p-value", "TV", "95 %", "TV found"),
        [
            (
                one.fit.kind, one.fit.where, str(one.fit.samples), _p(one.fit.p_value, level), f"{one.tv:.3f}",
                _span(one.interval), _tv(one.fit.detectable_tv),
            )
            for one in stated.fits
        ],
        numbers=5,
    )  # fmt: skip


def _greedy(greedy: Greedy) -> Text:
    """Temperature 0 in words."""
    told = []
    if greedy.texts:
        same = greedy.texts - len(greedy.partings)
        told.append(f"{same} of {several(greedy.texts, 'text')} are equal with drafts and without")
        for kind, meaning in (
            ("rounding", "part at a gap that float32 rounding explains"),
            ("near-tie", "part at a near-tie, which half precision turns over"),
            ("unexplained", "part where no probability is stated"),
        ):
            count = sum(each.kind == kind for each in greedy.partings)
            told += [f"{count} {meaning}"] if count else []
    told.append(f"{greedy.differing} of {several(greedy.repeats, 'text')} changed when asked again")
    if greedy.tokens:
        told.append(
            f"{len(greedy.unlikely)} of {several(greedy.tokens, 'token')} were not the likeliest by the server's own word"
        )
    wrong = "; ".join(map(_parting, greedy.wrong[:SHOWN]))
    return Text(f"Temperature 0: {'; '.join(told)}.{f' Wrong: {wrong}.' if wrong else ''}", BAD if wrong else "")


def _parting(each: Parting) -> str:
    gap = "" if each.gap is None else f", {each.gap:.2g} nats apart"
    return f"prompt {each.prompt + 1}, token {each.position}: {brief(each.ours)} for {brief(each.theirs)}{gap}"


def _drafts(audit: ServerAudit) -> Text:
    told = audit.drafted[0] if audit.drafted else None
    if told is None:
        return Text(
            "Drafts: the server does not say whether it drafted. Look at its own metrics: without drafts nothing was tested."
        )
    return Text(f"Drafts: the server says that it drafted {told} tokens for {several(audit.answers[0], 'text')}.")


def _power(audit: ServerAudit) -> Text:
    """The sentences that say what "holds" is worth."""
    seen, ranks, judged = audit.detectable_tv, audit.detectable_by_rank, audit.judged
    if judged is None or (seen is None and ranks is None):
        return Text("Power: none. There were too few texts, or nothing random about them.", BAD)
    told = ["Power: what follows would have been found with probability 0.9, if all prompts have it."]
    if seen is not None:
        told.append(f"At one position, in whichever direction the cells show: TV {seen:.3f}.")
    blind = [str(i + 1) for i, tv in enumerate(audit.detectable) if tv is None]
    if blind and seen is not None:
        told.append(
            f"Nothing of that kind at position {', '.join(blind)}: too few texts begin alike, or too little varies."
        )
    if ranks is not None:
        told.append(f"At one position, between ranks of the stated probabilities: TV {ranks:.3f}.")
    everywhere = judged.stated.seen_at(0, BY_RANK) if judged.stated is not None and judged.word_counts else None
    if everywhere is not None:
        told.append(f"At all positions, between ranks: TV {everywhere:.3f}.")
    told.append(f"About {audit.expected_tv:.2g} was expected.")
    if seen is not None and seen > TARGET and audit.verdict != "biased":
        needed = _rounded(audit.plan.samples * (seen / TARGET) ** 2)
        told.append(f"To find TV {TARGET:g} in whichever direction write --samples {needed}.")
    return Text(" ".join(told))


def _rounded(number: float) -> int:
    """Up to two digits."""
    unit: int = 10 ** max(int(math.log10(number)) - 1, 0)
    return int(math.ceil(number / unit) * unit)


def conclusion(audit: ServerAudit) -> Text:
    """The verdict as a sentence."""
    if audit.verdict == "biased":
        return Text(f"biased: {_evidence(audit)}", BAD)
    if audit.verdict == "untested":
        return Text(f"untested: {_obstacle(audit)}", BAD)
    if audit.judged is None:
        return Text("holds: greedy texts are the same with drafts and without, as far as rounding allows", GOOD)
    against = (
        "with drafts and without" if audit.judged.two is not None else "and the probabilities that the server states"
    )
    seen = audit.detectable_tv or audit.detectable_by_rank or 0.0
    return Text(
        f"holds: no difference found between answers {against}; a bias of TV {seen:.3f} at one position would have been "
        "found with probability 0.9",
        GOOD,
    )


def _evidence(audit: ServerAudit) -> str:
    """What is wrong, the clearest first."""
    told = []
    judged = audit.judged
    if judged is not None and judged.two is not None and judged.two.refuted:
        two = judged.two
        worst = min(two.views, key=lambda view: (view.p_value, -view.tv))
        told.append(
            f"answers with drafts have another law than answers without; {worst.name}: TV {worst.tv:.2f} "
            f"({_span(worst.interval)}), p = {two.p_value:.2g}"
        )
    if judged is not None and judged.word_counts and judged.stated is not None and judged.stated.refuted:
        one = min(judged.stated.fits, key=lambda one: (one.fit.p_value, -one.tv))
        told.append(
            f"answers do not follow the probabilities that the server itself states; {one.fit.kind} at {one.fit.where}: "
            f"TV {one.tv:.2f} ({_span(one.interval)}), p = {judged.stated.p_value:.2g}"
        )
    if audit.greedy is not None and audit.greedy.wrong:
        told.append(f"at temperature 0 {several(len(audit.greedy.wrong), 'token')} cannot be explained by rounding")
    return "; ".join(told)


def _obstacle(audit: ServerAudit) -> str:
    if audit.reasons:
        return audit.reasons[-1]
    if audit.judged is None:
        return "nothing was compared; write --off or --against, or a --temperature above 0"
    if audit.detectable_tv is None:
        return "the texts say nothing; write prompts whose answers vary, and more --samples"
    return f"only biases beyond TV {COARSEST:g} would have been found; write more --samples"


def selfcheck_report(check: SelfCheck) -> list[Sheet | Text]:
    """Whether the test finds what it says."""
    blind = check.detectable_tv is None
    stated = "it says that it is blind there" if blind else f"it says that it finds {check.detectable_tv:.3f}"
    text = (
        f"Self-check: {check.found} of {check.runs} planted mistakes of TV {check.size:.3g} at {check.view} were found; "
        f"{stated}. False alarms: {check.alarms} of {check.runs} honest runs, at {check.alpha:g}."
    )
    return [Text(text, GOOD if check.held else BAD)]


def _p(value: float, level: float) -> Text:
    return Text(f"{value:.2g}", BAD if value <= level else "")


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3f}–{interval[1]:.3f}"


def _tv(tv: float | None) -> str:
    return "—" if tv is None else f"{tv:.3f}"
