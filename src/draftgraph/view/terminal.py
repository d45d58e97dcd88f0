"""Rounds and results as rich renderables. Pure functions: nothing here prints, loads or decodes a model.

Every mark is readable without colours, so that piped output says the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from draftgraph.request.record import RoundRecord, decisions
from draftgraph.request.stats import Stats
from draftgraph.types import ROOT
from draftgraph.view.printable import on_one_line, printable
from draftgraph.view.why import why

Decode = Callable[[int], str]
"""decode(token id) -> its text."""

ACCEPTED, BONUS, REJECTED, MERGED = "bold green", "bold yellow", "dim", "magenta"
DRAFTED_ORIGIN = "drafter"
"""Origin of a node that the drafter was asked for; every other origin is a merge or a look-up."""


def legend() -> Text:
    """What the colours and marks of `round_tree` and `transcript` mean."""
    return Text.assemble(
        "legend  ",
        ("✓ accepted drafted token", ACCEPTED),
        "  ",
        ("+ bonus token: the target's own", BONUS),
        "  ",
        ("not accepted", REJECTED),
        "\n        0.42 chance to be reached, as estimated · S SAMPLED slot · F FIXED slot\n        ",
        ("↩ copy", MERGED),
        ", from: merge, rejected, own, context, text, table, search",
    )


def transcript(rounds: Iterable[RoundRecord], pieces: Sequence[str]) -> Text:
    """The generated text, every token coloured by who chose it; pieces[i] is the text that token i added."""
    drafted = [i < len(record.path) for record in rounds for i in range(record.emitted)]
    # An interruption may strike between a token and its record; such a token is not drawn.
    return Text.assemble(
        *((printable(piece), ACCEPTED if flag else BONUS) for piece, flag in zip(pieces, drafted, strict=False))
    )


def round_tree(record: RoundRecord, number: int, decode: Decode) -> Tree:
    """One round's draft graph, unrolled: a run of single children shares a line."""
    accepted = min(len(record.path), record.emitted)
    title = Text.assemble(
        (f"round {number}", "bold"),
        f"  {_count(len(record.tokens), 'node')}, {_count(record.num_passes, 'drafter pass', 'es')}, "
        f"{accepted} accepted, {_count(record.emitted, 'token')} out",
        *([(f"\n  {on_one_line(record.reason)}", "dim")] if record.reason else []),
        *([(f"\n  drafted meanwhile: {_meanwhile(record, decode)}", "dim")] if record.onward else []),
    )
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(record.parents):
        children.setdefault(parent, []).append(node)
    end = record.path[-1] if record.path else ROOT
    children.setdefault(end, []).append(_BONUS_NODE)
    tree = Tree(title, guide_style="dim")
    pending = [(tree, node) for node in children[ROOT]]
    while pending:
        branch, node = pending.pop(0)
        run = [node]
        while len(children.get(run[-1], ())) == 1:
            run.append(children[run[-1]][0])
        below = branch.add(_Run([_node(record, member, decode) for member in run]))
        pending += [(below, child) for child in children.get(run[-1], ())]
    refused = [node for node in children[end] if node != _BONUS_NODE]
    if (
        refused and record.masses
    ):  # of the tokens that the path could have gone on with, the one that was hoped for most
        node = max(refused, key=lambda child: record.scores[child])
        tree.add(Text(f"why not {_quoted(decode(record.tokens[node]))}? {why(record, node)}", "dim"))
    return tree


def _meanwhile(record: RoundRecord, decode: Decode) -> str:
    """The tokens that were drafted while the target scored the nodes, and what became of them."""
    tokens = "  ".join(_quoted(decode(token)) for token in record.onward)
    complete = len(record.path) == len(record.tokens) and record.bonus == record.onward[0]
    return f"{tokens}, {'the first one accepted' if complete else 'for another text'}"


def nodes_table(record: RoundRecord, decode: Decode) -> Table:
    """Every node of a round by its number: its token, what became of it, and why."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, justify in (
        ("node", "right"),
        ("behind", "right"),
        ("token", "left"),
        ("what became of it, and why", "left"),
    ):
        table.add_column(name, justify=justify, style="dim" if name in ("node", "behind") else "")  # type: ignore[arg-type]
    for node, parent in enumerate(record.parents):
        token = Text(_quoted(decode(record.tokens[node])), ACCEPTED if node in record.path else "")
        table.add_row(str(node), "text" if parent == ROOT else str(parent), token, Text(why(record, node)))
    return table


@dataclass(frozen=True)
class _Run:
    """Nodes in one line, or in as many as the width demands; a node itself is not broken."""

    nodes: Sequence[Text]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = self.nodes[0]
        for node in self.nodes[1:]:
            if line.cell_len + node.cell_len + 2 > options.max_width:
                yield line
                line = node
            else:
                line = Text("  ").join((line, node))
        yield line


_BONUS_NODE = -2
"""Stands for the bonus token among node indices (ROOT is -1)."""


def _node(record: RoundRecord, node: int, decode: Decode) -> Text:
    if node == _BONUS_NODE:
        cut = "" if record.emitted > len(record.path) else " (not emitted)"
        return Text(f"+ {_quoted(decode(record.bonus))} bonus{cut}", BONUS)
    accepted = node in record.path
    text = Text.assemble(
        (f"{'✓ ' if accepted else ''}{_quoted(decode(record.tokens[node]))}", ACCEPTED if accepted else REJECTED),
        (f" {record.scores[node]:.2f} {'S' if record.sampled[node] else 'F'}", "green" if accepted else REJECTED),
    )
    if accepted and record.path.index(node) >= record.emitted:
        text.append(" (not emitted)", "dim")
    if record.origins[node] != DRAFTED_ORIGIN:
        text.append(" ").append(f"↩ {on_one_line(record.origins[node])}", MERGED)
    return text


def _quoted(text: str) -> str:
    return on_one_line(text).join("“”")


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def summary(stats: Stats, reason: str, rounds: Sequence[RoundRecord], finish_reason: str | None, seed: int) -> Table:
    """What a request did and where its time went; `reason` is that of the choice of its rule."""
    table = Table(
        title="summary", title_justify="left", show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, value, note in _summary_rows(stats, reason, rounds, finish_reason, seed):
        _add(table, name, value, note)
    total = sum(stats.seconds.values())
    for part, seconds in stats.seconds.items():
        _add(table, f"seconds: {part}", f"{seconds:.3f}", f"{seconds / total:.0%}" if total else "")
    return table


def _summary_rows(
    stats: Stats, reason: str, rounds: Sequence[RoundRecord], finish_reason: str | None, seed: int
) -> list[tuple[str, str, str]]:
    law = f"lossless: exactly the target's law; numerics: {stats.numerics}" if stats.lossless else "NOT lossless"
    sources = ", ".join(f"{count} from {source}" for source, count in stats.accepted_by_source.items())
    drafts = f"{stats.num_accepted_tokens} of {_count(stats.num_draft_tokens, 'drafted token')}"
    merged = f"{stats.num_merged_nodes} of them merged" if stats.num_merged_nodes else ""
    return [
        ("rule", stats.rule, law),
        ("structure", stats.structure, merged),
        ("chosen because", "", reason),
        ("budget", "", _decisions(rounds)),
        ("tokens", str(stats.num_output_tokens), f"ended by {finish_reason or 'an interruption'}; seed {seed}"),
        ("rounds", str(stats.num_rounds), "target calls"),
        ("mean acceptance length", f"{stats.mean_acceptance_length:.2f}", "tokens per target call"),
        ("acceptance rate", f"{stats.draft_acceptance_rate:.0%}", f"{drafts}{': ' + sources if sources else ''}"),
        ("tokens/s", f"{tokens_per_second(stats):.1f}", "reading the prompt included, loading not"),
    ]


def _decisions(rounds: Sequence[RoundRecord]) -> str:
    """How many rounds drafted for which kind of reason, and the first reason in full."""
    counts = ", ".join(f"{_count(count, 'round')} {kind}" for kind, count in decisions(rounds).items())
    return f"{counts}; first {rounds[0].reason}" if rounds else counts


def tokens_per_second(stats: Stats) -> float:
    """Output tokens over the wall seconds of all rounds; the first round reads the prompt."""
    seconds = sum(stats.seconds.values())
    return stats.num_output_tokens / seconds if seconds else 0.0


def _add(table: Table, *cells: str) -> None:
    """A row of text, not markup: brackets stay brackets."""
    table.add_row(*(Text(on_one_line(cell)) for cell in cells))
