"""A verdict about a chain whose last token was drafted while the target read the others: there is no row behind it yet.

PEARL (arXiv 2408.11850) has two modes. Here they are one: the token drafted first is always judged, by the row behind what the
target has read. Where nothing was pending that is its pre-verify; else the pending tokens are judged as well, its post-verify.

A rule's verdict is a path and one more token, and the text that they begin has the target's law. Where the path is the whole
chain, that token is drawn from the row behind its last token. So the path alone, followed by the next round, has the same law.
What a rule says of the end of the path must not look at that row: then any law may stand in for it. `reads_last_row` tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from draftgraph.sampling.laws import TargetLaws
from draftgraph.sampling.rng import Noise
from draftgraph.types import TokenTree, Verdict
from draftgraph.verification.base import Rule

_VOCAB, _LENGTHS = 4, (1, 2, 3)
_SAME = 1e-12


@dataclass(frozen=True)
class OnwardRule:
    """Decides with `rule` on a chain, `whole`: the draft, and the token that was drafted behind it meanwhile."""

    rule: Rule
    whole: TokenTree

    def seeing(self, scores: torch.Tensor, taps: Mapping[str, torch.Tensor]) -> OnwardRule:
        """Itself: a rule that reads hidden states is refused before (`engine.parallel_options`)."""
        return self

    def decide(self, tree: TokenTree, laws: TargetLaws, noise: Noise, length: int) -> Verdict:
        """The verdict about the draft `tree` under its laws, whose token is the drafted one where `rule` accepts all of them."""
        choices = None if laws.choices is None else [*laws.choices, laws.choices[-1]]
        standing_in = TargetLaws(lambda: torch.cat([laws.p, laws.p[-1:]]), choices)
        verdict = self.rule.decide(self.whole, standing_in, noise, length)
        last = len(tree)
        said = verdict.masses[:last], verdict.p[:last], verdict.q[:last]
        if last in verdict.path:
            return Verdict(verdict.path[:-1], self.whole.tokens[last], *said)
        return Verdict(verdict.path, verdict.token, *said)


def beginning(chain: TokenTree, count: int) -> TokenTree:
    """The first `count` tokens of a chain, with their laws."""
    return TokenTree(chain.tokens[:count], chain.parents[:count], chain.law_row[:count], chain.laws)


def reads_last_row(rule: Rule, sampled: bool) -> bool:
    """Whether what a rule says of the end of the path depends on the row behind a chain's last token, as far as examples show.

    sampled  whether slots are SAMPLED.
    """
    generator = torch.Generator().manual_seed(0)
    for length in _LENGTHS:
        for _ in range(4):
            laws = torch.rand(length, _VOCAB, generator=generator, dtype=torch.float64).softmax(dim=1)
            tokens = torch.randint(_VOCAB, (length,), generator=generator).tolist()
            tree = TokenTree(tokens, range(-1, length - 1), range(length) if sampled else [-1] * length, laws)
            rows = torch.rand(length + 2, _VOCAB, generator=generator, dtype=torch.float64).mul(3.0).softmax(dim=1)
            stops = [
                rule.outcome(tree, torch.cat([rows[:length], rows[length + i : length + i + 1]])).stop for i in (0, 1)
            ]
            if any(abs(one - other) > _SAME for one, other in zip(*stops, strict=True)):
                return True
    return False
