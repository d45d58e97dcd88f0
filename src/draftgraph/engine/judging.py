"""The rule that judges, from the options that name it; and whether the heads of rules were made for a target."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch

from draftgraph.backends.base import CausalLM, Feed
from draftgraph.backends.judge_files import Judge, read_judge, stamp_of
from draftgraph.errors import ModelError, OptionError, PairError, require
from draftgraph.verification.base import Head, Rule
from draftgraph.verification.published.judge import JudgeRule

RULE = JudgeRule.name


def refuse_without_judge(rule: str | Rule, judge: Any, threshold: Any) -> None:
    """Raise OptionError for the rule without its head, and for the folder of the head without the rule."""
    headless = isinstance(rule, Rule) and rule.name == RULE and rule.head is None
    if rule != RULE and not headless:
        for name, value in (("judge", judge), ("threshold", threshold)):
            if value is not None:
                raise OptionError(
                    f"{name} is for rule={RULE!r}, which is not lossless; write that rule, or leave {name} out"
                )
        return
    if judge is None or headless:
        raise OptionError(
            f"rule {RULE!r} needs the head that says which tokens matter; write judge=FOLDER of `draftgraph judge fit`, or "
            "rule='layer'"
        )
    require(isinstance(judge, str | PathLike), "judge", judge, "the folder of `draftgraph judge fit`")


def judge_rule(folder: str | Path, threshold: float | None) -> JudgeRule:
    """The rule with the head in a folder. threshold  None: the one that is kept beside the head.

    Raises ModelError for files that are missing or broken, OptionError for a threshold that is not possible.
    """
    path = Path(folder)
    judge = _read(path, stamp_of(path))
    return JudgeRule(judge.head, judge.threshold if threshold is None else threshold)


@lru_cache(maxsize=8)
def _read(folder: Path, stamp: Sequence[int]) -> Judge:
    """One head for all engines and requests that name it. stamp  tells the files from later ones of the same names."""
    return read_judge(folder)


class Heads:
    """The heads that were found to belong to one target."""

    def __init__(self, target: CausalLM) -> None:
        self._target = target
        self._known: WeakSet[Head] = WeakSet()

    def recognise(self, rule: Rule) -> None:
        """Refuse a rule whose head was made for another target, or reads what the target does not give.

        Raises PairError, OptionError, ModelError.
        """
        head = rule.head
        if head is None or head in self._known:
            return
        if max(head.probe) >= self._target.vocab_size:
            raise PairError(
                f"rule {rule.name!r} has a head for a target with token {max(head.probe)}, and the vocabulary here has "
                f"{self._target.vocab_size} tokens; fit one for this target (draftgraph judge), or leave it out"
            )
        try:
            states = self._states(head)
        except (OptionError, ModelError) as error:
            raise type(error)(
                f"rule {rule.name!r} reads hidden states, which are not to be had here: {error}"
            ) from error
        head.refuse_other_target(states)
        self._known.add(head)

    @torch.inference_mode()
    def _states(self, head: Head) -> dict[str, torch.Tensor]:
        """Hidden states of the probe, f[rows, width] by name."""
        text = self._target.open(len(head.probe))
        try:
            self._target.expect(text, len(head.probe))
            return dict(self._target.forward([Feed(text, list(head.probe))], head.taps)[0].taps)
        finally:
            self._target.close(text)
