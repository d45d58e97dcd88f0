"""Exact laws by enumeration: every draft of a draft program, and the law of the text that a rule then emits.

Nothing here is sampled. A draft program asks `draw(law)` for its random tokens; `enumerate_draws` runs it once for
every sequence of answers. A rule states the law of its verdict for each draft (`Outcome`), so its own randomness is
integrated rather than enumerated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar, cast

import torch

from draftgraph.types import TokenTree
from draftgraph.verification.base import Rule

T = TypeVar("T")
Draw = Callable[[torch.Tensor], int]
"""draw(law) -> token: one draw from law, f[V] (need not be normalised)."""
Laws = Callable[[tuple[int, ...]], torch.Tensor]
"""laws(prefix) -> f[V]: the law of the next token after a prefix."""
Program = Callable[[Laws, Draw], TokenTree]
"""program(q, draw) -> the draft, whose SAMPLED slots carry the very tensors that were given to `draw`."""

KINDS = ("random", "sparse", "disjoint", "equal", "greedy")
"""Kinds of tables: full supports; zeros in both; no common token; p = q; both one-hot (temperature 0)."""


class _Replay:
    """One run of a program: the first draws repeat earlier answers, later ones take the first untried answer."""

    def __init__(self, untried: list[list[int]]) -> None:
        self.untried = untried
        self.step = 0
        self.probability = 1.0

    def __call__(self, law: torch.Tensor) -> int:
        weights = law.tolist()
        if self.step == len(self.untried):
            self.untried.append([token for token, weight in enumerate(weights) if weight > 0])
        token = self.untried[self.step][-1]
        self.probability *= weights[token] / sum(weights)
        self.step += 1
        return token


def enumerate_draws(program: Callable[[Draw], T]) -> Iterator[tuple[float, T]]:
    """Run `program(draw)` once for every sequence of results of `draw`; yields (probability, what it returned)."""
    untried: list[list[int]] = []
    while True:
        replay = _Replay(untried)
        value = program(replay)
        yield replay.probability, value
        while untried and len(untried[-1]) == 1:
            untried.pop()
        if not untried:
            return
        untried[-1].pop()


@dataclass(frozen=True)
class Tables:
    """A target and a drafter small enough to enumerate.

    p, q  one f[V**d, V] for each prefix length d = 0..depth: the law of the next token after every prefix of d tokens.
    """

    vocab: int
    depth: int
    p: Sequence[torch.Tensor]
    q: Sequence[torch.Tensor]

    def target(self, prefix: Sequence[int]) -> torch.Tensor:
        return self.p[len(prefix)][_index(prefix, self.vocab)]

    def drafter(self, prefix: Sequence[int]) -> torch.Tensor:
        return self.q[len(prefix)][_index(prefix, self.vocab)]

    def rows(self, tree: TokenTree, prefix: Sequence[int] = ()) -> torch.Tensor:
        """f[N + 1, V], the target's law at the root and at every node: what one forward pass would return."""
        return torch.stack([self.target((*prefix, *tree.path_tokens(node))) for node in range(-1, len(tree))])

    def target_law(self, length: int) -> torch.Tensor:
        """f64[V**length], the law of the first `length` tokens that the target generates alone."""
        return _continue([torch.ones(1, dtype=torch.float64)] + [torch.zeros(1)] * length, self)

    def to(self, dtype: torch.dtype) -> Tables:
        return Tables(self.vocab, self.depth, [rows.to(dtype) for rows in self.p], [rows.to(dtype) for rows in self.q])


def random_tables(kind: str, vocab: int, depth: int, seed: int) -> Tables:
    """Random f64 tables of one of `KINDS`, the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [_random_rows(kind, vocab**d, vocab, generator) for d in range(depth + 1)]
    return Tables(vocab, depth, [p for p, _ in pairs], [q for _, q in pairs])


def _random_rows(kind: str, n: int, vocab: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """f64[n, V] of the target and of the drafter."""
    logits = torch.randn(2, n, vocab, dtype=torch.float64, generator=generator)
    logits[1] += 0.5 * logits[0]  # a drafter that knows something of its target
    if kind == "equal":
        logits[1] = logits[0]
    elif kind == "sparse":
        zero = torch.rand(2, n, vocab, generator=generator) < 0.3
        logits[zero & (logits < logits.amax(-1, keepdim=True))] = -torch.inf
    elif kind == "disjoint":
        even = torch.arange(vocab) % 2 == 0
        logits[0, :, ~even] = logits[1, :, even] = -torch.inf
    elif kind == "greedy":
        agree = torch.rand(n, generator=generator) < 0.6
        logits[1, agree] = logits[0, agree]
        logits = torch.where(logits == logits.amax(-1, keepdim=True), 0.0, -torch.inf).double()
    p, q = logits.softmax(-1)
    return p, q


@dataclass(frozen=True)
class Emitted:
    """What a rule emits on a draft program.

    law              f64[V**length], the law of the first `length` tokens (the path, the bonus token, then the target).
    drafts           how many drafts were enumerated.
    expected_tokens  expected tokens of the round: accepted ones and the bonus token.
    """

    law: torch.Tensor
    drafts: int
    expected_tokens: float


@dataclass(frozen=True)
class Drafted:
    """One draft of a program: how probable it is, and what a rule sees of it.

    p  f[N + 1, V], the target's rows: what one forward pass would return.
    """

    probability: float
    tree: TokenTree
    p: torch.Tensor

    @cached_property
    def paths(self) -> list[tuple[int, ...]]:
        """The tokens of the path to every entry: the root, then the nodes."""
        return [tuple(self.tree.path_tokens(node)) for node in range(-1, len(self.tree))]


def drafted(tables: Tables, program: Program) -> Iterator[Drafted]:
    """Every draft of a program; the probabilities sum to one."""
    for probability, tree in enumerate_draws(lambda draw: program(tables.drafter, draw)):
        yield Drafted(probability, tree, tables.rows(tree))


def output_law(rule: Rule, tables: Tables, program: Program, length: int) -> Emitted:
    """The exact law of the first `length` tokens (at least the deepest path and its bonus token).

    Raises DraftError if the rule refuses one of the drafts.
    """
    return emitted_law(rule, tables, list(drafted(tables, program)), length)


def emitted_law(rule: Rule, tables: Tables, drafts: Sequence[Drafted], length: int) -> Emitted:
    """`output_law` of drafts that are enumerated already: all drafts of a program."""
    ends: list[tuple[Drafted, int]] = []
    weights: list[float] = []
    bonuses: list[torch.Tensor] = []
    for draft in drafts:
        rule.check(draft.tree)
        outcome = rule.outcome(draft.tree, draft.p)
        total = sum(outcome.stop)
        scale = draft.probability / total if total > 0.0 else 0.0  # a rule that ends nowhere loses mass, and shows
        for entry, stop in enumerate(outcome.stop):
            if stop > 0.0:
                ends.append((draft, entry))
                weights.append(scale * stop)
                bonuses.append(outcome.bonus(entry).double())
    laws = torch.stack(bonuses) if ends else torch.zeros(0, tables.vocab, dtype=torch.float64)
    masses = laws / laws.sum(-1, keepdim=True) * torch.tensor(weights, dtype=torch.float64)[:, None]
    emitted = [torch.zeros(tables.vocab**k, dtype=torch.float64) for k in range(length + 1)]
    if rule.continues:
        later = _Later(cast(Continuing, rule), tables, drafts, emitted)
        for (draft, entry), mass in zip(ends, masses, strict=True):
            later.emit(draft, entry, mass)
    else:
        _emit(ends, masses, emitted)
    expected = sum(w * (len(draft.paths[entry]) + 1) for (draft, entry), w in zip(ends, weights, strict=True))
    return Emitted(_continue(emitted, tables), len(drafts), expected)


def _emit(ends: Sequence[tuple[Drafted, int]], masses: torch.Tensor, emitted: Sequence[torch.Tensor]) -> None:
    """Add to emitted[k], f64[V**k], the texts of k tokens: a path, and the bonus tokens, masses f64[len(ends), V]."""
    vocab = masses.shape[1]
    for k in range(1, len(emitted)):
        chosen = [i for i, (draft, entry) in enumerate(ends) if len(draft.paths[entry]) == k - 1]
        starts = [_index(ends[i][0].paths[ends[i][1]], vocab) for i in chosen]
        emitted[k].view(-1, vocab).index_add_(0, torch.tensor(starts, dtype=torch.long), masses[chosen])


class State(Protocol):
    """What a rule that changes the law of later positions remembers between them; see `verify.greedy_block`."""

    left: int

    def law(self, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor: ...

    def after(self, token: int, p: torch.Tensor, q: torch.Tensor) -> State: ...


class Continuing(Protocol):
    """A rule with `continues`: after its verdict some positions have another law than the target's."""

    def continuation(self, tree: TokenTree, p: torch.Tensor, end: int, token: int) -> State: ...


class _Later:
    """Emits the texts of a Continuing rule, up to where the target goes on alone."""

    def __init__(
        self, rule: Continuing, tables: Tables, drafts: Sequence[Drafted], emitted: Sequence[torch.Tensor]
    ) -> None:
        self.rule, self.tables, self.emitted = rule, tables, emitted
        self.reach: defaultdict[tuple[int, ...], float] = defaultdict(float)
        """Probability that a prefix is drafted; the drafter's law after it follows, whatever its slots are."""
        for draft in drafts:
            for prefix in set(draft.paths):
                self.reach[prefix] += draft.probability

    def emit(self, draft: Drafted, entry: int, masses: torch.Tensor) -> None:
        """The path to an entry, a bonus token of masses f64[V], and what the rule makes of later positions."""
        for token, mass in enumerate(masses.tolist()):
            if mass > 0.0:
                state = self.rule.continuation(draft.tree, draft.p, entry, token)
                self._spread(state, (*draft.paths[entry], token), mass)

    def _spread(self, state: State, text: tuple[int, ...], mass: float) -> None:
        if not state.left or len(text) == len(self.emitted) - 1:
            self.emitted[len(text)][_index(text, self.tables.vocab)] += mass
            return
        p, q = self.tables.target(text), self._drafter(text)
        law = state.law(p, q).double()
        for token, share in enumerate((law / law.sum()).tolist()):
            if share > 0.0:
                self._spread(state.after(token, p, q), (*text, token), mass * share)

    def _drafter(self, text: tuple[int, ...]) -> torch.Tensor:
        """f[V], the law of the token drafted after `text`; zeros where `text` is never drafted."""
        reach = [self.reach.get((*text, token), 0.0) for token in range(self.tables.vocab)]
        law = torch.tensor(reach, dtype=self.tables.p[0].dtype)
        return law / self.reach[text] if self.reach.get(text) else law


def total_variation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Half the L1 distance of two laws over the same texts."""
    return 0.5 * float((a - b).abs().sum())


def _continue(emitted: list[torch.Tensor], tables: Tables) -> torch.Tensor:
    """Let the target continue the texts of every length k (masses emitted[k], f64[V**k]) up to the longest length."""
    carried = emitted[0]
    for k in range(1, len(emitted)):
        p = tables.p[k - 1].double()
        carried = emitted[k] + (carried[:, None] * (p / p.sum(-1, keepdim=True))).flatten()
    return carried


def _index(prefix: Sequence[int], vocab: int) -> int:
    """The row of a prefix: its tokens read as digits in base `vocab`."""
    row = 0
    for token in prefix:
        row = row * vocab + token
    return row
