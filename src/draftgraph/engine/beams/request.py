"""A request for beams: what it asks, what cannot be honoured, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from draftgraph.backends.base import CausalLM
from draftgraph.budget.limits import Windows
from draftgraph.engine import prompts
from draftgraph.engine.beams.beam import Ending, Finished
from draftgraph.engine.beams.chance import RoundChance
from draftgraph.engine.beams.choice import Choice, Sampled, Searched, candidates
from draftgraph.engine.beams.round import Run, decode_layers
from draftgraph.engine.beams.texts import BeamTexts
from draftgraph.engine.options import Asked
from draftgraph.engine.room import room
from draftgraph.errors import ModelError, OptionError, brief
from draftgraph.request.beams import BeamResult, BeamStats, FinishedBeam
from draftgraph.request.text import whole_text
from draftgraph.sampling.beam_params import BeamParams
from draftgraph.sampling.contract import check_functions
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.rng import Noise, fresh_seed
from draftgraph.sampling.warp import Warper

if TYPE_CHECKING:
    from draftgraph.engine.engine import Engine

MOST_LAYERS, LEAST_LAYERS = 4, 2
"""Layers that are drafted per round where nobody says how many, for one beam and for many: all of them must be drafted."""
_NOT_FOR_BEAMS = ("stop", "stop_when", "logprobs", "top_logprobs", "grammar")
_INSTEAD = "write stop_token_ids for what ends a beam, or engine.generate(...) for one text"
Beams = BeamParams | Mapping[str, Any] | None
_NO_STATE = "Beams ask about all their texts; write a function of input_ids and scores"


def read_params(params: Any, options: Mapping[str, Any]) -> BeamParams:
    """What a call asks: a BeamParams, a mapping of its fields, or its fields by name. Raises OptionError."""
    if isinstance(params, BeamParams):
        return params.with_options(**options)  # type: ignore[return-value]  # a copy of its own class
    if params is not None and not isinstance(params, Mapping):
        raise OptionError(f"params={brief(params)} is not possible for beams; write dg.BeamParams(num_beams=4, ...)")
    named = {**(params or {}), **options}
    wrong = next((name for name in named if not isinstance(name, str)), None)
    if wrong is not None:
        raise OptionError(
            f"params has the key {brief(wrong)}, which names no option; write names of fields of dg.BeamParams"
        )
    return BeamParams().with_options(**named)  # type: ignore[return-value]


def decode_beams(
    engine: Engine, prompt: Any, params: Any, options: Mapping[str, Any], samples: bool
) -> BeamResult | list[BeamResult]:
    """The beams of one prompt, or of each of a batch, one after the other. Raises as `decode` does."""
    prompt, options = prompts.take_named(prompt, options)
    asked = read_params(params, options)
    given, is_batch = prompts.split(prompt)
    results = [decode(engine, each, asked, samples) for each in given]
    return results if is_batch else results[0]


def decode(engine: Engine, prompt: Any, params: BeamParams, samples: bool) -> BeamResult:
    """The beams of one prompt. Raises PromptError, OptionError, ModelError before the first forward."""
    _refuse(engine, params, samples)
    ids = prompts.encode(prompt, engine.tokenizer, engine.target.vocab_size)
    # A search has no temperature; at 0 the model's own options count that do at temperature 0.
    asked = params if samples else replace(params, temperature=0.0)
    settled = engine.defaults.settle(Asked(asked, _named(asked)), ids)
    params = settled.params  # type: ignore[assignment]  # of the class that was given
    _refuse_options(params, asked)
    check_functions(params.logits_processors, ids, engine.target.vocab_size, engine.target.device, _NO_STATE)
    engine.hints.give("generation config", settled.hint if samples else None)
    engine.hints.on_prompt(prompt, engine.tokenizer)
    ending = Ending(
        params.num_beams,
        float(_own(engine, params, "length_penalty", 1.0)),
        _own(engine, params, "early_stopping", False),
        room(len(ids), params.max_new_tokens, engine.target.context_window),
        settled.eos,
    )
    _refuse_small_vocabulary(engine.target, params, ending, samples)
    seed = fresh_seed() if params.seed is None else params.seed
    run = _begin(engine, ids, params, ending, samples, Noise(seed, params.sample))
    try:
        while not decode_layers(run):
            pass
        return _result(engine, run, params, samples, seed)
    finally:
        for texts in (run.target, run.drafter):
            if texts is not None:
                texts.close()


def _named(params: SamplingParams) -> frozenset[str]:
    """The options that are not left at their defaults."""
    return frozenset(each.name for each in fields(params) if getattr(params, each.name) != each.default)


def _refuse(engine: Engine, params: BeamParams, samples: bool) -> None:
    """What cannot be honoured, whatever the prompt is."""
    for model in (engine.target, engine.drafter.model):
        if model is not None:
            model.refuse_training()
    if not engine.target.forks:
        raise ModelError(
            f"{engine.target.model_name} cannot keep several texts that part: its layers read one path, or its rows must agree "
            "bit for bit; write engine.generate(...), or bitwise=False where that was on"
        )
    _refuse_drafter(engine)
    if samples:
        if params.temperature == 0:
            raise OptionError("temperature=0 leaves nothing to sample; write engine.beam_search(...)")
        return
    named = ("top_k", "top_p", "min_p", "width") + (("temperature",) if params.temperature else ())
    default = BeamParams()
    for name in named:
        if getattr(params, name) != getattr(default, name):
            raise OptionError(
                f"{name}={brief(getattr(params, name))} is for sampling, and beam_search takes the best beams; leave it out, or "
                "write engine.beam_sample(...)"
            )


def _refuse_options(params: BeamParams, asked: BeamParams) -> None:
    """Options of one text. asked  them as they were named: what is not there comes from the model's own config."""
    for name in _NOT_FOR_BEAMS:
        if getattr(params, name):
            said = f"{name}={brief(getattr(params, name))}"
            if getattr(asked, name):
                raise OptionError(f"{said} is not possible for beams; {_INSTEAD}")
            raise OptionError(
                f"the model's own generation_config says {said}, which is not possible for beams; write "
                "Engine.from_pretrained(..., generation_config=GenerationConfig())"
            )


def _refuse_drafter(engine: Engine) -> None:
    config, model = engine.config, engine.drafter.model
    if config.own_drafter is not None or config.prediction is not None:
        what = "prediction" if config.own_drafter is None else f"drafter={engine.drafter.name}"
        raise OptionError(f"{what} proposes continuations of one text, and beams are several; write draft_model=...")
    if model is not None and not model.forks:
        raise OptionError(
            f"the draft model {model.model_name} reads the target's hidden states, or one path only, and drafts no beams; write "
            "a draft_model that is a language model, or none"
        )


def _refuse_small_vocabulary(target: CausalLM, params: BeamParams, ending: Ending, samples: bool) -> None:
    needed = candidates(params.num_beams, len(ending.eos))
    if not samples and needed > target.vocab_size:
        raise OptionError(
            f"num_beams={params.num_beams} chooses among {needed} tokens behind the prompt, and the target's vocabulary has "
            f"{target.vocab_size}; write fewer beams"
        )


def _own(engine: Engine, params: BeamParams, name: str, otherwise: Any) -> Any:
    """An option that may be left to the model's own generation config."""
    asked = getattr(params, name)
    if asked is None and engine.defaults.own.get(name) is not None:
        return getattr(BeamParams(**{name: engine.defaults.own[name]}), name)
    return otherwise if asked is None else asked


def _begin(engine: Engine, ids: list[int], params: BeamParams, ending: Ending, samples: bool, noise: Noise) -> Run:
    target, model = engine.target, engine.drafter.model
    warper = Warper(params, len(ids), sorted(ending.eos), target.device)
    choice: Choice = Sampled(params, warper, ending.limit) if samples else Searched(params, warper, len(ending.eos))
    depth = params.num_speculative_tokens
    if depth is None:
        depth = engine.config.num_speculative_tokens or max(LEAST_LAYERS, MOST_LAYERS + 1 - params.num_beams)
    drafts = model is not None and depth > 0 and engine.config.budget != 0
    vocab = target.vocab_size
    return Run(
        ids,
        depth,
        Windows.of(target, engine.drafter),
        choice,
        lambda length: RoundChance(noise, length),
        BeamTexts(target, len(ids), vocab),
        BeamTexts(model, len(ids), vocab) if model is not None and drafts else None,
        Finished(ending),
    )


def _result(engine: Engine, run: Run, params: BeamParams, samples: bool, seed: int) -> BeamResult:
    beams = [
        FinishedBeam(
            whole_text(engine.tokenizer, [*run.prompt, *ended.tokens], len(run.prompt), ()),
            list(ended.tokens),
            ended.score,
            ended.reason,
        )
        for ended in run.finished.beams[: params.num_return_sequences]
    ]
    own = engine.defaults.own
    ends = own.get("eos_token_id", sorted(run.finished.ending.eos))
    first = ends if isinstance(ends, int) else next(iter(ends), -1)
    return BeamResult(beams, _stats(engine, run, params), seed, run.prompt, own.get("pad_token_id") or first)


def _stats(engine: Engine, run: Run, params: BeamParams) -> BeamStats:
    layers, calls, seen, drafter = sum(run.tally.layers), len(run.tally.layers), run.choice.seen, run.drafter
    return BeamStats(
        num_beams=params.num_beams,
        num_layers=layers,
        num_target_calls=calls,
        target_calls_per_layer=calls / layers,
        layers_per_target_call=layers / calls,
        num_draft_nodes=run.tally.nodes,
        num_target_rows=run.target.rows,
        num_drafter_rows=0 if drafter is None else drafter.rows,
        num_drafter_passes=0 if drafter is None else drafter.passes,
        drafted_pairs_kept=sum(seen.kept),
        drafted_pairs_tested=sum(seen.tested),
        kept_by_layer=tuple(seen.kept),
        predicted_by_layer=tuple(map(tuple, seen.predicted)),
        lossless=params.width == "full",
        numerics=engine.target.numerics,
        backend=engine.target.name,
    )
