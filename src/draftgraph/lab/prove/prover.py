"""dg.prove: one rule, on the prover's drafts or on those of a drafter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from draftgraph.draft.base import Drafter
from draftgraph.errors import OptionError
from draftgraph.lab.prove.cases import CASES, Case
from draftgraph.lab.prove.drafters import drafter_cases
from draftgraph.lab.prove.exact import Progress, Proof, Setting, prove_all
from draftgraph.lab.prove.law import KINDS
from draftgraph.verification.base import Rule
from draftgraph.verification.registry import get_rule


def prove(
    rule: str | Rule,
    *,
    vocab: int = 3,
    depth: int = 3,
    drafter: Drafter | None = None,
    cases: Iterable[Case] | None = None,
    tables: Sequence[str] = KINDS,
    tolerance: float = 1e-12,
    seed: int = 0,
    controls: bool = True,
    bounds: bool = False,
    dtype: torch.dtype = torch.float64,
    progress: Progress | None = None,
) -> Proof:
    """The exact law of what a rule emits, by enumeration over drafts and integration over its randomness.

    rule       a rule or its name.
    vocab      tokens in the vocabulary, at least 2.
    depth      drafted tokens per path, at least 1; vocab ** (2 * depth) must not exceed 7000 (4 tokens: depth 3).
    drafter    take the drafts of this one: every draft of its first round behind some texts. It must draft for a target of
               `request.vocab_size` tokens, and draw with `request.draw` alone. A rule that is proven without it, and refuted
               with it, has been told a law that nothing was drawn from. Laws in float32 need tolerance=1e-6.
    cases      draft programs; all of `lab.prove.cases.CASES` by default.
    tables     kinds of target and drafter, of "random", "sparse", "disjoint", "equal", "greedy".
    tolerance  largest total variation that counts as lossless (1e-5 suits dtype=torch.float32).
    controls   also run the published mistakes, each of which must be caught, and their repairs.
    bounds     also compute the most tokens that any rule could emit on the same drafts (needs draftgraph[prove]).
    dtype      of p and q as the rule sees them; the laws are compared in f64.
    progress   called with every finished row.

    A rule that says lossless=False holds without being lossless: where a proof is needed, ask for status == "proven".

    Raises OptionError for an unknown rule, an unknown kind of tables, sizes that cannot be enumerated, or bounds without scipy;
    DrafterError and DraftError for a drafter that fails, or whose drafts cannot be verified.
    """
    if drafter is not None and cases is not None:
        raise OptionError("drafter=... and cases=... both say what is drafted; leave out one of them")
    chosen = (CASES if cases is None else cases) if drafter is None else drafter_cases(drafter)
    setting = Setting(vocab, depth, tuple(chosen), tuple(tables), tolerance, seed, controls, bounds, dtype)
    return prove_all([get_rule(rule)], setting, progress)[0]
