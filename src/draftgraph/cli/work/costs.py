"""draftgraph costs at work: the table of an engine, and where it is kept."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.text import Text

from draftgraph.budget.costs import Cost, Costs
from draftgraph.cli.options import Chosen, Drafting
from draftgraph.cli.work.engines import load_engine, make_config, place
from draftgraph.engine.pair_costs import costs_file
from draftgraph.view.console import print_report
from draftgraph.view.sheet import Sheet
from draftgraph.view.status import status


def run(chosen: Chosen, drafting: Drafting, refresh: bool, as_json: bool) -> None:
    """Measure if that was asked for or is needed, and print. Raises OptionError."""
    place(chosen)
    engine = load_engine(chosen, make_config(drafting), as_json)
    with status("timing these models on this machine, once", as_json):
        costs = engine.warm_up(refresh)
    file = costs_file(engine.target, engine.drafter, engine.config)
    kept = file if file is not None and file.is_file() else None
    if as_json:
        typer.echo(json.dumps(costs.to_dict() | {"busy": costs.busy, "file": None if kept is None else str(kept)}))
    else:
        print_report(costs_report(costs, kept))


def costs_report(costs: Costs, file: Path | None) -> list[Sheet | Text]:
    """Milliseconds by rows, what is beside them, and the file that holds them."""
    parts = [("target", costs.target), *([("drafter", costs.drafter)] if costs.drafter is not None else [])]
    sheets = [Sheet(f"a pass of the {name}", ("rows", "ms", "10 %", "90 %", "times 1 row", "passes"), _rows(cost), 5)
              for name, cost in parts]  # fmt: skip
    per_round, per_pass, per_node = (1e3 * seconds for seconds in costs.overhead)
    told = [
        f"{costs.threads} threads, {costs.context} tokens before the rows; {costs.note}",
        f"plain decoding takes {1e3 * costs.plain:.2f} ms per token",
        f"beside the passes a round takes {per_round:.2f} ms, {per_pass:.2f} per drafter pass and {per_node:.3f} per node",
        "kept nowhere" if file is None else f"kept in {file}",
    ]
    if costs.target.change:
        told.append(f"a pass of another size than the last one takes {1e3 * costs.target.change:.2f} ms more")
    if costs.target.path:
        told.append(f"every further path of a draft takes {1e3 * costs.target.path:.2f} ms more, beside its rows")
    if costs.busy:
        told.append("others used the machine meanwhile; a later process, or --refresh, times the models again")
    return [*sheets, *map(Text, told)]


def _rows(cost: Cost) -> list[tuple[str, ...]]:
    columns = zip(cost.rows, cost.seconds, cost.low, cost.high, cost.repeats, strict=True)
    return [
        (
            str(rows),
            *(f"{1e3 * seconds:.2f}" for seconds in (median, low, high)),
            f"{median / cost.seconds[0]:.2f}",
            str(n),
        )
        for rows, median, low, high, n in columns
    ]
