"""An audit as a report for someone who has not read the code, and the bar that shows how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress
from rich.text import Text

from draftgraph.lab.audit.audit import Audit
from draftgraph.lab.audit.fit import Fit
from draftgraph.view.console import make_console
from draftgraph.view.sheet import Sheet

GOOD, BAD = "bold green", "bold red"


@contextmanager
def progress_bar(message: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr; yields told(done, total). Silent if quiet, or not on a terminal."""
    console = make_console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(message, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def audit_report(audit: Audit) -> list[Sheet | Text]:
    """What was tested, every test, what they could have seen, the control, the verdict."""
    return [_tests(audit), _how(audit), _power(audit), _control(audit), conclusion(audit)]


def _tests(audit: Audit) -> Sheet:
    pair = f"{audit.target} with {audit.drafter}"
    drafting = f"rule {audit.rule}, structure {audit.structure}, budget {audit.budget}"
    control = {(fit.kind, fit.where): fit for fit in audit.control.fits}
    return Sheet(
        f"{pair}: {drafting}; {_count(audit.prompts, 'prompt')}, {audit.samples} texts of "
        f"{_count(audit.length, 'token')} each",
        ("test", "of the tokens at", "tokens", "cells", "p-value", "control", "TV seen"),
        [_row(fit, control.get((fit.kind, fit.where)), audit.findings.level) for fit in audit.findings.fits],
        numbers=5,
    )


def _row(fit: Fit, control: Fit | None, level: float) -> tuple[str | Text, ...]:
    cells = str(fit.freedom + 1) if fit.freedom else "—"
    seen = "—" if fit.detectable_tv is None else f"{fit.detectable_tv:.3f}"
    p_value = Text(f"{fit.p_value:.2g}", BAD if fit.p_value < level else "")
    return (
        fit.kind,
        fit.where,
        str(fit.samples),
        cells,
        p_value,
        "—" if control is None else f"{control.p_value:.0e}",
        seen,
    )


def _how(audit: Audit) -> Text:
    return Text(
        "How: every emitted token was compared with the target's own law behind its prefix, recomputed by plain forwards without "
        "draft or cache. tokens: counts of the tokens themselves, behind prefixes that many texts share. quantiles: the "
        "probability integral transform, which is uniform. ranks: how likely the token was among the target's. drafter: how "
        "much more the drafter likes it than the target. support: tokens that the target cannot emit. Tokens behind many "
        "prefixes are compared in the mean over these. "
        f"{len(audit.findings.fits)} tests share the level: a p-value below {audit.findings.level:.1e} refutes. "
        f"Seed {audit.seed}."
    )


def _power(audit: Audit) -> Text:
    """The sentence that says what "held" is worth."""
    first, later = audit.detectable[0], [tv for tv in audit.detectable[1:] if tv is not None]
    told = []
    if first is not None:
        told.append(f"a bias of TV >= {first:.3f} at the first position would have been seen with probability 0.9")
    if later:
        told.append(f"one of TV >= {max(later):.3f} at a later position too, as ten quantile bins show it")
    if not told:
        return Text("Power: none. There were too few tokens, or nothing random about them.", BAD)
    blind = sum(tv is None for tv in audit.detectable)
    rest = f" Nothing is known of {_count(blind, 'position')} that few texts reached." if blind else ""
    return Text(f"Power: {'; '.join(told)}. Four times as many samples see half of that.{rest}")


def _control(audit: Audit) -> Text:
    seen = "caught" if audit.control.refuted else "NOT caught"
    return Text(
        f"Control: the same engine with a planted mistake ({audit.control_rule}) is {seen}, p = {audit.control.p_value:.1e}.",
        "" if audit.control.refuted else BAD,
    )


def conclusion(audit: Audit) -> Text:
    """The verdict as a sentence."""
    p = f"p = {audit.p_value:.2g} for all tests together, level {audit.alpha:g}"
    if audit.verdict == "held":
        return Text(f"held: no difference between what is emitted and the target's own sampling ({p})", GOOD)
    if audit.verdict == "refuted":
        claim = (
            "although the rule claims to be lossless"
            if audit.lossless
            else "and the rule does not claim to be lossless"
        )
        return Text(f"refuted: the emitted text is NOT distributed as the target's own, {claim} ({p})", BAD)
    return Text(
        "inconclusive: the planted mistake was not seen, so nothing is known; take more samples or more tokens", BAD
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
