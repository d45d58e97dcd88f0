"""How much longer are accepted drafts if unimportant mismatches are forgiven, and how many answers go wrong?

    python -m experiments.judge [--questions 300] [--mined 300] [--threads 1] [--quick]

A tiny target and a tinier drafter are trained on digit sums in words (`experiments.sums`). Mismatches are mined, a judge is
fitted, and other questions are answered at several thresholds. Two controls forgive as many mismatches: one by a coin, and one by
a judge that was fitted to shuffled labels. Writes judge.json and judge.md into --out.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import draftgraph as dg
from draftgraph.backends.judge_files import read_judge
from draftgraph.lab.judge.fit import Mined, fit_head, read_mined, split
from draftgraph.lab.judge.logistic import fit_logistic
from draftgraph.lab.judge.project import MineSettings, fit, mine
from draftgraph.lab.judge.questions import Question, last_number
from draftgraph.verification.published.judge import JudgeHead, JudgeRule
from experiments import sums
from experiments.experiment import Experiment, at_least, table

MOST, LENGTH = 56, 8
"""Tokens of an answer, and of a draft."""
QUANTILES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CONTROLLED = ("quantile 0.2", "quantile 0.5", "recommended", "quantile 0.8")
"""Ways that are compared with controls."""
RESAMPLES = 4000
SEEDS = range(5)
"""Of splits, for the AUC."""


@dataclass(frozen=True)
class Answered:
    """What a way of judging makes of all questions.

    name  of the way. forgives  share of held-out mismatches. right  per question. same  answers that are those of the target.
    length  tokens per target call. important  share of the important mismatches that the way forgives.
    """

    name: str
    threshold: float
    forgives: float
    important: float
    right: Sequence[bool]
    same: int
    length: float

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.right)


class CoinHead(JudgeHead):
    """P(important) by chance: a control that forgives as often as its threshold says."""

    def importance(self, before: torch.Tensor, behind: torch.Tensor) -> list[float]:
        found: list[float] = torch.rand(len(before), generator=_coin).tolist()
        return found


_coin = torch.Generator().manual_seed(0)


def asked(count: int, seed: int) -> list[list[int]]:
    """The terms of `count` questions."""
    chance = random.Random(seed)
    return [sums.terms_of(chance) for _ in range(count)]


class Bench:
    """The pair, and questions that nothing was learnt from."""

    def __init__(self, target: Any, drafter: Any, questions: Sequence[Sequence[int]]) -> None:
        self.target, self.drafter, self.words, self.questions = target, drafter, sums.tokenizer(), questions
        self.own = [result.token_ids for result in self._answer("walk", budget=0)]

    def engine(self, rule: Any, **options: Any) -> dg.Engine:
        drafting = {"structure": "chain", "budget": LENGTH} | options
        return dg.Engine.from_pretrained(
            self.target, draft_model=self.drafter, tokenizer=self.words, rule=rule, backend="torch", **drafting
        )

    def _answer(self, rule: Any, **options: Any) -> list[dg.Result]:
        prompts = [sums.prompt_of(terms) for terms in self.questions]
        return self.engine(rule, **options).generate(prompts, max_new_tokens=MOST)

    def run(self, name: str, rule: JudgeRule, held: Mined) -> Answered:
        """All questions under a rule. held  mismatches that had no part in the fit."""
        results = self._answer(rule)
        assert not any(result.stats.lossless for result in results)
        rounds = sum(result.stats.num_rounds for result in results)
        accepted = sum(result.stats.num_accepted_tokens for result in results)
        right = [last_number(str(sum(terms)), r.text) for terms, r in zip(self.questions, results, strict=True)]
        same = sum(result.token_ids == own for result, own in zip(results, self.own, strict=True))
        assert rule.head is not None
        scores = torch.tensor(rule.head.importance(*held.x.chunk(2, dim=1)))
        below = scores < rule.threshold
        shares = float(below.double().mean()), float(below[held.y].double().mean())
        return Answered(name, rule.threshold, *shares, right, same, 1.0 + accepted / rounds)


def lost(answered: Answered, exact: Answered) -> tuple[float, float]:
    """The 95 % interval of the difference in accuracy from the exact rule, in points, by a bootstrap over questions.

    Where no question differs, every resample says 0. Then the lower end is the largest loss that shows in none of the questions
    with a probability of 5 %.
    """
    pairs = torch.tensor(answered.right, dtype=torch.float64) - torch.tensor(exact.right, dtype=torch.float64)
    if answered is not exact and not bool(pairs.any()):
        return -100.0 * (1.0 - 0.05 ** (1.0 / len(pairs))), 0.0
    chosen = torch.randint(len(pairs), (RESAMPLES, len(pairs)), generator=torch.Generator().manual_seed(1))
    low, high = (100.0 * pairs[chosen].mean(dim=1)).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def mined_from(bench: Bench, count: int, folder: Path) -> dict[str, Any]:
    """Mine other questions."""
    engine = bench.engine("auto", max_batch=32)
    terms = asked(count, seed=3)
    questions = [Question(tuple(bench.words(sums.prompt_of(each))["input_ids"]), str(sum(each))) for each in terms]
    layers = bench.target.config.num_hidden_layers
    fingerprints = engine.target.fingerprint, engine.drafter.model.fingerprint  # type: ignore[union-attr]
    settings = MineSettings("sums", layers, *fingerprints, f"{count} sums", "last-number", MOST)
    return mine(engine, settings, questions, last_number, folder, 32)


def sweep(bench: Bench, folder: Path, mined: Mined) -> tuple[list[Answered], list[Answered]]:
    """The judge at several thresholds, the smallest first; and the controls, which forgive as large a share."""
    judge, parts = read_judge(folder), split(mined, 0)
    train, held = parts["train"], parts["test"]
    scores = torch.tensor(judge.head.importance(*parts["validation"].x.chunk(2, dim=1)), dtype=torch.float64)
    cuts = {f"quantile {quantile:g}": float(scores.quantile(quantile)) for quantile in QUANTILES}
    cuts |= {"exact": 0.0, "recommended": judge.threshold, "everything": 1.0}
    ways = [
        bench.run(name, JudgeRule(judge.head, cut), held)
        for name, cut in track(sorted(cuts.items(), key=lambda cut: cut[1]), "thresholds", transient=True)
    ]
    order = torch.randperm(len(train.y), generator=torch.Generator().manual_seed(0))
    fitted = fit_logistic(train.x, train.y[order], 1e-2)
    parts_of = {"weight": fitted.weight, "bias": fitted.bias, "mean": fitted.mean, "scale": fitted.scale}
    shuffled, coin = replace(judge.head, **parts_of), CoinHead(**vars(judge.head))
    said = torch.tensor(shuffled.importance(*parts["validation"].x.chunk(2, dim=1)), dtype=torch.float64)
    controls = []
    for way in track([way for way in ways if way.name in CONTROLLED], "controls", transient=True):
        controls.append(bench.run(f"coin, as {way.name}", JudgeRule(coin, way.forgives), held))
        controls.append(
            bench.run(f"shuffled, as {way.name}", JudgeRule(shuffled, float(said.quantile(way.forgives))), held)
        )
    return ways, controls


def rows_of(ways: Sequence[Answered], exact: Answered) -> list[list[str]]:
    rows = []
    for way in ways:
        low, high = lost(way, exact)
        rows.append([
            way.name, f"{way.threshold:.3g}", f"{way.forgives:.0%}", f"{way.important:.0%}", f"{way.length:.2f}",
            f"{100 * way.accuracy:.1f}", f"{100 * (way.accuracy - exact.accuracy):+.1f} ({low:+.1f} … {high:+.1f})",
            f"{way.same} of {len(way.right)}",
        ])  # fmt: skip
    return rows


COLUMNS = (
    "way", "threshold", "forgives", "of the important", "tokens per target call", "right, %", "difference, points (95 %)",
    "same text",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    study = Experiment("judge", "Forgiven mismatches: length against accuracy", __doc__, "few steps and questions")
    study.parser.add_argument("--questions", type=at_least(2), default=300, help="that are answered at every threshold")
    study.parser.add_argument("--mined", type=at_least(20), default=300, help="questions that mismatches come from")
    options = study.start(arguments)
    begun, scale = time.process_time(), 0.3 if options.quick else 1.0
    target, drafter = (
        sums.train(replace(shape, steps=int(scale * shape.steps)), seed=1) for shape in (sums.TARGET, sums.DRAFTER)
    )
    bench = Bench(target, drafter, asked(options.questions, seed=4))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        found = mined_from(bench, options.mined, folder / "mined")
        report = fit(folder / "mined", folder / "judge")
        mined = read_mined(folder / "mined")
        ways, controls = sweep(bench, folder / "judge", mined)
    aucs = [fit_head(mined, seed).aucs for seed in SEEDS]
    seconds = time.process_time() - begun
    exact = ways[0]
    assert (exact.name, exact.same) == ("exact", len(exact.right)), "threshold 0 is the greedy text, token for token"
    mean = {name: sum(auc[name] for auc in aucs) / len(aucs) for name in ("test", "shuffled")}
    print(study.save(
        [
            f"Mined: {found['mismatches']} mismatches in {found['questions']} questions, of which {found['important']} are "
            f"important. AUC on mismatches of held-out questions {mean['test']:.3f}, with shuffled labels {mean['shuffled']:.3f} "
            f"(means of {len(aucs)} splits). The exact rule answers {100 * exact.accuracy:.1f} % right.",
            f"Chains of {LENGTH} tokens, {options.questions} questions. \"forgives\" are shares of held-out mismatches below the "
            "threshold; differences are paired, with a bootstrap over questions. The recommended threshold is that of the card.",
            table(COLUMNS, rows_of(ways, exact)),
            "Controls that forgive as large a share: by a coin, and by a judge that was fitted to shuffled labels.",
            table(COLUMNS, rows_of(controls, exact)),
            f"All of it took {seconds:.0f} seconds of CPU time.",
        ],
        mined=found, judge=report, aucs=aucs, ways=list(map(asdict, ways)), controls=list(map(asdict, controls)),
        cpu_seconds=round(seconds, 1),
    ))  # fmt: skip


if __name__ == "__main__":
    main()
