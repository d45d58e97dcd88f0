"""An engine from options that are settled: models are loaded, a drafter is made, and what does not fit is refused."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from draftgraph.backends.choice import Loading, load_backend
from draftgraph.backends.eos import eos_ids
from draftgraph.backends.load import find_tokenizer
from draftgraph.engine.assemble import for_drafter, make_drafter, readable_drafts, with_drafter
from draftgraph.engine.bitwise import as_asked
from draftgraph.engine.config import Config
from draftgraph.engine.lanes import few_threads
from draftgraph.engine.schedules import make_schedule
from draftgraph.engine.serving import Serving

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from draftgraph.engine.engine import Engine


def make_engine(
    kind: type[Engine],
    tokenizer: Any,
    loading: Loading,
    generation_config: GenerationConfig | None,
    serving: Serving,
    target: Any,
    draft_model: Any,
    config: Config,
) -> Engine:
    """An engine of class `kind`. Raises ModelError, PairError, OptionError."""
    config = with_drafter(config, draft_model is not None)
    loading, trained = for_drafter(loading, target, draft_model, config)
    schedule = make_schedule(config)
    with few_threads(schedule.threads):
        loaded = load_backend(target, loading)
        tokenizer = find_tokenizer(tokenizer, target, loading.trusted)
        model, config = as_asked(loaded.model, config)
        drafter, why = make_drafter(loaded, draft_model, config, tokenizer, loading, trained)
    config = readable_drafts(config, model, drafter)
    own = copy.deepcopy(loaded.generation_config if generation_config is None else generation_config)
    eos = eos_ids(loaded, tokenizer, generation_config)
    engine = kind(model, drafter, config, tokenizer, eos, own, serving, schedule)
    engine.heads.recognise(config.resolved_rule)
    engine.backends["target"] = f"{loaded.model.name}: {loaded.reason}"
    if drafter.model is not None and why:
        engine.backends["drafter"] = f"{drafter.model.name}: {why}"
    return engine
