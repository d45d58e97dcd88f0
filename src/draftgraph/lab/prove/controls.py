"""Negative controls: published mistakes, each of which must fail the law test, beside its repair, which must pass.

A prover that cannot see these biases proves nothing. The drafts are in `misdrafted.py` and judged by the layer rule; where
the mistake is in the rule, it is one of `misjudged.py`. Every control changes one thing only; the rest is honest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from draftgraph.lab.prove.cases import by_depth, grow
from draftgraph.lab.prove.law import Program, Tables, output_law, total_variation
from draftgraph.lab.prove.misdrafted import (
    argmax_chain,
    at_temperature,
    best_of_two,
    denoised,
    late_sibling,
    merged_token,
    reshaped_chain,
    siblings,
    top_two,
    truncated,
    unreplaced_pair,
    untouched,
)
from draftgraph.lab.prove.misjudged import (
    IndependentTests,
    OwnSamples,
    ProductBlock,
    SameUniform,
    UncappedBlock,
    UnwarpedBonus,
)
from draftgraph.lab.prove.slots import fixed, replaced
from draftgraph.verification.base import Rule
from draftgraph.verification.block import BlockRule
from draftgraph.verification.layer import LayerRule
from draftgraph.verification.published.token import TokenRule
from draftgraph.verification.walk import WalkRule

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


def _mistake(name: str, source: str, program: Program, rule: Rule | None = None) -> Control:
    return Control(name, source, True, judged(program, rule))


def _repair(name: str, program: Program, rule: Rule | None = None) -> Control:
    return Control(name, "repair", False, judged(program, rule))


_GSD = "GSD, arXiv 2407.16207, reference code, stochastic branch"
_GSD_PREFIX = "the same graph with q read again at the new prefix"
_DUPLICATES = "merging or de-duplicating drawn slots by value; GSD's redirects overwrite them"
_RERANK = "re-ranking drawn slots (EAGLE-2, arXiv 2406.16858, where slots are top-k and it is sound)"
_ARGMAX = "candidate generators that return a q they did not sample from: transformers issue 47932"
_MCSD = "MCSD, arXiv 2401.06706, reference code at draft temperature 0"
_DSBD = "DSBD, arXiv 2409.16560, reference code (here one layer, one beam kept)"
_WARP = (
    "drafts drawn from one tensor and judged by another; z-lab/dflash issue 74, jaymody/speculative-sampling issue 3"
)
_DENOISED = "masked-diffusion drafters (SpecDiff, arXiv 2408.05636) with more than one denoising step"
_BONUS = "EAGLE until April 2025 and its descendants (GRIFFIN, FSPAD, HASS)"
_PEARL = "PEARL, arXiv 2408.11850, reference code: the uniform of a pre-verified token judges the next one too"
_TREE = "best-first growth, or pruning after drafting, applied to drawn slots"

_CHAIN = grow(by_depth(), replaced, DEPTH)
_FIXED = grow(by_depth(2, 2), fixed, DEPTH)
_WARM, _COOL = at_temperature(1.0), at_temperature(0.9)

CONTROLS: tuple[Control, ...] = (
    _mistake("merged token judged by q of its new prefix", _GSD_PREFIX, merged_token("new prefix")),
    _mistake("merged token judged by q of its first prefix", _GSD, merged_token("first prefix")),
    _repair("merged token FIXED", merged_token("fixed")),
    _mistake("duplicates dropped in silence", _DUPLICATES, siblings(drop_duplicates=True)),
    _repair("duplicates kept as steps", siblings(drop_duplicates=False)),
    _mistake("best of two samples judged as a sample", _RERANK, best_of_two(True, DEPTH)),
    _repair("best of two samples FIXED", best_of_two(False, DEPTH)),
    _mistake("argmax draft judged by a soft q", _ARGMAX, argmax_chain(True, DEPTH)),
    _repair("argmax draft FIXED", argmax_chain(False, DEPTH)),
    _mistake("top-k siblings judged by q over the top-k", _MCSD, top_two(True)),
    _repair("top-k siblings FIXED", top_two(False)),
    _mistake("drawn without replacement, judged as i.i.d.", _DSBD, unreplaced_pair(True)),
    _repair("drawn without replacement, judged by its own law", unreplaced_pair(False)),
    _mistake("drawn at T = 1, judged at T = 0.9", _WARP, reshaped_chain(_WARM, _COOL, DEPTH)),
    _mistake("drawn at T = 1, judged at T = 0.9 (token rule)", _WARP, reshaped_chain(_WARM, _COOL, DEPTH), TokenRule()),
    _repair("drawn and judged at T = 0.9", reshaped_chain(_COOL, _COOL, DEPTH)),
    _mistake("drawn after top-k, judged before it", _WARP, reshaped_chain(truncated(2), untouched, DEPTH)),
    _repair("drawn and judged after top-k", reshaped_chain(truncated(2), truncated(2), DEPTH)),
    _mistake("denoised in two steps, judged by the marginals", _DENOISED, denoised(2)),
    _repair("denoised in one step, judged by the marginals", denoised(1)),
    _mistake("un-warped bonus token", _BONUS, grow(by_depth(2), fixed, DEPTH), UnwarpedBonus()),
    _mistake("one uniform for every test", _PEARL, _CHAIN, SameUniform()),
    _mistake("block rule, last position un-capped", UncappedBlock.source, _CHAIN, UncappedBlock()),
    _mistake("block rule by products, residual not scaled", ProductBlock.source, _CHAIN, ProductBlock()),
    _repair("block rule, every position capped, residual scaled", _CHAIN, BlockRule()),
    _mistake("every path with target samples of its own", OwnSamples.source, _FIXED, OwnSamples()),
    _repair("one target sample per node", _FIXED, WalkRule()),
    _mistake("independent tests, longest path", _GSD, grow(by_depth(2), replaced, DEPTH), IndependentTests()),
    _mistake("sibling that depends on a deeper token", _TREE, late_sibling("deeper token")),
    _repair("sibling that depends on upper layers only", late_sibling("upper layers")),
)
