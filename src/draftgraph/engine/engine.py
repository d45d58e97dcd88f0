"""Requests in, events out."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, overload

import torch
from transformers import PreTrainedModel

from draftgraph.backends.load import eos_ids, load_model, load_tokenizer
from draftgraph.backends.torch_model import HFModel, probe
from draftgraph.budget.automatic import DEPTH, MOST_NODES, AutoBudget
from draftgraph.budget.costs import Costs
from draftgraph.budget.limits import limits
from draftgraph.draft.drafter import Drafter
from draftgraph.draft.proposal import failing
from draftgraph.engine.assemble import make_drafter
from draftgraph.engine.config import Config
from draftgraph.engine.pair_costs import pair_costs
from draftgraph.engine.prompts import Prompt, encode, is_batch
from draftgraph.engine.round import decode_round
from draftgraph.engine.strategy import choose, reconsider
from draftgraph.errors import DraftgraphError, OptionError, PromptError
from draftgraph.request.record import RoundRecord
from draftgraph.request.result import Event, Result, Stream
from draftgraph.request.state import Plan, Request, Strategy
from draftgraph.request.text import Detokenizer
from draftgraph.sampling.contract import check_functions
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.rng import Noise, fresh_seed
from draftgraph.sampling.warp import Warper


class Engine:
    """Lossless speculative decoding for one target model.

    Build it with `from_pretrained`. `generate` and `stream` may be called again and again, from any number of threads; a
    failed or closed request leaves nothing behind.
    """

    _timing = threading.RLock()
    """Costs are measured by one engine at a time; others wait, and find what it wrote."""

    def __init__(
        self,
        target: HFModel,
        drafter: Drafter,
        config: Config,
        tokenizer: Any | None,
        eos: frozenset[int],
    ) -> None:
        self.target, self.drafter, self.config, self.tokenizer, self.eos = target, drafter, config, tokenizer, eos

    @classmethod
    def from_pretrained(
        cls,
        target: str | Path | PreTrainedModel,
        *,
        draft_model: str | Path | PreTrainedModel | None = None,
        tokenizer: Any | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | None = None,
        config: Config | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Engine:
        """An engine from folders, hub names or loaded transformers models.

        draft_model  the drafter (alias: assistant_model); without one, continuations are looked up in the text.
        tokenizer    needed for text prompts if `target` is a loaded model without a folder.
        dtype        of weights loaded here; None is float32 on a CPU. device  None is the GPU if there is one.
        trust_remote_code  whether code that comes with the models may run. Without it such models are refused.
        options      fields of `Config`, e.g. budget=16, structure="tree", rule="agree", and the ecosystem's aliases.

        Raises ModelError, PairError, OptionError before any token is generated.
        """
        draft_model = draft_model if draft_model is not None else options.pop("assistant_model", None)
        chosen = (config or Config()).with_options(**options)
        if draft_model is None and chosen.drafter is None:
            chosen = chosen.with_options(drafter="lookup")
        if draft_model is None and chosen.drafter == "model":
            raise OptionError("drafter='model' needs a draft_model; write draft_model=..., or drafter='lookup'")
        if draft_model is not None and chosen.drafter not in (None, "model"):
            asked = chosen.own_drafter.name if chosen.own_drafter is not None else repr(chosen.drafter)
            raise OptionError(f"drafter={asked} drafts without it; leave out draft_model, or write drafter='model'")
        model = HFModel(load_model(target, dtype, device, trust_remote_code))
        tokenizer = tokenizer if tokenizer is not None else load_tokenizer(target, trust_remote_code)
        probe(model)
        drafter = make_drafter(model, draft_model, chosen, tokenizer, dtype, device, trust_remote_code)
        return cls(model, drafter, chosen, tokenizer, eos_ids(model.model, tokenizer))

    @overload
    def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> Result: ...  # type: ignore[overload-overlap]
    @overload
    def generate(
        self, prompt: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[Result]: ...
    def generate(
        self, prompt: Any, params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> Result | list[Result]:
        """Generate for one prompt (text or token ids), or for a list of them, with params for all or one for each.

        An error carries what was generated before it: `partial` of the request that failed, `finished` of those before it.
        """
        prompts = prompt if is_batch(prompt) else [prompt]
        requests = [self._request(one, its) for one, its in zip(prompts, _each(params, len(prompts)), strict=True)]
        results: list[Result] = []
        for request in requests:
            stream = self._stream(request)
            try:
                for _ in stream:
                    pass
            except BaseException as error:
                error.partial, error.finished = stream.result(), results  # type: ignore[attr-defined]
                raise
            finally:
                stream.close()
            results.append(stream.result())
        return results if is_batch(prompt) else results[0]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Stream:
        """Generate for one prompt, an event per round; `generate` is a loop over this."""
        return self._stream(self._request(prompt, params or SamplingParams()))

    def choice(self, params: SamplingParams) -> Strategy:
        """The rule, structure and kind of slots that a request starts with, and why.

        Raises OptionError if the rule that was asked for does not verify the drafts that there would be.
        """
        return choose(self.config, params.temperature, self.drafter)

    def _stream(self, request: Request) -> Stream:
        return Stream(self._run(request), partial(self._result, request), partial(self._free, request))

    def _run(self, request: Request) -> Generator[Event, None, None]:
        asked = self.config.budget, self.config.num_speculative_tokens
        bounds = partial(limits, *asked, window=self.target.context_window)
        try:
            request.text = self.target.open(len(request.tokens) + MOST_NODES)
            request.begun = True
            with failing(self.drafter, "beginning"):
                self.drafter.begin(request)
            while request.finish_reason is None:
                yield decode_round([request], self.drafter, self.target, bounds)[0]
                seen = self.drafter.overlap(request)
                request.choice = reconsider(request.choice, self.config, request.params.temperature, seen)
        finally:
            self._free(request)

    def _free(self, request: Request) -> None:
        """Let go of what the request holds; a second time, of what an interrupt has left."""
        try:
            if request.begun:
                try:
                    with failing(self.drafter, "ending"):
                        self.drafter.end(request)
                except DraftgraphError:
                    request.begun = False  # it was asked, and has failed
                    raise
                request.begun, request.drafting = False, None
        finally:
            self.target.close(request.text)

    def _result(self, request: Request) -> Result:
        choice = request.choice
        stats = request.tally.stats(
            rule=choice.rule.name,
            structure=choice.structure.name,
            lossless=choice.rule.lossless,
            prompt=request.prompt_length,
            output=len(request.output),
        )
        logprobs = request.logprobs if request.params.logprobs else None
        return Result(
            "".join(request.pieces),
            request.output,
            request.finish_reason,
            stats,
            request.noise.seed,
            choice,
            logprobs,
            tuple(request.rounds),
        )

    def _request(self, prompt: Prompt, params: SamplingParams) -> Request:
        """Check a prompt and its options; nothing is allocated yet."""
        for model in (self.target, self.drafter.model):
            if model is not None:
                model.refuse_training()
        choice = self.choice(params)
        ids = encode(prompt, self.tokenizer, self.target.vocab_size)
        limit = self._limit(len(ids), params)
        if params.stop and self.tokenizer is None:
            raise OptionError(
                "stop strings need a tokenizer; write Engine.from_pretrained(..., tokenizer=...) or stop_token_ids"
            )
        drafts = self.config.budget != 0
        if drafts:  # else processors are called as they expect
            check_functions(params.logits_processors, ids, self.target.vocab_size, self.target.device)
        eos = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self.eos)
        seed = fresh_seed() if params.seed is None else params.seed
        return Request(
            params,
            choice,
            ids,
            len(ids),
            limit,
            eos,
            Noise(seed, params.sample),
            Warper(params, len(ids), sorted(eos), self.target.device, drafts),
            Detokenizer(self.tokenizer, ids, params.stop),
            self.target.vocab_size,
            self._plan(params.temperature),
        )

    def _plan(self, temperature: float) -> Plan | None:
        structure, copies = self.config.resolved_structure, bool(self.drafter.edges)
        if self.config.budget != "auto" or structure.shape is not None:
            return None
        depth = self.config.num_speculative_tokens or DEPTH
        computes = self.drafter.model is not None or not copies
        return AutoBudget(self.costs.at(temperature), depth, computes, copies, structure.nodes_per_level).plan

    @cached_property
    def costs(self) -> Costs:
        """What rounds cost here: from the user's cache, or measured now, which takes a few seconds for small models."""
        with self._timing:
            if "costs" not in self.__dict__:  # else another thread has measured them while this one waited
                self.__dict__["costs"] = pair_costs(self.target, self.drafter, self.config, self._decode)
            costs: Costs = self.__dict__["costs"]
            return costs

    def _decode(
        self, drafter: Drafter, config: Config, prompt: Sequence[int], params: SamplingParams
    ) -> Sequence[RoundRecord]:
        """The rounds of a request to an engine with the same target."""
        return Engine(self.target, drafter, config, None, frozenset()).generate(prompt, params).rounds

    def _limit(self, prompt: int, params: SamplingParams) -> int:
        window = self.target.context_window
        if window is not None and prompt >= window:
            raise PromptError(
                f"the prompt has {prompt} tokens and the target's context window is {window}; "
                f"at most {window - 1} leave room for an answer. Shorten the prompt"
            )
        limit = params.max_new_tokens if window is None else min(params.max_new_tokens, window - prompt)
        model = self.drafter.model
        draft_window = None if model is None else model.context_window
        if draft_window is not None and prompt + limit > draft_window:
            room = draft_window - prompt
            what = (
                f"prompt ({prompt}) and max_new_tokens ({limit}) need {prompt + limit} positions, but the drafter's window is "
                f"{draft_window}; write max_new_tokens={room}"
                if room > 0
                else f"the prompt has {prompt} tokens, beyond the drafter's window of {draft_window}; shorten it"
            )
            raise PromptError(f"{what}, or use a drafter with a longer window, or drafter='lookup'")
        return limit


def _each(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> Sequence[SamplingParams]:
    """The params of every prompt of a batch."""
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise OptionError(f"{len(params)} params for {count} prompts; give one SamplingParams for all, or one for each")
    return params
