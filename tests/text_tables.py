"""Small models as tables, and the rows of every text that they can write."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch

from draftgraph.lab.predict.rows import PairRows, Span
from draftgraph.lab.texts import Text
from draftgraph.types import FIXED, TokenTree
from draftgraph.verification.base import Rule

Law = Callable[[Sequence[int]], torch.Tensor]
"""law(prefix) -> f64[V]."""


def table(seed: int, vocab: int, zeros: float = 0.0) -> Law:
    """A random law behind every prefix; some entries are zero."""
    known: dict[tuple[int, ...], torch.Tensor] = {}

    def law(prefix: Sequence[int]) -> torch.Tensor:
        key = tuple(prefix)
        if key not in known:
            generator = torch.Generator().manual_seed(hash((seed, key)) % 2**40)
            logits = 1.5 * torch.randn(vocab, generator=generator, dtype=torch.float64)
            zero = torch.rand(vocab, generator=generator) < zeros
            logits[zero & (logits < logits.max())] = -torch.inf
            known[key] = logits.softmax(0)
        return known[key]

    return law


def chance(law: Law, tokens: Sequence[int], begin: int = 0) -> float:
    """Probability of tokens[begin:] behind tokens[:begin]."""
    product = 1.0
    for i in range(begin, len(tokens)):
        product *= float(law(tokens[:i])[tokens[i]])
    return product


def every_text(p: Law, q: Law, vocab: int, length: int) -> tuple[PairRows, list[float]]:
    """The rows of every possible text of a length, and the texts' probabilities under the target."""
    texts = [text for text in itertools.product(range(vocab), repeat=length) if chance(p, text) > 0]
    prefixes = [text[:i] for text in texts for i in range(length)]
    spans = [Span(n * length, (n + 1) * length, (n + 1) * length) for n in range(len(texts))]
    rows = PairRows(
        torch.stack([p(prefix) for prefix in prefixes]),
        torch.stack([q(prefix) for prefix in prefixes]),
        torch.tensor([token for text in texts for token in text]),
        spans,
        [Text((0, *text), 1, length) for text in texts],
    )
    return rows, [chance(p, text) for text in texts]


def chains(q: Law, vocab: int, context: Sequence[int], depth: int) -> Iterator[tuple[float, TokenTree]]:
    """Every chain that can be drawn from q behind a context, with its probability."""
    context = tuple(context)
    for draft in itertools.product(range(vocab), repeat=depth):
        weight = chance(q, context + draft, len(context))
        if weight > 0:
            laws = torch.stack([q(context + draft[:i]) for i in range(depth)]) if depth else None
            yield weight, TokenTree(draft, range(-1, depth - 1), range(depth), laws)


def best_trees(q: Law, context: Sequence[int], shape: Sequence[int], hybrid: bool) -> Iterator[tuple[float, TokenTree]]:
    """Every tree of a fixed shape: the best tokens of every row, the last of them drawn from the rest if `hybrid`."""
    context = tuple(context)
    pending: list[tuple[float, list[int], list[int], list[int], list[torch.Tensor]]] = [(1.0, [], [], [], [])]
    begin = -1
    for depth, k in enumerate(shape):
        grown = []
        for weight, tokens, parents, law_row, laws in pending:
            nodes = [-1] if depth == 0 else list(range(begin, len(tokens)))
            options = [list(_children(q, context, tokens, parents, node, k, hybrid)) for node in nodes]
            for combination in itertools.product(*options):
                one = (weight, list(tokens), list(parents), list(law_row), list(laws))
                for node, (w, fixed, drawn, law) in zip(nodes, combination, strict=True):
                    one = (one[0] * w, *one[1:])
                    one[1].extend([*fixed, *drawn])
                    one[2].extend([node] * k)
                    one[3].extend([*([FIXED] * len(fixed)), *([len(one[4])] if drawn else [])])
                    one[4].extend([law] if drawn else [])
                grown.append(one)
        begin = len(pending[0][1])
        pending = grown
    for weight, tokens, parents, law_row, laws in pending:
        yield weight, TokenTree(tokens, parents, law_row, torch.stack(laws) if laws else None)


def _children(q, context, tokens, parents, node, k, hybrid):
    prefix = []
    while node != -1:
        prefix.insert(0, tokens[node])
        node = parents[node]
    row = q((*context, *prefix))
    best = row.topk(k - hybrid).indices.tolist()
    if not hybrid:
        yield 1.0, best, [], None
        return
    law = row.clone()
    law[best] = 0.0
    law /= law.sum()
    for token in law.nonzero()[:, 0].tolist():
        yield float(law[token]), best, [token], law


def target_rows(p: Law, context: Sequence[int], tree: TokenTree) -> torch.Tensor:
    """f64[N + 1, V], the target's rows at the root and at every node."""
    return torch.stack([p([*context, *tree.path_tokens(node)]) for node in range(-1, len(tree))])


def expected_length(rule: Rule, p: Law, drafts: Iterator[tuple[float, TokenTree]], context: Sequence[int]) -> float:
    """Expected accepted tokens + 1 of one round, over every draft and every verdict."""
    total = 0.0
    for weight, tree in drafts:
        stop = rule.outcome(tree, target_rows(p, context, tree)).stop
        total += weight * (1.0 + sum(prob * depth for prob, depth in zip(stop[1:], tree.depths, strict=True)))
    return total
