"""A check-up and a diagnosis as reports for someone who has not read the code. Pure functions: nothing here prints."""

from __future__ import annotations

from rich.text import Text

from draftgraph.lab.doctor.checks import Checkup
from draftgraph.lab.doctor.diagnosis import ASKED, Diagnosis, Finding
from draftgraph.lab.doctor.verdict import acceptance, advice, asked, verdict
from draftgraph.lab.doctor.ways import Measured
from draftgraph.view.sheet import Sheet

GOOD, BAD, HONEST, FAINT = "bold green", "bold red", "bold yellow", "dim"
_MARKS = {
    "pass": ("pass", "green"),
    "warning": ("warning", "yellow"),
    "fail": ("FAIL", BAD),
    "not checked": ("–", FAINT),
}
_STYLES = {"yes": GOOD, "mostly": HONEST, "no": BAD}


def checkup_report(checkup: Checkup) -> list[Sheet | Text]:
    """Every rule with pass or fail, and the conclusion."""
    rows = [
        (
            name,
            check.rule,
            Text(*_MARKS[check.outcome]),
            f"{check.found}{'; to do: ' if check.advice else ''}{check.advice}",
        )
        for name, checks in checkup.groups
        for check in checks
    ]
    return [Sheet("can it run", ("of", "rule", "", "found"), rows), can_run(checkup)]


def can_run(checkup: Checkup) -> Text:
    checks = [check for _, group in checkup.groups for check in group]
    failed, warned = ([check for check in checks if check.outcome == outcome] for outcome in ("fail", "warning"))
    what = "the pair" if checkup.drafter is not None else "the target"
    if failed:
        instead = ""
        if checkup.drafter is not None and checkup.target.runs:
            instead = f". The target alone can run: draftgraph doctor {checkup.target.source} measures lookup, without a drafter"
        return Text(f"{what} cannot run: {len(failed)} of {len(checks)} rules failed{instead}", BAD)
    told = f", with {len(warned)} warning{'s' if len(warned) > 1 else ''}" if warned else ""
    alone = (
        ""
        if checkup.drafter is not None
        else ". Without a drafter, continuations are looked up in the text (drafter='lookup')"
    )
    return Text(f"{what} can run: all {len(checks)} rules hold{told}{alone}", GOOD)


def what_next(checkup: Checkup) -> Text:
    """The command that says whether it pays."""
    names = [str(side.source) for side in (checkup.target, checkup.drafter) if side is not None]
    return Text(f"whether it pays here: draftgraph doctor {' '.join(names)}", FAINT)


def diagnosis_report(checkup: Checkup, diagnosis: Diagnosis) -> list[Sheet | Text]:
    """What was predicted and measured at every temperature, and the verdict with what to try."""
    parts: list[Sheet | Text] = [Text(f"measured on {diagnosis.prompts}")]
    asked_ways = [way for way in diagnosis.findings[0].tried if way.name == ASKED]
    parts += [Text(f"{ASKED}: {asked(way)}") for way in asked_ways]
    parts += [_ways(finding, diagnosis) for finding in diagnosis.findings]
    parts.append(
        Text(
            "speed-up over plain decoding in the same turn: median (10–90 % over turns). tokens per target call, and in brackets "
            "the break-even: with so many the speed-up would be 1, rounds costing what they cost here. ms of a round: drafter + "
            "target + everything else. again: the best way, on fresh turns; only this is the verdict's figure, for the best of "
            "several noisy ones flatters",
            FAINT,
        )
    )
    parts += [Text(told) for told in map(acceptance, diagnosis.findings) if told is not None]
    for finding in diagnosis.findings:
        parts.append(Text(verdict(finding, diagnosis.busy), HONEST if diagnosis.busy else _STYLES[finding.pays]))
    return [*parts, *(Text(f"→ {told}") for told in advice(checkup, diagnosis))]


def _ways(finding: Finding, diagnosis: Diagnosis) -> Sheet:
    rows = [_way(one.name, one) for one in finding.tried]
    rows.append(_way(f"again: {finding.chosen.name}", finding.chosen))
    plain = 1e3 * finding.chosen.plain
    title = (
        f"does it pay at temperature {finding.temperature:g}: {finding.chosen.speedup.turns} and "
        f"{finding.tried[0].speedup.turns} turns of {diagnosis.tokens} tokens, plain decoding {plain:.1f} ms per token, "
        f"{diagnosis.dtype}, {diagnosis.threads} threads"
    )
    columns = ("way", "predicted", "measured", "tokens/call", "ms of a round")
    return Sheet(title, columns, rows, numbers=4, keys=1)


def _way(name: str, one: Measured) -> tuple[str, ...]:
    speed = one.speedup
    return (
        name,
        "–" if one.predicted is None else f"{one.predicted:.2f}x",
        f"{speed.median:.2f}x ({speed.low:.2f}–{speed.high:.2f})",
        f"{one.tokens:.2f} ({one.break_even:.2f})",
        " + ".join(f"{1e3 * seconds:.1f}" for seconds in (one.drafter, one.target, one.own)),
    )
