"""How alike two models are along some texts: what every drafting method lives on, before any structure or rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from draftgraph.lab.predict.acceptance import by_text
from draftgraph.lab.predict.estimate import Estimate
from draftgraph.lab.predict.rows import PairRows

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
HISTOGRAM_BINS = 20
DECILES = 10
CALIBRATION_BINS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.01)
"""Upper ends of the bins of the drafter's best probability."""
SLACKS = (1.0, 1.6, 2.5, 4.0, 10.0)
SIBLINGS = (0, 1, 2)


@dataclass(frozen=True)
class CalibrationBin:
    """Positions where the drafter gives its best token a probability between two bounds, and what the target gives it."""

    positions: int
    promised: float
    confirmed: float


@dataclass(frozen=True)
class SlackCurve:
    """B(s) = mean of Σ_x min(s q'(x), p'(x)), one value per entry of SLACKS: the share of a node's mass that one SAMPLED child
    keeps when the layer has slack s. q' and p' are the laws without the `siblings` best tokens of q, renormalised."""

    siblings: int
    kept: Sequence[float]


@dataclass(frozen=True)
class Profile:
    """tv          total variation of p and q per position, mean over positions; overlap = 1 − tv is the plain acceptance rate.
    tv_quantiles   at QUANTILES. tv_histogram  positions per twentieth of [0, 1].
    tv_deciles     mean tv in every tenth of a text's predicted positions.
    agreement      share of positions where both find the same token likeliest.
    rejections     Σ tv per text: what token verification is expected to reject in one generation, drafts as long as the text
                   (Yin et al., 2411.00841, theorem 1). Its tokens per target call then tend to 1 / tv.
    target_entropy, drafter_entropy   nats per position. drafter_surprise  nats of −log q at the text's tokens.
    calibration    by the drafter's best probability. slack  by siblings removed.
    """

    texts: int
    positions: int
    tv: Estimate
    tv_quantiles: Sequence[float]
    tv_histogram: Sequence[int]
    tv_deciles: Sequence[float]
    overlap: Estimate
    agreement: Estimate
    rejections: Estimate
    target_entropy: float
    drafter_entropy: float
    drafter_surprise: float
    calibration: Sequence[CalibrationBin]
    slack: Sequence[SlackCurve]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"quantiles": QUANTILES, "slacks": SLACKS}


def make_profile(rows: PairRows) -> Profile:
    """The profile of a pair along texts. At temperature 0 the draft law is a point mass at the drafter's best token."""
    own = torch.arange(len(rows))
    best = rows.q.argmax(dim=1)
    tv = _total_variation(rows, best)
    agree = (rows.p.argmax(dim=1) == best).double()
    ends = torch.tensor([span.begin for span in rows.spans])
    per_text = torch.zeros(len(rows.spans), dtype=torch.float64).index_add_(0, rows.text_of, tv)
    mean = by_text(rows, own, tv)
    return Profile(
        texts=len(rows.spans),
        positions=len(rows),
        tv=mean,
        tv_quantiles=torch.quantile(tv, torch.tensor(QUANTILES, dtype=torch.float64)).tolist(),
        tv_histogram=torch.histc(tv, HISTOGRAM_BINS, 0.0, 1.0).long().tolist(),
        tv_deciles=_deciles(rows, tv),
        overlap=Estimate(1.0 - mean.value, mean.error, mean.texts, mean.count),
        agreement=by_text(rows, own, agree),
        rejections=by_text(rows, ends, per_text),
        target_entropy=_entropy(rows.p),
        drafter_entropy=_entropy(rows.q),
        drafter_surprise=-float(rows.q[own, rows.tokens].double().clamp_min(1e-30).log().mean()),
        calibration=_calibration(rows, best),
        slack=[_slack(rows, k) for k in SIBLINGS],
    )


def _total_variation(rows: PairRows, best: torch.Tensor) -> torch.Tensor:
    """f64[N], ½ Σ |p − q| = 1 − Σ min(p, q)."""
    if rows.greedy:
        return 1.0 - rows.p.gather(1, best[:, None])[:, 0].double()
    return torch.cat([1.0 - torch.minimum(p, q).sum(dim=1) for _, p, q, _ in rows.chunks()]).clamp_(0.0, 1.0)


def _deciles(rows: PairRows, tv: torch.Tensor) -> list[float]:
    """Mean over the positions in every tenth of their texts; NaN where no text is long enough to have any."""
    counts = torch.tensor([span.end - span.begin for span in rows.spans])[rows.text_of]
    begins = torch.tensor([span.begin for span in rows.spans])[rows.text_of]
    tenth = (torch.arange(len(rows)) - begins) * DECILES // counts
    sums, sizes = (torch.zeros(DECILES, dtype=torch.float64).index_add_(0, tenth, v) for v in (tv, torch.ones_like(tv)))
    return (sums / sizes).tolist()


def _entropy(laws: torch.Tensor) -> float:
    return float(torch.special.entr(laws).sum(dim=1, dtype=torch.float64).mean())


def _calibration(rows: PairRows, best: torch.Tensor) -> list[CalibrationBin]:
    promised, confirmed = (laws.gather(1, best[:, None])[:, 0].double() for laws in (rows.q, rows.p))
    where = torch.bucketize(promised, torch.tensor(CALIBRATION_BINS, dtype=torch.float64))
    bins = []
    for b in range(len(CALIBRATION_BINS)):
        mine = where == b
        if bool(mine.any()):
            bins.append(CalibrationBin(int(mine.sum()), float(promised[mine].mean()), float(confirmed[mine].mean())))
    return bins


def _slack(rows: PairRows, siblings: int) -> SlackCurve:
    """Positions where nothing is left outside the siblings do not count; a layer has no slot there."""
    sums, count = torch.zeros(len(SLACKS), dtype=torch.float64), 0
    for _, p, q, _ in rows.chunks():
        left = torch.stack((p, q))
        if siblings:
            left.scatter_(2, q.topk(min(siblings, q.shape[1]), dim=1).indices.expand(2, -1, -1), 0.0)
        mass = left.sum(dim=2, keepdim=True)
        possible = mass[:, :, 0].amin(dim=0) > 1e-6
        ours, theirs = (left[:, possible] / mass[:, possible]).unbind()
        sums += torch.stack([torch.minimum(s * theirs, ours).sum() for s in SLACKS])
        count += int(possible.sum())
    return SlackCurve(siblings, (sums / count).tolist() if count else [float("nan")] * len(SLACKS))
