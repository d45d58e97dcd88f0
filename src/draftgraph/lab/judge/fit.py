"""From mined mismatches to a judge: a head that is chosen on held-out questions, and the thresholds that it may be used with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from draftgraph.backends.checkpoint import read_safetensors
from draftgraph.backends.judge_files import packed
from draftgraph.errors import ModelError
from draftgraph.lab.judge.logistic import Logistic, fit_logistic, roc_auc
from draftgraph.lab.judge.mine import STATES
from draftgraph.lab.train.errors import TrainingError
from draftgraph.lab.train.whole_files import write_bytes
from draftgraph.verification.published.judge import JudgeHead

PENALTIES = tuple(10.0**power for power in range(-6, 2))
"""Weights of L2 that are tried."""
QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
AS_GOOD = 0.005
"""AUCs that differ by less are the same; of penalties with the same one the largest is taken."""
MISSED = 0.01
"""The recommended threshold forgives at most that share of the important mismatches, of held-out questions."""
PARTS = {"train": 0.7, "validation": 0.85, "test": 1.0}
"""Questions of each part, up to this share of all."""


@dataclass(frozen=True)
class Mined:
    """x  f32[n, 2 · width], hidden states before and behind the drafter's token. y  bool[n], important. question  i64[n]."""

    x: torch.Tensor
    y: torch.Tensor
    question: torch.Tensor

    def of(self, rows: torch.Tensor) -> Mined:
        return Mined(self.x[rows], self.y[rows], self.question[rows])


@dataclass(frozen=True)
class Cut:
    """A threshold, and what it does on held-out mismatches that had no part in the fit.

    quantile   of the validation scores. forgiven  share of all mismatches below it. missed  of the important ones.
    """

    quantile: float
    threshold: float
    forgiven: float
    missed: float


@dataclass(frozen=True)
class Fitted:
    """A head with what is known of it. aucs  by part, and of a head that was fitted to shuffled labels ("shuffled")."""

    logistic: Logistic
    penalty: float
    threshold: float
    cuts: Sequence[Cut]
    aucs: dict[str, float]
    counts: dict[str, dict[str, int]]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the card."""
        aucs = {name: None if math.isnan(auc) else round(auc, 4) for name, auc in self.aucs.items()}
        return {
            "penalty": self.penalty,
            "auc": aucs,
            "mismatches": self.counts,
            "cuts": [asdict(cut) for cut in self.cuts],
        }


def read_mined(folder: Path) -> Mined:
    """All mismatches of a mining folder. Raises TrainingError if there are none, ModelError for a broken file."""
    files = sorted((folder / STATES).glob("*.safetensors"))
    if not files:
        raise TrainingError(f"{folder} holds no mismatches; run `draftgraph judge mine` to its end first")
    xs: list[torch.Tensor] = []
    ys: list[torch.Tensor] = []
    questions: list[torch.Tensor] = []
    for file in files:
        tensors = read_safetensors(file)
        try:
            x, y = torch.cat([tensors["before"], tensors["behind"]], dim=1), tensors["important"].bool()
            if len(x) != len(y) or (xs and x.shape[1] != xs[0].shape[1]):
                raise ValueError("rows differ")
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            raise ModelError(f"{file} is no file of mismatches ({error}); delete it, and mine again") from error
        xs.append(x)
        ys.append(y)
        questions.append(torch.full((len(x),), len(questions)))
    mined = Mined(torch.cat(xs), torch.cat(ys), torch.cat(questions))
    if not bool(mined.x.isfinite().all()):
        raise ModelError(f"{folder} holds hidden states that are not finite; mine again with another dtype")
    return mined


def fit_head(mined: Mined, seed: int = 0) -> Fitted:
    """Fit heads with several penalties on most questions, and take the one with the largest AUC on others.

    Questions, not mismatches, are held out. The AUC that counts is that of "test": those had no part in any choice.

    Raises TrainingError where a part has no important or no unimportant mismatches.
    """
    parts = split(mined, seed)
    train, validation = parts["train"], parts["validation"]
    tried = {penalty: fit_logistic(train.x, train.y, penalty) for penalty in PENALTIES}
    aucs = {penalty: roc_auc(head.scores(validation.x), validation.y) for penalty, head in tried.items()}
    penalty = max(each for each in PENALTIES if aucs[each] >= max(aucs.values()) - AS_GOOD)
    head = tried[penalty]
    shuffled = train.y[torch.randperm(len(train.y), generator=torch.Generator().manual_seed(seed))]
    control = fit_logistic(train.x, shuffled, penalty)
    found = {name: roc_auc(head.scores(part.x), part.y) for name, part in parts.items()}
    found["shuffled"] = roc_auc(control.scores(parts["test"].x), parts["test"].y)
    counts = {
        name: {"important": int(part.y.sum()), "unimportant": int((~part.y).sum())} for name, part in parts.items()
    }
    threshold = recommended(head.scores(validation.x)[validation.y])
    cuts = list(_cuts(head.scores(validation.x), head.scores(parts["test"].x), parts["test"].y))
    return Fitted(head, penalty, threshold, cuts, found, counts)


def split(mined: Mined, seed: int) -> dict[str, Mined]:
    """The mismatches by the part of their question. Raises TrainingError where one kind is missing in a part."""
    questions = int(mined.question.max()) + 1
    order = torch.randperm(questions, generator=torch.Generator().manual_seed(seed))
    first, parts = 0, {}
    for name, share in PARTS.items():
        last = math.ceil(questions * share)
        part = parts[name] = mined.of(torch.isin(mined.question, order[first:last]))
        first, important = last, int(part.y.sum())
        if not 0 < important < len(part.y):
            raise TrainingError(
                f"of the {len(part.y)} mismatches for {name}, {important} are important: nothing can be learnt without both "
                "kinds; mine more questions"
            )
    return parts


def recommended(important: torch.Tensor) -> float:
    """The threshold that forgives a share of MISSED of these important mismatches, by their scores f64[n]."""
    return float(important.sort().values[int(MISSED * len(important))])


def _cuts(validation: torch.Tensor, test: torch.Tensor, y: torch.Tensor) -> list[Cut]:
    """The thresholds at QUANTILES of the validation scores, and what they do to the test part."""
    cuts = []
    for quantile in QUANTILES:
        threshold = float(validation.quantile(quantile))
        below = test < threshold
        cuts.append(Cut(quantile, threshold, float(below.double().mean()), float(below[y].double().mean())))
    return cuts


def write_judge(
    out: Path, fitted: Fitted, tap: str, probe: Sequence[int], known: torch.Tensor, report: dict[str, Any]
) -> None:
    """Write a judge. probe, known  tokens and the target's hidden states f32[n, width] of them. Raises TrainingError."""
    logistic = fitted.logistic
    head = JudgeHead(tap, logistic.weight, logistic.bias, logistic.mean, logistic.scale, tuple(probe), known)
    for name, content in packed(head, fitted.threshold, report | fitted.to_dict()).items():
        write_bytes(out / name, content)
