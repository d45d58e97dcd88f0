"""An audit by Monte Carlo: is the text that an engine emits, for a user's own pair, distributed as the target's own sampling?

The prover (`draftgraph.prove`) is exact on small models; this is the statistical test on real ones. It says what it could
have seen (`Audit.detectable`), and it must catch a mistake that is planted on the same pair, or it says nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel

from draftgraph.engine.config import Config
from draftgraph.engine.engine import Engine
from draftgraph.engine.prompts import Prompt, encode, split
from draftgraph.errors import OptionError
from draftgraph.lab.audit.evidence import QUANTILES, Evidence, Sample
from draftgraph.lab.audit.fit import Fit
from draftgraph.lab.audit.power import detectable_tv, samples_needed
from draftgraph.request.state import Strategy
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.rng import fresh_seed
from draftgraph.sampling.warp import Warper
from draftgraph.types import Outcome, TokenTree
from draftgraph.verification.base import EVERY_LAW, EVERY_STRUCTURE, Accepts, Rule

Models = tuple[str | Path | PreTrainedModel, str | Path | PreTrainedModel | None]
"""Target and drafter, as `Engine.from_pretrained` takes them; None looks continuations up in the text."""
Progress = Callable[[int, int], None]
"""progress(texts sampled, texts in all), the control's included."""
COARSEST = 0.25
"""An audit that can only see larger biases than this is not worth running, and is refused."""
TAIL_ERROR = 2.0
"""How much thinner than the truth a chi-squared tail may be with cells of `fit.LEAST` counts; p-values are multiplied by it."""
EDGE = 10.0
"""Tokens at the edge of top-k, top-p or min-p may change sides by rounding: so many eps of the dtype is their share at most."""


class BestOfTwo(Rule):
    """A rule with a planted mistake: the bonus token is the likelier of two draws.

    A selection treated as a sample is one of the published mistakes (`lab.prove.controls`). Here it is made where even plain
    decoding shows it, and its size does not hang on the temperature: TV P(1 - P) at a token that splits the law into P and
    1 - P, about 1/4 unless the law is nearly a point.
    """

    name: ClassVar[str] = "bonus token: the likelier of two draws"
    source: ClassVar[str] = "planted"
    lossless: ClassVar[bool] = False
    accepts: ClassVar[Accepts] = Accepts(EVERY_LAW, EVERY_STRUCTURE)

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def outcome(self, tree: TokenTree, p: torch.Tensor) -> Outcome:
        honest = self.rule.outcome(tree, p)
        return Outcome(honest.stop, lambda row: best_of_two(honest.bonus(row)))


def best_of_two(law: torch.Tensor) -> torch.Tensor:
    """The law f64[V] of the likelier of two draws from `law` f[V] (any scale): M_k^2 - M_(k+1)^2, M_k the mass from rank k on."""
    masses, order = law.double().sort(descending=True, stable=True)
    from_here = masses.flip(0).cumsum(0).flip(0)
    behind = torch.cat([from_here[1:], from_here.new_zeros(1)])
    return torch.empty_like(masses).scatter_(0, order, masses * (from_here + behind))


@dataclass(frozen=True)
class Findings:
    """The tests of one run of an engine.

    fits       the tests. level  a p-value below it refutes: alpha, shared by all tests (Bonferroni) and by TAIL_ERROR.
    p_value    the smallest p-value, corrected in the same way; compare it with alpha.
    rounds     target calls. tokens  emitted.
    """

    fits: tuple[Fit, ...]
    level: float
    p_value: float
    refuted: bool
    rounds: int
    tokens: int


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    verdict    "held"; "refuted": the emitted text is not distributed as the target's; "inconclusive": nothing was refuted,
               but the planted mistake was not seen either.
    lossless   what the rule claims.
    samples    texts per prompt, of `length` tokens each (fewer where a text ends by itself). seed  runs it again.
    findings   the tests of the engine as it is. control  those with the planted mistake, `control_rule`.
    detectable per position the total variation of the next token's law that would have been seen with probability 0.9, None
               where nothing would. At the first position token by token (rare tokens are one); behind it as ten quantile bins
               show it, in the mean over prefixes.
    """

    target: str
    drafter: str
    rule: str
    lossless: bool
    structure: str
    budget: int | str
    prompts: int
    samples: int
    length: int
    alpha: float
    seed: int
    verdict: str
    findings: Findings
    control_rule: str
    control: Findings
    detectable: tuple[float | None, ...]

    @property
    def held(self) -> bool:
        return self.verdict == "held"

    @property
    def p_value(self) -> float:
        """Of everything together, corrected for the number of tests."""
        return self.findings.p_value

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for `json.dumps`."""
        return asdict(self)


def audit(
    engine: Engine | Models,
    prompts: Prompt | Sequence[Prompt],
    params: SamplingParams,
    *,
    n: int = 2000,
    alpha: float = 1e-3,
    config: Config | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Sample n texts per prompt and test every token against the target's law behind its prefix.

    engine   an Engine, or (target, drafter) for one that is made with `config`.
    prompts  a prompt (text or token ids) or several.
    params   how to sample; `max_new_tokens` is the length of the texts. Processors must be functions of their arguments.
    alpha    probability that a lossless engine is refuted, at most, over all tests together.

    The laws are computed in the models' own dtype: in half precision, rows of a wide and of a narrow forward differ by some
    1e-2, and that is no bias of the rule; detect no less than that there.

    Raises OptionError at temperature 0, for too few samples (saying how many are needed), without a prompt; PromptError.
    """
    engine = (
        engine
        if isinstance(engine, Engine)
        else Engine.from_pretrained(engine[0], draft_model=engine[1], config=config)
    )
    engine = copy.copy(engine)
    engine.generation_config = None  # the texts have the law that `params` alone state
    texts = _several(prompts)
    params = replace(params, seed=fresh_seed() if params.seed is None else params.seed)
    _refuse(engine, texts, params, n, alpha)
    control = copy.copy(engine)
    choice = engine.choice(params)
    control.config = replace(engine.config, rule=BestOfTwo(choice.rule), structure=choice.structure)
    total = 2 * n * len(texts)
    findings = _run(engine, texts, params, n, alpha, lambda done: progress and progress(done, total))
    caught = _run(control, texts, params, n, alpha, lambda done: progress and progress(total // 2 + done, total))
    return _report(engine, choice, params, (len(texts), n, alpha), findings, caught)


def _report(
    engine: Engine,
    choice: Strategy,
    params: SamplingParams,
    sizes: tuple[int, int, float],
    findings: Findings,
    caught: Findings,
) -> Audit:
    """What was found of the engine and of its control. sizes  prompts, samples of each, and alpha."""
    prompts, samples, alpha = sizes
    return Audit(
        target=engine.target.model_name,
        drafter=engine.drafter.name if engine.drafter.model is None else engine.drafter.model.model_name,
        rule=choice.rule.name,
        lossless=choice.rule.lossless,
        structure=choice.structure.name,
        budget=engine.config.budget,
        prompts=prompts,
        samples=samples,
        length=params.max_new_tokens,
        alpha=alpha,
        seed=int(params.seed or 0),
        verdict="refuted" if findings.refuted else "held" if caught.refuted else "inconclusive",
        findings=findings,
        control_rule=BestOfTwo.name,
        control=caught,
        detectable=tuple(_detectable(findings, i) for i in range(params.max_new_tokens)),
    )


def _several(prompts: Any) -> list[Any]:
    if hasattr(prompts, "__len__") and len(prompts) == 0:
        raise OptionError("a prompt is needed: a text as your users write it, token ids, or several of either")
    return split(prompts)[0]


def _refuse(engine: Engine, prompts: Sequence[Prompt], params: SamplingParams, n: int, alpha: float) -> None:
    if params.temperature == 0:
        raise OptionError(
            "temperature=0 leaves nothing random to test; write the temperature that you sample with, e.g. temperature=1, "
            "or compare greedy texts with those of budget=0"
        )
    if params.grammar is not None:
        raise OptionError(
            "an audit reads laws without a grammar; leave it out (tests/test_grammar_law.py enumerates grammars)"
        )
    if not 0.0 < alpha < 1.0:
        raise OptionError(f"alpha={alpha!r} is not possible; write a number in (0, 1), e.g. 1e-3")
    for prompt in prompts:
        engine.stream(prompt, params)  # checks, and does nothing else before it is read
    tests = len(Evidence(params.max_new_tokens, True, True, 0).fits()) + 1
    needed = samples_needed(QUANTILES - 1, alpha / (TAIL_ERROR * tests), COARSEST)
    least = -(-needed // len(prompts))
    if n < least:
        raise OptionError(
            f"n={n} samples of {len(prompts)} prompt{'s' * (len(prompts) > 1)} could show no bias below a total variation of "
            f"{COARSEST} at alpha={alpha:g}; write n={least} (--samples {least}) or more; 4 times as many see half the bias"
        )


def _run(
    engine: Engine, prompts: Sequence[Prompt], params: SamplingParams, n: int, alpha: float, told: Callable[[int], object]
) -> Findings:  # fmt: skip
    """Sample, recompute, test."""
    likes = engine.drafter.model
    fresh = not engine.choice(params).rule.position_noise
    evidence = Evidence(params.max_new_tokens, likes is not None, fresh, int(params.seed or 0))
    eos = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else engine.eos)
    rounds = 0
    for number, prompt in enumerate(prompts):
        ids = encode(prompt, engine.tokenizer, engine.target.vocab_size)
        samples = []
        for i in range(number * n, (number + 1) * n):  # no two texts share their noise, of whichever prompt
            result = engine.generate(ids, replace(params, sample=params.sample + i))
            rounds += len(result.rounds)
            starts = frozenset(record.length - len(ids) for record in result.rounds)
            samples.append(Sample(tuple(result.token_ids), starts))
            told(i + 1)
        warper = Warper(params, len(ids), sorted(eos), engine.target.device)
        evidence.collect(engine.target, likes, warper, ids, samples)
    return _judged(evidence, alpha, engine.target.dtype, rounds)


def _judged(evidence: Evidence, alpha: float, dtype: torch.dtype, rounds: int) -> Findings:
    """Bonferroni: the tests look at the same tokens, so they are not independent, and no product of p-values would be sound."""
    fits = [*(fit for fit in evidence.fits() if fit.freedom), _support(evidence, dtype)]
    level = alpha / (TAIL_ERROR * len(fits))
    least = min(fit.p_value for fit in fits)
    powered = tuple(replace(fit, detectable_tv=_seen(fit, level)) for fit in fits)
    return Findings(powered, level, min(1.0, least * alpha / level), least < level, rounds, evidence.tokens)


def _support(evidence: Evidence, dtype: torch.dtype) -> Fit:
    """Tokens that the target cannot emit (outside top-k, top-p or min-p): more of them than rounding explains?"""
    count, mean = evidence.impossible, evidence.tokens * EDGE * torch.finfo(dtype).eps
    at_least = torch.special.gammainc(*(torch.tensor(float(x), dtype=torch.float64) for x in (count, mean)))
    return Fit("support", "all positions", evidence.tokens, float(count), 0, float(at_least) if count else 1.0)


def _seen(fit: Fit, level: float) -> float | None:
    if not fit.freedom:
        return None
    tv = detectable_tv(fit.freedom, level, fit.samples)
    return tv if tv < 1.0 else None


def _detectable(findings: Findings, position: int) -> float | None:
    """Token by token where every sample shares the prefix and more than one token is common; else by quantiles."""
    here = {fit.kind: fit for fit in findings.fits if fit.where == f"position {position + 1}"}
    fit = here.get("tokens" if position == 0 else "quantiles", here.get("quantiles"))
    return None if fit is None else fit.detectable_tv
