"""Requests in, events out."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from transformers import GenerationConfig

from draftgraph.backends.base import CausalLM
from draftgraph.backends.choice import Loading
from draftgraph.budget.costs import Costs
from draftgraph.draft.base import Drafter
from draftgraph.engine import chat, prompts
from draftgraph.engine.assemble import why_one_path
from draftgraph.engine.async_stream import AsyncStream
from draftgraph.engine.background import Background
from draftgraph.engine.batch import collect, decode_beside, decode_together
from draftgraph.engine.beams.request import Beams, decode_beams
from draftgraph.engine.chat import Messages
from draftgraph.engine.config import Config
from draftgraph.engine.course import Course
from draftgraph.engine.defaults import Defaults
from draftgraph.engine.grammars import Grammars
from draftgraph.engine.hints import Hints
from draftgraph.engine.judging import Heads
from draftgraph.engine.lanes import few_threads
from draftgraph.engine.making import make_engine
from draftgraph.engine.options import Params, read_options
from draftgraph.engine.pair_costs import pair_costs
from draftgraph.engine.parallel_options import refuse_drafter
from draftgraph.engine.prompts import Prompt
from draftgraph.engine.requests import make_course
from draftgraph.engine.schedule_choice import with_schedule
from draftgraph.engine.scheduler import Load, Scheduler
from draftgraph.engine.schedules import Schedule, make_schedule
from draftgraph.engine.scoring import Scores, score
from draftgraph.engine.serving import Serving, serving_of, taken
from draftgraph.engine.strategy import choose
from draftgraph.errors import PromptError, require
from draftgraph.request.beams import BeamResult
from draftgraph.request.record import RoundRecord
from draftgraph.request.result import Result, Stream
from draftgraph.request.state import Strategy
from draftgraph.sampling.generation_config import fields_of
from draftgraph.sampling.params import SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Engine:
    """Lossless speculative decoding for one target model.

    Build it with `from_pretrained`. `generate` and `stream` may be called again and again, from any number of threads; a
    failed or closed request leaves nothing behind. `backends` says what runs its models, and why.
    """

    _timing = threading.RLock()
    """Costs are measured by one engine at a time; others wait, and find what it wrote."""

    def __init__(
        self,
        target: CausalLM,
        drafter: Drafter,
        config: Config,
        tokenizer: Any | None,
        eos: frozenset[int],
        generation_config: GenerationConfig | None = None,
        serving: Serving | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if config.parallel:
            refuse_drafter("model", drafter)
        self.target, self.drafter, self.config, self.tokenizer, self.eos = target, drafter, config, tokenizer, eos
        self.generation_config, self.hints = generation_config, Hints()
        self.schedule, self.serving = schedule or make_schedule(config), serving_of(serving or Serving(), config)
        # Its loop outlives it: what it holds on to must not be the engine.
        self._background = Background(partial(Scheduler, target, drafter, self.serving, self.schedule))
        self.grammars = Grammars(tokenizer, target.vocab_size)
        self.heads = Heads(target)
        self.backends: dict[str, str] = {}

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
        backend: str = "auto",
        weights: str | None = None,
        draft_weights: str | None = None,
        tp_plan: str | None = None,
        trust_remote_code: bool = False,
        generation_config: GenerationConfig | None = None,
        serving: Serving | None = None,
        **options: Any,
    ) -> Engine:
        """An engine from folders, .gguf files, hub names or loaded transformers models.

        draft_model  the drafter (alias: assistant_model); without one, continuations are looked up in the text.
        tokenizer    needed for text prompts if `target` is a loaded model without a folder; itself, or its folder.
        dtype        of weights loaded here; None is float32 on a CPU. device  None is the GPU if there is one.
        backend      what runs the models: "torch"; "openvino"; "cuda_graphs", which records passes on a GPU and replays them; or
                     "auto", which takes OpenVINO for folders and hub names on a CPU where it is installed and exact, and torch
                     elsewhere. `engine.backends` says which it was, and why.
        weights      "int8" or "int4": quantise the models that are loaded here, drafter included, which OpenVINO runs (extra
                     "quantised"). That is another model than the stored one; the text keeps its law exactly. None: as stored.
        draft_weights  the same of the draft model alone, whose rounding changes no law; "stored": as stored. None: as `weights`.
        tp_plan      "auto" under torchrun: all ranks share the target, by its own plan. Ranks but 0 never come back from here.
        trust_remote_code  whether code that comes with the models may run. Without it such models are refused.
        generation_config  what to take for the model's own (see `draftgraph.engine.defaults`); an empty one leaves it aside.
        serving      how many requests are decoded at once, and how much they may cache: a `Serving`, or its fields by name.
        options      fields of `Config`, e.g. budget=16, rule="agree", drafter=one of your own, and the ecosystem's aliases.

        Raises ModelError, PairError, OptionError before any token is generated.
        """
        draft_model = draft_model if draft_model is not None else options.pop("assistant_model", None)
        require(config is None or isinstance(config, Config), "config", config, "a Config, or its fields by name")
        named = generation_config is None or isinstance(generation_config, GenerationConfig)
        require(named, "generation_config", generation_config, "a transformers GenerationConfig")
        serving, options = taken(serving, options)
        chosen = (config or Config()).with_options(**options)
        loading = Loading(
            dtype, device, trust_remote_code, backend, weights=weights, draft_weights=draft_weights, tp_plan=tp_plan
        )
        make = partial(make_engine, cls, tokenizer, loading, generation_config, serving)
        if chosen.schedule == "auto":
            return with_schedule(make, target, draft_model, chosen)
        return make(target, draft_model, chosen)

    @overload
    def generate(self, prompt: Prompt | None = None, params: Params | None = None, **options: Any) -> Result: ...
    @overload
    def generate(
        self, prompt: Sequence[Prompt], params: Params | Sequence[Params] | None = None, **options: Any
    ) -> list[Result]: ...
    def generate(self, prompt: Any = None, params: Any = None, **options: Any) -> Result | list[Result]:
        """Generate for one prompt, or for a batch of them: a result, or a list of results.

        prompt   a text; token ids in a list, a tuple, a range, an iterator, a 1-D array or tensor; what a tokenizer or
                 `apply_chat_template` returns, a mapping with input_ids i64[n] or i64[rows, n], of which an attention_mask
                 hides the padding. A list of prompts, a 2-D array and a mapping of rows (be it one) are batches.
                 `generate(**tokenizer(text))` is understood as well.
        params   a SamplingParams, a mapping of its fields, or a GenerationConfig, which means what it means in transformers
                 (`draftgraph.engine.defaults`); for a batch one for all, or a sequence with one for each.
        options  fields of SamplingParams by name, e.g. max_new_tokens=64, temperature=0.7; they change `params`.

        Raises PromptError and OptionError before the first forward. An error carries what was generated before it:
        `partial` of the request that failed, `finished` of those before it.
        """
        courses, is_batch = self._courses(prompt, params, options)
        if len(courses) > 1:
            alone = Scheduler(self.target, self.drafter, self.serving, self.schedule)
            return decode_together(alone, courses)
        result = collect(self._stream(courses[0]))
        return [result] if is_batch else result

    def stream(self, prompt: Prompt | None = None, params: Params | None = None, **options: Any) -> Stream:
        """Generate for one prompt, an event per round; `generate` is a loop over this, and takes the same options."""
        return self._stream(self._one(prompt, params, options))

    def astream(self, prompt: Prompt | None = None, params: Params | None = None, **options: Any) -> AsyncStream:
        """`stream` for `async for`, decoded together with all other requests of `astream` and `agenerate`.

        Raises PromptError, OptionError and QueueFullError here, before the first event is awaited.
        """
        return AsyncStream(self._background.add(self._one(prompt, params, options)))

    @overload
    async def agenerate(self, prompt: Prompt | None = None, params: Params | None = None, **options: Any) -> Result: ...
    @overload
    async def agenerate(
        self, prompt: Sequence[Prompt], params: Params | Sequence[Params] | None = None, **options: Any
    ) -> list[Result]: ...
    async def agenerate(self, prompt: Any = None, params: Any = None, **options: Any) -> Result | list[Result]:
        """`generate` that leaves the event loop free, decoded together with all other requests of `astream` and `agenerate`.

        Cancelling the task ends its requests. Raises QueueFullError where the queue is full.
        """
        courses, is_batch = self._courses(prompt, params, options)
        results = await decode_beside(self._background, courses)
        return results if is_batch else results[0]

    @overload
    def beam_sample(self, prompt: Prompt | None = None, params: Beams = None, **options: Any) -> BeamResult: ...
    @overload
    def beam_sample(self, prompt: Sequence[Prompt], params: Beams = None, **options: Any) -> list[BeamResult]: ...
    def beam_sample(self, prompt: Any = None, params: Any = None, **options: Any) -> BeamResult | list[BeamResult]:
        """Sample beams: every layer is `num_beams` independent draws from the joint law over (beam, token).

        prompt   as in `generate`; prompts of a list are decoded one after the other.
        params   a BeamParams, or a mapping of its fields. options  change `params`.

        Raises PromptError, OptionError and ModelError before the first forward.
        """
        return decode_beams(self, prompt, params, options, samples=True)

    @overload
    def beam_search(self, prompt: Prompt | None = None, params: Beams = None, **options: Any) -> BeamResult: ...
    @overload
    def beam_search(self, prompt: Sequence[Prompt], params: Beams = None, **options: Any) -> list[BeamResult]: ...
    def beam_search(self, prompt: Any = None, params: Any = None, **options: Any) -> BeamResult | list[BeamResult]:
        """Search for the best beams, as `model.generate(num_beams=..., do_sample=False)` of transformers does.

        Arguments and errors are those of `beam_sample`.
        """
        return decode_beams(self, prompt, params, options, samples=False)

    def score(self, prompt: Prompt, top_logprobs: int = 0) -> Scores:
        """The target's log-probability of every token of a prompt, given those before it (before warping).

        top_logprobs  also the best so many tokens at every position.

        Raises PromptError and OptionError before the first forward.
        """
        top = SamplingParams(top_logprobs=top_logprobs)
        top.refuse_beyond(self.target.vocab_size)
        self.target.refuse_training()
        return score(self.target, prompts.encode(prompt, self.tokenizer, self.target.vocab_size), top.top_logprobs)

    @property
    def load(self) -> Load:
        """How many requests of `astream` and `agenerate` are running and waiting, and how many cells they use."""
        return self._background.load

    @overload
    def chat_prompt(self, messages: Messages) -> list[int]: ...  # type: ignore[overload-overlap]  # a str is a sequence
    @overload
    def chat_prompt(self, messages: Sequence[Messages]) -> list[list[int]]: ...
    def chat_prompt(self, messages: Any) -> list[int] | list[list[int]]:
        """The token ids of a conversation up to its next answer, by the tokenizer's chat template.

        messages  a text, which a user says, or a list of {"role": ..., "content": ...}. A list of conversations is a batch.
                  For a template's own arguments write `engine.generate(engine.tokenizer.apply_chat_template(...))`.

        Raises PromptError for messages of another form, and where the tokenizer has no chat template.
        """
        conversations, is_batch = chat.split(messages)
        ids = [chat.encode(conversation, self.tokenizer) for conversation in conversations]
        return ids if is_batch else ids[0]

    @overload
    def chat(self, messages: Messages, params: Params | None = None, **options: Any) -> Result: ...
    @overload
    def chat(self, messages: Sequence[Messages], params: Any = None, **options: Any) -> list[Result]: ...
    def chat(self, messages: Any, params: Any = None, **options: Any) -> Result | list[Result]:
        """Answer a conversation (see `chat_prompt`), or each of a list of them; options as in `generate`."""
        answers: Result | list[Result] = self.generate(self.chat_prompt(messages), params, **options)
        return answers

    def choice(self, params: SamplingParams, config: Config | None = None) -> Strategy:
        """The rule, structure and kind of slots that a request starts with, and why.

        config  how the request drafts; None: as the engine.

        Raises OptionError if the rule that was asked for does not verify the drafts that there would be.
        """
        choice = choose(config or self.config, params.temperature, self.drafter)
        why = why_one_path(self.target, self.drafter.model)
        return replace(choice, reason=f"{choice.reason}; {why}") if why else choice

    def _courses(self, prompt: Any, params: Any, options: Mapping[str, Any]) -> tuple[list[Course], bool]:
        """The requests of a call, and whether they came as a batch."""
        prompt, named = prompts.take_named(prompt, options)
        given, is_batch = prompts.split(prompt)
        asked = read_options(params, named, len(given))
        courses = [make_course(self, each, its) for each, its in zip(given, asked, strict=True)]
        for course in courses:
            course.request.detokenizer.defer()
        return courses, is_batch

    def _one(self, prompt: Any, params: Any, options: Mapping[str, Any]) -> Course:
        """The request of a stream."""
        prompt, named = prompts.take_named(prompt, options)
        given, _ = prompts.split(prompt)
        if len(given) != 1:
            raise PromptError(
                f"a stream continues one prompt, not {len(given)}; write one stream for each, or generate"
            )
        return make_course(self, given[0], read_options(params, named, 1)[0])

    def _stream(self, course: Course) -> Stream:
        return Stream(course.alone(), course.result, course.free)

    @property
    def defaults(self) -> Defaults:
        """What the model brings to every request."""
        return Defaults(fields_of(self.generation_config), self.eos, self.target.vocab_size, self.target.device)

    @cached_property
    def costs(self) -> Costs:
        """What rounds cost here: from the user's cache, or measured now (`warm_up`)."""
        return self.warm_up()

    def warm_up(self, refresh: bool = False) -> Costs:
        """Time this pair now, which else the first request with budget="auto" would wait for. Returns the table, in seconds.

        It takes a few seconds, or a dozen passes of a slow model, and is kept in the user's cache: later processes read it.

        refresh  whether to time it even if a table is kept.
        """
        with self._timing:
            if refresh or "costs" not in self.__dict__:  # else another thread has measured while this one waited
                with few_threads(self.schedule.threads):
                    self.__dict__["costs"] = pair_costs(self.target, self.drafter, self.config, self._decode, refresh)
            costs: Costs = self.__dict__["costs"]
            return costs

    def weights_changed(self) -> None:
        """Say that weights of target or drafter were changed in place: what old ones have read is dropped.

        Raises ModelError where the target's backend computes with a copy of them, and while requests are being decoded.
        """
        self._background.refresh(self.target)

    def _decode(
        self, drafter: Drafter, config: Config, prompt: Sequence[int], params: SamplingParams
    ) -> Sequence[RoundRecord]:
        """The rounds of a request to an engine with the same target."""
        return Engine(self.target, drafter, config, None, frozenset()).generate(prompt, params).rounds
