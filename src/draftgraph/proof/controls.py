"""Negative controls: published mistakes, each of which must fail the law test, beside its repair, which must pass.

A prover that cannot see these biases proves nothing. All of them are judged by the layer rule unless the mistake is in
the rule itself. Every control changes one thing only; the rest of its draft is honest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product
from typing import ClassVar

import torch

from draftgraph.proof.cases import Draft, best, by_depth, fixed, grow, replaced, without
from draftgraph.proof.law import Draw, Laws, Program, Tables, output_law, total_variation
from draftgraph.types import ROOT, Outcome, TokenTree
from draftgraph.verify.base import EVERY_STRUCTURE, Accepts, Rule
from draftgraph.verify.chain import law_of, ratio
from draftgraph.verify.layer import LayerRule
from draftgraph.verify.token import TokenRule

DEPTH = 2
"""Drafted tokens per control; enough for every mistake to show."""


@dataclass(frozen=True)
class Control:
    """One way to draft or verify, and whether it must be caught.

    source     who publishes the mistake.
    must_fail  True for a mistake, False for its repair.
    tv         tv(tables) -> total variation between what is emitted and the target's law.
    """

    name: str
    source: str
    must_fail: bool
    tv: Callable[[Tables], float]


def judged(program: Program, rule: Rule | None = None) -> Callable[[Tables], float]:
    """The total variation of the text that a rule (layer by default) emits on a draft program."""

    def tv(tables: Tables) -> float:
        length = tables.depth + 1
        return total_variation(output_law(rule or LayerRule(), tables, program, length).law, tables.target_law(length))

    return tv


# 1. A merged token judged with the law of its new prefix.


def merged_token(law_of_copy: str) -> Program:
    """One token d ~ q(.|a) hangs below a and below b; the law that is stated for the copy below b varies."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        a, b = (draft.add(ROOT, token) for token in best(q(()), 2))
        drawn = q(draft.prefix(a))
        d = draw(drawn)
        draft.add(a, d, drawn)
        stated = {"new prefix": q(draft.prefix(b)), "first prefix": drawn, "fixed": None}[law_of_copy]
        if stated is None or float(stated[d]) > 0.0:
            draft.add(b, d, stated)
        return draft.tree()

    return program


# 2. Duplicates dropped in silence.


def siblings(drop_duplicates: bool) -> Program:
    """Two draws from q at the root; a second draw that repeats the first is dropped, or kept as a step."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        law = q(())
        first, second = draw(law), draw(law)
        draft.add(ROOT, first, law)
        if second != first or not drop_duplicates:
            draft.add(ROOT, second, law)
        return draft.tree()

    return program


# 3. The best of several samples, treated as a sample.


def best_of_two(stated_sampled: bool) -> Program:
    """A chain of tokens, each the likelier of two draws from q."""

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft, node = Draft(), ROOT
        for _ in range(DEPTH):
            law = q(draft.prefix(node))
            token = max(draw(law), draw(law), key=lambda t: float(law[t]))
            node = draft.add(node, token, law if stated_sampled else None)
        return draft.tree()

    return program


# 4. Argmax drafts judged with a soft q.


def argmax_chain(stated_sampled: bool) -> Program:
    def program(q: Laws, draw: Draw) -> TokenTree:
        draft, node = Draft(), ROOT
        for _ in range(DEPTH):
            law = q(draft.prefix(node))
            node = draft.add(node, int(law.argmax()), law if stated_sampled else None)
        return draft.tree()

    return program


# 5. A bonus token that is not warped.


class UnwarpedBonus(LayerRule):
    """The layer rule at temperature 0.5, but below a leaf the bonus token is drawn at temperature 1."""

    name: ClassVar[str] = "layer, un-warped bonus"
    lossless: ClassVar[bool] = False

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        honest = super().outcome(tree, p)
        # p at T = 0.5 is proportional to the square of p at T = 1
        return Outcome(honest.stop, lambda row: honest.bonus(row) if tree.children[row] else p[row].sqrt())


# 6. One uniform number that judges every position.


class SameUniform(TokenRule):
    """Token verification whose acceptance tests all read one number u: position i passes if u <= a_i."""

    name: ClassVar[str] = "token, one uniform"
    lossless: ClassVar[bool] = False

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        passed = [1.0]  # P(u <= a_1, ..., u <= a_i) = min(a_1, ..., a_i); it should be their product
        for node, token in enumerate(tree.tokens):
            law = law_of(tree, node, p[node])
            passed.append(min(passed[-1], ratio(float(p[node, token]), float(law[token]))))
        stop = [above - below for above, below in pairwise(passed)] + [passed[-1]]
        return Outcome(stop, super().outcome(tree, p).bonus)


# 7. Independent node tests, then the longest path.


class IndependentTests(Rule):
    """Every node is tested alone with min(1, p/q), the longest surviving path wins, the bonus token comes from p."""

    name: ClassVar[str] = "independent tests"
    source: ClassVar[str] = "GSD reference code, stochastic branch"
    lossless: ClassVar[bool] = False
    accepts: ClassVar[Accepts] = Accepts(frozenset({"fixed", "sampled"}), EVERY_STRUCTURE)

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        stop = [0.0] * (len(tree) + 1)
        chance = []
        for node, token in enumerate(tree.tokens):
            row = tree.parents[node] + 1
            chance.append(min(1.0, ratio(float(p[row, token]), float(law_of(tree, node, p[row])[token]))))
        for passes in product((True, False), repeat=len(tree)):
            probability, ends = 1.0, [ROOT]
            for node, passed in enumerate(passes):
                probability *= chance[node] if passed else 1.0 - chance[node]
                if passed and tree.parents[node] in ends:
                    ends.append(node)
            longest = max(ends, key=lambda node: len(tree.path(node)))
            stop[longest + 1] += probability
        return Outcome(stop, lambda row: p[row])


# 8. A sibling whose existence depends on a deeper token.


def late_sibling(looks_at: str) -> Program:
    """A SAMPLED chain a, b beside the best token FIXED with a SAMPLED child; that branch is dropped if b looks good.

    Its repair looks at the root's law instead. (As a leaf the sibling would be harmless under the layer rule: it is
    verified last in its layer, and a leaf takes no part in the placement of deeper layers.)
    """

    def program(q: Laws, draw: Draw) -> TokenTree:
        draft = Draft()
        root = q(())
        top = best(root, 1)
        rest = without(root, top)
        if rest is None:
            return draft.tree()
        a = draft.add(ROOT, draw(rest), rest)
        below = q(draft.prefix(a))
        b = draw(below)
        draft.add(a, b, below)
        good = b == int(below.argmax()) if looks_at == "deeper token" else float(root.max()) > 0.6
        if not good:
            sibling = draft.add(ROOT, top[0])
            law = q(draft.prefix(sibling))
            draft.add(sibling, draw(law), law)
        return draft.tree()

    return program


_GSD = "GSD, arXiv 2407.16207, reference code, stochastic branch"
_GSD_PREFIX = "the same graph with q read again at the new prefix"
_DUPLICATES = "merging or de-duplicating drawn slots by value; GSD's redirects overwrite them"
_RERANK = "re-ranking drawn slots (EAGLE-2, arXiv 2406.16858, where slots are top-k and it is sound)"
_ARGMAX = "MCSD, arXiv 2401.06706, reference code at draft temperature 0; transformers issue 47932"
_BONUS = "EAGLE until April 2025 and its descendants (GRIFFIN, FSPAD, HASS)"
_PEARL = "PEARL, arXiv 2408.11850, reference code: the uniform of a pre-verified token judges the next one too"
_TREE = "best-first growth, or pruning after drafting, applied to drawn slots"

CONTROLS: tuple[Control, ...] = (
    Control("merged token judged by q of its new prefix", _GSD_PREFIX, True, judged(merged_token("new prefix"))),
    Control("merged token judged by q of its first prefix", _GSD, True, judged(merged_token("first prefix"))),
    Control("merged token FIXED", "repair", False, judged(merged_token("fixed"))),
    Control("duplicates dropped in silence", _DUPLICATES, True, judged(siblings(True))),
    Control("duplicates kept as steps", "repair", False, judged(siblings(False))),
    Control("best of two samples judged as a sample", _RERANK, True, judged(best_of_two(True))),
    Control("best of two samples FIXED", "repair", False, judged(best_of_two(False))),
    Control("argmax draft judged by a soft q", _ARGMAX, True, judged(argmax_chain(True))),
    Control("argmax draft FIXED", "repair", False, judged(argmax_chain(False))),
    Control("un-warped bonus token", _BONUS, True, judged(grow(by_depth(2), fixed, DEPTH), UnwarpedBonus())),
    Control("one uniform for every test", _PEARL, True, judged(grow(by_depth(), replaced, DEPTH), SameUniform())),
    Control(
        "independent tests, longest path", _GSD, True, judged(grow(by_depth(2), replaced, DEPTH), IndependentTests())
    ),
    Control("sibling that depends on a deeper token", _TREE, True, judged(late_sibling("deeper token"))),
    Control("sibling that depends on upper layers only", "repair", False, judged(late_sibling("upper layers"))),
)
