"""draftgraph audit at work: options become a plan, and what was found a report."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from draftgraph.cli.program import tell
from draftgraph.errors import OptionError, brief, unknown_name
from draftgraph.files import BrokenFileError
from draftgraph.lab.audit.report import progress_bar
from draftgraph.lab.remote.audit import Asking, ServerAudit, audit_server
from draftgraph.lab.remote.judge import Sight
from draftgraph.lab.remote.plan import Plan, Way
from draftgraph.lab.remote.report import selfcheck_report, server_report
from draftgraph.lab.remote.selfcheck import SIZE, SelfCheck, made_up, resampled, self_check
from draftgraph.strictjson import parse
from draftgraph.view.console import print_report

PROMPTS = (
    "Once upon a time, there was a",
    "def add(a, b):\n    return",
    "The best way to learn a language is",
    "Dear Anna,\n\nthank you for your letter. I",
)
"""Where nobody writes any."""
KINDS, USES = ("auto", "completions", "chat"), ("auto", "tokens", "never")
OURS = frozenset({"prompt", "messages", "max_tokens", "seed", "logprobs", "top_logprobs", "stream", "n", "temperature"})
"""Fields that the audit writes itself."""
MADE_UP = (2, 5000, 2)
"""Prompts, texts and tokens of a self-check without a server: enough to find a bias of `SIZE`."""


@dataclass(frozen=True)
class Written:
    """The options as they were written; see the command."""

    url: str | None
    off: str | None
    against: str | None
    on: str | None
    body: str | None
    model: str | None
    keys: tuple[str | None, str | None]
    endpoint: str
    logprobs: str
    concurrency: int
    timeout: float
    prompts: tuple[str, ...]
    samples: int
    tokens: int
    greedy_tokens: int
    temperature: float
    alpha: float
    seed: int
    keep: Path | None
    self_check: bool

    def plan(self) -> Plan:
        """Raises OptionError."""
        assert self.url is not None
        if not math.isfinite(self.temperature):
            raise OptionError(f"temperature={self.temperature} is not possible; write a number >= 0, e.g. 1")
        ways = [Way(self.url, self.model, _fields("--on", self.on))]
        if self.off is not None or self.against is not None:
            ways.append(Way(self.against or self.url, self.model, _fields("--off", self.off)))
        return Plan(
            ways=tuple(ways),
            prompts=self.prompts or PROMPTS,
            samples=self.samples,
            tokens=self.tokens,
            greedy_tokens=self.greedy_tokens,
            temperature=self.temperature,
            body=_fields("--body", self.body),
            seed=self.seed,
        )

    def asking(self) -> Asking:
        """Raises OptionError."""
        for kind, value, known in (("endpoint", self.endpoint, KINDS), ("use of logprobs", self.logprobs, USES)):
            if value not in known:
                raise unknown_name(kind, value, known)
        if self.keys[1] is not None and self.against is None:
            raise OptionError("--against-api-key is the key of --against; write that as well, or leave it out")
        keys = (self.keys[0], self.keys[0] if self.against is None else self.keys[1])
        return Asking(self.endpoint, self.logprobs, keys, self.concurrency, self.timeout, self.keep)


def run_audit(written: Written, as_json: bool) -> tuple[str, bool]:
    """Audit a server and report; the verdict, and whether Ctrl-C ended it. Raises OptionError and ServerError."""
    plan, asking = written.plan(), written.asking()
    with progress_bar("asking", as_json) as told:
        found, plain = audit_server(plan, asking, written.alpha, told, tell)
    check = None
    if written.self_check and found.judged is not None:
        population = [answers for answers in plain if answers]
        samples = min(len(answers) for answers in population)
        draw = resampled(population, samples, len(plan.ways))
        check = _checked(draw, found.sight, written, max(SIZE, 1.02 * (found.detectable_tv or 0.0)), as_json)
    if found.interrupted:
        tell(f"interrupted after {sum(found.answers)} of {len(plan.tasks)} answers; what follows is what they say")
    _show(found, check, as_json)
    return found.verdict, found.interrupted


def run_self_check(written: Written, as_json: bool) -> bool:
    """Test the test on a made-up model. Raises OptionError without --self-check."""
    if not written.self_check:
        raise OptionError(
            "a server is needed; write draftgraph audit http://HOST:PORT, or --self-check to test the test"
        )
    prompts, samples, tokens = MADE_UP
    checks = []
    for listed in (0, 8):
        draw = made_up(prompts, samples, tokens, written.seed)
        checks.append(_checked(draw, Sight(tokens, True, listed), written, SIZE, as_json))
    if as_json:
        typer.echo(json.dumps([vars(check) | {"held": check.held} for check in checks]))
    else:
        print_report([part for check in checks for part in selfcheck_report(check)])
    return all(check.held for check in checks)


def _checked(draw: Any, sight: Sight, written: Written, size: float, as_json: bool) -> SelfCheck:
    with progress_bar("planting mistakes", as_json) as told:
        return self_check(draw, sight, written.alpha, np.random.default_rng(written.seed), size, told=told)


def _show(found: ServerAudit, check: SelfCheck | None, as_json: bool) -> None:
    """The one place that prints."""
    if as_json:
        checked = None if check is None else vars(check) | {"held": check.held}
        typer.echo(json.dumps(found.to_dict() | {"self_check": checked}))
        return
    print_report([*server_report(found), *([] if check is None else selfcheck_report(check))], apart=True)


def _fields(option: str, text: str | None) -> dict[str, Any]:
    """An object of JSON. Raises OptionError for anything else, and for fields that the audit writes itself."""
    if text is None:
        return {}
    try:
        fields = parse(text)
    except BrokenFileError as error:
        raise OptionError(
            f"{option} cannot read {brief(text)}: {error}; write an object, e.g. '{{\"budget\": 0}}'"
        ) from None
    if not isinstance(fields, dict):
        raise OptionError(f"{option} takes an object, e.g. '{{\"budget\": 0}}'; got {brief(text)}")
    if taken := sorted(OURS & fields.keys()):
        raise OptionError(f"{option} cannot set {', '.join(taken)}: the audit writes that itself; use its own options")
    return fields
