"""A prediction as rich renderables, and as a picture where matplotlib is installed. Nothing here measures anything."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from draftgraph.budget.costs import Costs
from draftgraph.errors import OptionError
from draftgraph.lab.predict.estimate import Estimate
from draftgraph.lab.predict.prediction import CHECKED_DEPTH, Prediction, Row
from draftgraph.lab.predict.profile import QUANTILES, SLACKS, Profile

SOURCES = {
    "own": "the target's own, drawn at this temperature: exact rows are unbiased",
    "natural": "natural: the target would write others, so everything below is an approximation (--own N makes it unbiased)",
}


def report(prediction: Prediction) -> Group:
    """Profile, acceptance, speed, and the best choice in words."""
    parts: list[Table | Text] = [_profile(prediction.profile, prediction), _calibration(prediction.profile)]
    parts += [_slack(prediction.profile), _acceptance(prediction), _caveat(prediction)]
    if prediction.costs is not None:
        parts += [_costs(prediction.costs), _speed(prediction)]
    return Group(*parts, _best(prediction))


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _profile(profile: Profile, prediction: Prediction) -> Table:
    table = Table(
        title=f"profile at temperature {prediction.temperature:g}: {profile.texts} texts, {profile.positions} positions",
        title_justify="left",
        show_header=False,
    )
    for name, value, note in _facts(profile, prediction):
        table.add_row(name, Text(value), Text(note, "dim"))
    return table


def _facts(profile: Profile, prediction: Prediction) -> list[tuple[str, str, str]]:
    quantiles = ", ".join(f"{100 * at:g} %: {v:.2f}" for at, v in zip(QUANTILES, profile.tv_quantiles, strict=True))
    deciles = " ".join("–" if math.isnan(v) else f"{v:.2f}" for v in profile.tv_deciles)
    return [
        ("texts", prediction.source, SOURCES[prediction.source]),
        ("overlap", _pm(profile.overlap, 3), "Σ min(p, q) = 1 − TV: how often one drafted token is kept"),
        ("agreement", _pm(profile.agreement, 3), "both models find the same token likeliest"),
        ("TV by position", quantiles, "quantiles over positions"),
        ("TV along a text", deciles, "means by tenth of the text"),
        ("rejections", _pm(profile.rejections, 1), "per text: Σ TV, endless drafts under the token rule"),
        (
            "nats",
            f"{profile.target_entropy:.2f} and {profile.drafter_entropy:.2f}",
            f"entropy of target and drafter; the drafter pays {profile.drafter_surprise:.2f} per token of the texts",
        ),
    ]


def _calibration(profile: Profile) -> Table:
    table = _table("calibration: the drafter's best token", "positions", "drafter says", "target says")
    for one in profile.calibration:
        table.add_row(str(one.positions), f"{one.promised:.2f}", f"{one.confirmed:.2f}")
    return table


def _slack(profile: Profile) -> Table:
    table = _table(
        "share of a node's mass that one SAMPLED child keeps, by slack s", "FIXED siblings", *map(str, SLACKS)
    )
    for curve in profile.slack:
        table.add_row(str(curve.siblings), *(f"{kept:.2f}" for kept in curve.kept))
    return table


def _acceptance(prediction: Prediction) -> Table:
    measured = any(row.measured is not None for row in prediction.rows)
    columns = ("tokens per target call", "by", "nodes", *(("measured", "off by") if measured else ()))
    table = _table("predicted acceptance, whole generations ± standard error", "draft", "rule", *columns)
    for row in prediction.rows:
        cells = [row.draft, row.rule, _pm(row.tokens), "identity" if row.exact else "surrogate", f"{row.nodes:.0f}"]
        if row.measured is not None and row.off is not None:
            cells += [_pm(row.measured), f"{row.off:+.1f} s.e."]
        table.add_row(*cells)
    return table


def _caveat(prediction: Prediction) -> Text:
    check = prediction.surrogate
    return Text(
        f"identity: exact in expectation along the target's text. surrogate: rows off the text are borrowed; on a chain of "
        f"{CHECKED_DEPTH} it says {check.said.value:.2f} where {check.true.value:.2f} is true (off by {_pm(check.off)}). The "
        "engine also tunes the drafter's temperature as it goes, which identities leave out.",
        "dim",
    )


def _costs(costs: Costs) -> Table:
    assert costs.drafter is not None, "a pair has a drafter"
    title = f"ms per pass by rows ({costs.note}), {costs.threads} threads, median (10–90 %), {costs.context} tokens of context"
    sizes = sorted({*costs.target.rows, *costs.drafter.rows})
    table = _table(title, "rows", *map(str, sizes))
    if costs.busy:
        table.caption = "the machine was busy: passes of one kind differ much, so do not trust the speeds below"
    for name, cost in (("target", costs.target), ("drafter", costs.drafter)):
        triples = zip(cost.seconds, cost.low, cost.high, strict=True)
        cells = dict(
            zip(cost.rows, (f"{1e3 * s:.2f} ({1e3 * a:.2f}–{1e3 * b:.2f})" for s, a, b in triples), strict=True)
        )
        table.add_row(name, *(cells.get(rows, "–") for rows in sizes))
    return table


def _speed(prediction: Prediction) -> Table:
    assert prediction.costs is not None
    title = f"predicted speed; plain decoding {1.0 / prediction.costs.plain:.0f} tokens/s; break-even: tokens per call at 1×"
    table = _table(title, "draft", "rule", "tokens/call", "ms per round", "tokens/s", "speed-up", "break-even")
    for row in sorted(prediction.rows, key=lambda row: -(row.pace.speedup if row.pace else 0.0)):
        if row.pace is not None:
            numbers = (row.pace.tokens, 1e3 * row.pace.seconds, row.pace.speedup, row.pace.break_even)
            tokens, ms, speedup, even = (f"{number:.2f}" for number in numbers)
            table.add_row(row.draft, row.rule, tokens, ms, f"{row.pace.tokens_per_second:.0f}", speedup, even)
    return table


def _best(prediction: Prediction) -> Text:
    """The conclusion, in words."""
    best = prediction.best
    chain = max(
        (row for row in prediction.rows if row.draft.startswith("chain")),
        key=lambda row: row.tokens.value if row.pace is None else row.pace.speedup,
    )
    if best.pace is None:
        return Text(
            f"most tokens per target call: {_named(best)} ({best.tokens.value:.2f}). Ask with {_asked(best)}", "bold"
        )
    if prediction.costs is not None and prediction.costs.busy:
        return Text(
            "no advice: the machine was busy when passes were timed. Ask again when it is idle, which times them again, "
            f"or ask with --no-speed; as timed, {_named(best)} comes out first at {best.pace.speedup:.2f}× plain decoding",
            "bold yellow",
        )
    if best.pace.speedup <= 1.0:
        return Text(
            f"do not speculate with this pair here: the best draft, {_named(best)}, is predicted at {best.pace.speedup:.2f}× "
            f"plain decoding; it needs {best.pace.break_even:.2f} tokens per target call and gets {best.pace.tokens:.2f}",
            "bold red",
        )
    depth = (
        "" if chain is best or chain.pace is None else f" The best chain is {_named(chain)}, {chain.pace.speedup:.2f}×."
    )
    return Text(
        f"best: {_named(best)}, {best.pace.speedup:.2f}× plain decoding ({best.pace.tokens:.2f} tokens per target call, "
        f"break-even {best.pace.break_even:.2f}).{depth} Ask with {_asked(best)}",
        "bold green",
    )


def _named(row: Row) -> str:
    return f"{row.draft} under rule {row.rule}"


def _asked(row: Row) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in row.options.items())


def _pm(estimate: Estimate, digits: int = 2) -> str:
    error = "?" if math.isnan(estimate.error) else f"{estimate.error:.{digits}f}"
    return f"{estimate.value:.{digits}f} ± {error}"


def need_matplotlib() -> None:
    """Raise OptionError if there is no matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise OptionError(
            "--plot needs matplotlib, which is not installed; write `pip install matplotlib`, or use --json"
        )


def draw(prediction: Prediction, path: Path) -> None:
    """Write a picture: how TV is spread, how deep drafts survive, and tokens per target call by row.

    Raises OptionError if the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(16, 0.22 * len(prediction.rows) + 2.5))
    counts: Sequence[int] = prediction.profile.tv_histogram
    left.bar([(i + 0.5) / len(counts) for i in range(len(counts))], counts, width=0.9 / len(counts))
    left.set(title="TV of p and q by position", xlabel="TV", ylabel="positions")
    middle.plot(range(1, len(prediction.by_depth) + 1), prediction.by_depth, marker="o")
    middle.set(title="kept up to a depth (longest chain)", xlabel="drafted tokens", ylim=(0, 1))
    places = range(len(prediction.rows), 0, -1)
    errors = [0.0 if math.isnan(row.tokens.error) else row.tokens.error for row in prediction.rows]
    right.errorbar([row.tokens.value for row in prediction.rows], places, xerr=errors, fmt="o", capsize=2)
    measured = [(row.measured.value, at) for row, at in zip(prediction.rows, places, strict=True) if row.measured]
    if measured:
        right.plot(*zip(*measured, strict=True), "x", label="measured")
        right.legend()
    right.set_yticks(list(places), [f"{row.draft}, {row.rule}" for row in prediction.rows], fontsize=7)
    right.set(title="tokens per target call ± standard error")
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"cannot draw into {str(path)!r}: {error}; write a file name such as prediction.png"
        ) from None
    finally:
        pyplot.close(figure)
