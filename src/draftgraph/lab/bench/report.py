"""A benchmark as a report for someone who has not read the code. Pure functions: nothing here prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from draftgraph.lab.bench.contenders import PLAIN
from draftgraph.lab.bench.peers import Absent
from draftgraph.lab.bench.record import Report
from draftgraph.lab.bench.summary import ENOUGH, Row
from draftgraph.view.sheet import Cell, Sheet

GOOD, BAD, HONEST, FAINT = "bold green", "bold red", "bold yellow", "dim"
_VERDICTS = {
    "wins": ("wins", "green"),
    "even": ("even", "yellow"),
    "loses": ("LOSES", BAD),
    "unsure": ("unsure", FAINT),
}
BUSY = 0.9
"""If plain decoding had a core for less of its time, others wanted it."""
MANY = 5
"""Differences, broken lines and skipped prompts that are listed on a terminal; the JSON object has all."""


def bench_report(report: Report, everything: bool = False) -> list[Sheet | Text]:
    """Every table and sentence. everything  also a full table per task, and every name; for files rather than terminals."""
    said, rows = report.to_dict(), report.rows()
    parts: list[Sheet | Text] = [_state(said)]
    tasks = list(dict.fromkeys(row.task for row in rows if row.task is not None))
    for temperature in dict.fromkeys(row.temperature for row in rows):
        mine = [row for row in rows if row.temperature == temperature]
        everyone = [row for row in mine if row.task is None]
        parts.append(_table(f"temperature {temperature:g}", everyone, report.measured.absent, everything))
        if tasks:
            parts.append(_by_task(f"times as fast, by task, temperature {temperature:g}", mine, tasks, _times))
            parts.append(
                _by_task(f"tokens per target call, by task, temperature {temperature:g}", mine, tasks, _length)
            )
        if everything:
            titles = {task: f"temperature {temperature:g}, {task}" for task in tasks}
            parts += [
                _table(title, [row for row in mine if row.task == task], (), everything)
                for task, title in titles.items()
            ]
    parts += [Text(line, FAINT) for line in _method(said, everything)]
    parts += _agreement(said, report.exact, None if everything else MANY)
    parts += [Text(f"{one.name}: {one.reason}", HONEST) for one in report.measured.absent]
    return [*parts, *_left_out(said, None if everything else MANY), *_machine(said), Text(f"again: {said['command']}")]


def _state(said: Mapping[str, Any]) -> Text:
    models, prompts = said["models"], said["prompts"]["used"]
    drafter = f" with {models['drafter']} ({models['drafter_parameters']:,})" if models["drafter"] else ", no drafter"
    quantised = f", draftgraph's weights {models['weights']}" if models.get("weights") else ""
    turns = f"{said['settings']['repeats']} turn(s) each"
    what = (
        f"{models['target']} ({models['target_parameters']:,} parameters){drafter}, {models['dtype']}, {models['device']}"
        f"{quantised}; {len(prompts)} prompts, {said['settings']['max_new_tokens']} new tokens, {turns}"
    )
    return Text(what) if said["complete"] else Text(f"INCOMPLETE, interrupted. {what}", BAD)


def _table(title: str, rows: Sequence[Row], absent: Sequence[Absent], everything: bool) -> Sheet:
    """A line per contender; `everything` counts target calls and drafted rows as well."""
    greedy = any(row.same is not None for row in rows)
    columns = ["contender", "", "tokens/s", "times as fast", "tokens/call"]
    columns += ["target calls", "nodes"] * everything + ["identical"] * greedy
    lines: list[list[Cell]] = [[row.contender, _verdict(row), *_cells(row, greedy, everything)] for row in rows]
    names = {row.contender for row in rows}
    lines += [[one.name, Text("absent", FAINT), *["–"] * (len(columns) - 2)] for one in absent if one.name not in names]
    return Sheet(title, columns, lines, numbers=len(columns) - 2, keys=1)


def _verdict(row: Row) -> Text:
    return Text("is 1", FAINT) if row.contender == PLAIN else Text(*_VERDICTS[row.ratio.verdict])


def _cells(row: Row, greedy: bool, everything: bool) -> list[str]:
    ratio = row.ratio
    return [
        f"{row.tokens_per_second:.1f}",
        f"{ratio.median:.2f}x ({ratio.low:.2f}–{ratio.high:.2f})",
        f"{row.acceptance:.2f} ± {row.acceptance_error:.2f}",
        *([f"{row.target_calls}", f"{row.nodes / row.target_calls:.1f}"] if everything else []),
        *([f"{row.same}/{row.prompts}"] if greedy else []),
    ]


def _by_task(title: str, rows: Sequence[Row], tasks: Sequence[str], cell: Any) -> Sheet:
    """A line per contender, a column per task."""
    found = {(row.contender, row.task): row for row in rows}
    names = list(dict.fromkeys(row.contender for row in rows))
    lines = [[name, *(cell(found.get((name, task))) for task in tasks)] for name in names]
    return Sheet(title, ["contender", *tasks], lines, numbers=len(tasks), keys=1)


def _times(row: Row | None) -> Cell:
    return "–" if row is None else Text(f"{row.ratio.median:.2f}x", _VERDICTS[row.ratio.verdict][1])


def _length(row: Row | None) -> Cell:
    return "–" if row is None else f"{row.acceptance:.2f}"


def _method(said: Mapping[str, Any], everything: bool) -> list[str]:
    """How it was measured; on a terminal only what is needed to read the tables."""
    tokens = said["settings"]["max_new_tokens"]
    lines = [
        "times as fast: transformers plain's time per token over this one's, within a turn (one prompt, everybody one after the "
        "other, the order rotating and turning around); median over prompts of the medians over their turns, and in brackets the "
        "95 % bootstrap interval of that median, prompts resampled. wins, loses: the whole interval is on one side of 1; "
        f"unsure: fewer than {ENOUGH} prompts.",
        f"Everybody generates exactly {tokens} new ids per run and ignores end-of-sequence tokens, batch 1, full distribution "
        "(no top-k, no top-p). Times are of the whole call, prompt included, draftgraph's also with detokenisation; "
        "everybody ran once before, to warm up.",
        "tokens/call: new tokens per target call, mean over prompts ± standard error; nodes: drafted rows per target call; "
        "identical: prompts whose ids are those of transformers plain in every turn.",
    ]
    lines = lines if everything else lines[:1]
    if any(temperature > 0 for temperature in said["settings"]["temperatures"]):
        lines.append(
            "At temperatures above 0 texts differ by their random numbers, so only counts and times are compared."
        )
    if said["prompts"]["conversations"]:
        lines.append(said["prompts"]["conversations"])
    if everything:
        ran = [one for one in said["contenders"] if one["status"] == "ran" and one["note"]]
        lines += [f"{one['name']}: {one['note']}." for one in ran]
    return lines


def _agreement(said: Mapping[str, Any], exact: bool, limit: int | None) -> list[Sheet | Text]:
    found = said["differences"]
    verdict = [Text(line, BAD) for line in said["wrong"]]
    if not any(run[0] == 0 for run in said["runs"]):
        return [*verdict]
    if not found:
        return [Text("at temperature 0 every text of everybody is token by token that of transformers plain", GOOD)]
    rows = [
        (
            one["contender"], one["prompt"], str(one["position"]), "–" if one["gap"] is None else f"{one['gap']:.2g}",
            Text("near tie", FAINT) if one["near_tie"] else Text("differs", BAD if exact else HONEST),
        )
        for one in found[:limit]
    ]  # fmt: skip
    more = f" (the first {limit} of {len(found)})" if limit is not None and len(found) > limit else ""
    sheet = Sheet(
        f"greedy texts that differ from transformers plain{more}", ("contender", "prompt", "at", "logit gap", ""), rows
    )
    coarse = [] if exact else [Text(f"{said['models']['dtype']} rounds coarsely: differences are expected", HONEST)]
    return [sheet, *coarse, *verdict]


def _left_out(said: Mapping[str, Any], limit: int | None) -> list[Sheet | Text]:
    broken = [f"{f['path']}:{one['line']}: {one['reason']}" for f in said["prompts"]["files"] for one in f["broken"]]
    skipped = [f"{one['name']}: {one['reason']}" for one in said["prompts"]["skipped"]]
    parts: list[Sheet | Text] = []
    for what, lines in (("broken lines, left out", broken), ("prompts left out", skipped)):
        if lines:
            rest = f"; and {len(lines) - limit} more" if limit is not None and len(lines) > limit else ""
            parts.append(Text(f"{len(lines)} {what}: {'; '.join(lines[:limit])}{rest}", HONEST))
    files = [f"{f['used']} of {f['prompts']} from {f['path']} ({f['form']})" for f in said["prompts"]["files"]]
    return [*parts, Text(f"prompts: {'; '.join(files)}", FAINT)]


def _machine(said: Mapping[str, Any]) -> list[Text]:
    env = said["environment"]
    peers = "".join(f", {name} {version}" for name, version in env["peers"].items())
    lines = [
        Text(
            f"{env['cpu']} ({env['instructions']}), {env['cores']} cores, {env['threads']} threads, {env['system']}, "
            f"load average {env['load_before']} before and {env['load_after']} after. Python {env['python']}, "
            f"torch {env['torch']}, transformers {env['transformers']}, draftgraph {env['draftgraph']}{peers}. {env['date']}.",
            FAINT,
        )
    ]
    share = env["share_of_core"]
    if said["models"]["device"] == "cpu" and share is not None and share < BUSY:
        busy = f"the machine was busy: plain decoding had a core for {share:.0%} of its time; measure again when it is quiet"
        lines.append(Text(busy, HONEST))
    return lines
