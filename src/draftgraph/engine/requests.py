"""What a call asks becomes requests; what cannot be honoured is refused here, before anything is allocated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from draftgraph.engine import prompts
from draftgraph.engine.assemble import predicted
from draftgraph.engine.course import Course
from draftgraph.engine.options import Asked, Params, read_options
from draftgraph.engine.own_drafting import own_config
from draftgraph.engine.room import room
from draftgraph.errors import OptionError
from draftgraph.request.clock import Clock
from draftgraph.request.state import Request
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.contract import check_functions
from draftgraph.sampling.rng import Noise, fresh_seed
from draftgraph.sampling.warp import Warper

if TYPE_CHECKING:
    from draftgraph.engine.config import Config
    from draftgraph.engine.engine import Engine


def make_course(engine: Engine, prompt: Any, params: Params | Asked | None) -> Course:
    """Check one prompt and its options. Raises PromptError, OptionError, ModelError."""
    asked = read_options(params, {}, 1)[0]
    config = own_config(engine.config, asked.drafting, engine.drafter, engine.target)
    engine.heads.recognise(config.resolved_rule)
    request = _request(engine, prompt, asked, config)
    return Course(
        request, config, engine.drafter, engine.target, engine.tokenizer, lambda: engine.costs, engine.schedule
    )


def _request(engine: Engine, prompt: Any, asked: Asked, config: Config) -> Request:
    target, drafter, tokenizer = engine.target, engine.drafter, engine.tokenizer
    for model in (target, drafter.model):
        if model is not None:
            model.refuse_training()
    ids = prompts.encode(prompt, tokenizer, target.vocab_size)
    settled = engine.defaults.settle(asked, ids)
    params = settled.params
    choice = engine.choice(params, config)
    limit = room(len(ids), params.max_new_tokens, target.context_window)
    if params.stop and tokenizer is None:
        raise OptionError(
            "stop strings need a tokenizer; write Engine.from_pretrained(..., tokenizer=...) or stop_token_ids"
        )
    stops = settled.eos.intersection(params.stop_token_ids) - engine.eos
    grammar = engine.grammars.states(params.grammar, settled.eos - stops, stops)
    drafts = config.budget != 0
    if drafts:  # else processors are called as they expect
        check_functions(params.logits_processors, ids, target.vocab_size, target.device)
    engine.hints.give("generation config", settled.hint)
    engine.hints.on_prompt(prompt, tokenizer)
    seed = fresh_seed() if params.seed is None else params.seed
    return Request(
        params,
        choice,
        ids,
        len(ids),
        limit,
        settled.eos,
        Noise(seed, params.sample),
        Warper(params, len(ids), sorted(settled.eos), target.device, drafts, grammar),
        Detokenizer(tokenizer, ids, params.stop),
        target.vocab_size,
        prediction=predicted(target, config, tokenizer) if "prediction" in asked.drafting else (),
        clock=Clock(engine.schedule.now),
    )
