"""Inside transformers: `model.generate(..., custom_generate=draftgraph.custom_generate(...))`.

`generate` prepares a request as it always does (generation config, logits processors, stopping criteria, streamer);
only its decoding loop is replaced. Whatever this loop cannot honour it refuses by name, before any forward.
"""

from __future__ import annotations

import copy
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
)
from transformers.generation import GenerateDecoderOnlyOutput

from draftgraph.backends.support import context_window
from draftgraph.engine.config import Config
from draftgraph.engine.engine import Engine
from draftgraph.errors import OptionError, require
from draftgraph.integrations.refusals import (
    left_padding,
    refuse_batch,
    refuse_config,
    refuse_inputs,
    refuse_length,
    refuse_training,
)
from draftgraph.request.result import Result
from draftgraph.request.stats import Stats
from draftgraph.sampling.contract import check_functions, refuse_stateful
from draftgraph.sampling.copies import copied
from draftgraph.sampling.params import SamplingParams

_LOADING = ("tokenizer", "dtype", "device", "config", "backend", "weights", "draft_weights", "trust_remote_code")
"""Options of `Engine.from_pretrained` that are not fields of `Config`."""
ROW_BY_ROW = "Rows of a batch are decoded one after the other: write one prompt per call, with budget=0"
_FORGOTTEN = ("streamer", "synced_gpus", "assistant_model", "assistant_tokenizer")


def custom_generate(draft_model: str | Path | PreTrainedModel | None = None, **options: Any) -> Callable[..., Any]:
    """A decoding loop for `model.generate(**inputs, custom_generate=...)`; the output has the law of plain `generate`.

    draft_model  the drafter: a folder, a .gguf file, a hub name or a loaded model; None looks continuations up in the text.
    options      as for `Engine.from_pretrained`: budget=8, structure="tree", rule="agree", drafter="lookup", ...

    Logits processors, stopping criteria, streamer, seeds (`torch.manual_seed`), batches padded on the left and
    `return_dict_in_generate` (with scores and logits) work as in transformers. Processors are called as
    `SamplingParams.logits_processors` says, row by row of a batch; stopping criteria after every token, row by row, with ids
    of shape [1, length]. The returned dict has no cache, and has `stats`, one per row. Keep the callable for
    further calls: it keeps what was loaded and checked for each model. Threads may share it.

    Raises OptionError for a wrong option here, and from `generate` for what cannot be honoured.
    """
    return _DecodingLoop(draft_model if draft_model is not None else options.pop("assistant_model", None), options)


@dataclass
class DraftgraphOutput(GenerateDecoderOnlyOutput):  # type: ignore[misc]
    """transformers' own output, and what drafting did: stats[i] belongs to sequences[i]."""

    stats: list[Stats] | None = None


class _DecodingLoop:
    """What `generate` calls in the place of its own loop."""

    def __init__(self, draft_model: str | Path | PreTrainedModel | None, options: dict[str, Any]) -> None:
        chosen = options.get("config")
        require(chosen is None or isinstance(chosen, Config), "config", chosen, "a Config, or its fields by name")
        if "grammar" in options:
            raise OptionError(
                "custom_generate takes no grammar, which belongs to a request; write "
                "dg.Engine.from_pretrained(model, tokenizer=...).generate(prompt, grammar=...)"
            )
        loading = {name: options.pop(name) for name in _LOADING if name in options}
        chosen = (chosen or Config()).with_options(**options)
        self.draft_model, self.options = draft_model, loading | {"config": chosen}
        self.plain = chosen.budget == 0
        self._engines: weakref.WeakKeyDictionary[PreTrainedModel, Engine] = weakref.WeakKeyDictionary()
        self._building = threading.RLock()

    @property
    def __signature__(self) -> inspect.Signature:
        """transformers reads the signature to learn what to pass on, and loses arguments of its own while doing so."""
        _give_back(self)
        return inspect.signature(self.__call__)

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        given: Mapping[str, Any] | None = None,
        tokenizer: Any = None,
        **inputs: Any,
    ) -> DraftgraphOutput | torch.Tensor:
        """given  arguments of `generate` that it does not pass on. tokenizer  was needed for the criteria, not here."""
        inputs |= given or {}
        streamer = inputs.pop("streamer", None)
        max_length = stopping_criteria.max_length or generation_config.max_length
        refuse_config(generation_config)
        refuse_inputs(model, inputs)
        if not self.plain:
            refuse_stateful(logits_processor)
        refuse_batch(len(input_ids), generation_config, stopping_criteria, streamer)
        refuse_training(model, self.draft_model)
        padding = left_padding(input_ids, inputs.get("attention_mask"), inputs.get("position_ids"))
        refuse_length(context_window(model), input_ids.shape[1] - min(padding), max_length - min(padding))

        kept = generation_config.return_dict_in_generate
        scores, logits = kept and generation_config.output_scores, kept and generation_config.output_logits
        texts = [
            _Text(ids[None], hidden, stopping_criteria, streamer, [] if scores else None, [] if logits else None)
            for ids, hidden in zip(input_ids, padding, strict=True)
        ]
        limit = max(1, max_length - input_ids.shape[1])
        prepared = [
            [_AsPrepared(_for_row(one, row, len(texts)), text.hidden) for one in logits_processor]
            for row, text in enumerate(texts)
        ]
        engine = self._engine(model)
        if self.plain and len(texts) > 1:  # else the engine checks them
            check_functions(prepared[0], texts[0].prompt, engine.target.vocab_size, input_ids.device, ROW_BY_ROW)
        params = [_params(text, own, limit, generation_config) for text, own in zip(texts, prepared, strict=True)]
        results = engine.generate([text.prompt for text in texts], params)
        if streamer is not None:
            streamer.end()
        return _output(texts, results, generation_config)

    def _engine(self, model: PreTrainedModel) -> Engine:
        with self._building:
            engine = self._engines.get(model)
            if engine is None:
                prepared = GenerationConfig()  # `generate` has read the model's own
                engine = Engine.from_pretrained(
                    model, draft_model=self.draft_model, generation_config=prepared, **self.options
                )
                engine.tokenizer = None  # no text is read here
                engine.target.hold_weakly()  # else the cache would keep its own key alive
                self._engines[model] = engine
            return engine


def _give_back(loop: _DecodingLoop) -> None:
    """Put back what `generate` drops when its loop is a callable: streamer, tokenizer and a few more.

    As of transformers 5.23, `_extract_generation_mode_kwargs` collects them, then overwrites the collection with what
    the callable's signature names. It reads the signature right there, so this is the place, and the only one, to
    return them: else a streamer is ignored in silence, and stop strings fail for want of a tokenizer that was given.
    """
    frame = sys._getframe(1)
    for _ in range(8):
        if frame.f_code.co_name == "_extract_generation_mode_kwargs" or frame.f_back is None:
            break
        frame = frame.f_back
    if frame.f_locals.get("custom_generate") is not loop:
        return
    kwargs, collected = frame.f_locals.get("kwargs"), frame.f_locals.get("generation_mode_kwargs")
    if isinstance(kwargs, dict) and isinstance(collected, dict):
        kwargs["given"] = {name: collected[name] for name in _FORGOTTEN if name in collected}
        if "tokenizer" in collected:
            kwargs["tokenizer"] = collected["tokenizer"]


@dataclass
class _Text:
    """One row of the batch while it is decoded. The engine calls it after every token, as `SamplingParams.stop_when`.

    ids      i64[1, length] as transformers shows them to processors and criteria: with the left padding.
    padding  how many of them are padding.
    scores, logits  f32[1, V] of every token, after and before the processors; None if not asked for.
    """

    ids: torch.Tensor
    padding: int
    criteria: StoppingCriteriaList
    streamer: Any | None
    scores: list[torch.Tensor] | None
    logits: list[torch.Tensor] | None
    prompt: list[int] = field(init=False)
    hidden: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.prompt, self.hidden = self.ids[0, self.padding :].tolist(), self.ids[:, : self.padding]

    # Tensors made here outlive the engine's inference mode: users keep scores, and compute on them.
    @torch.inference_mode(False)
    @torch.no_grad()
    def __call__(self, token: int, logits: torch.Tensor, scores: torch.Tensor) -> bool:
        device = self.ids.device
        self.ids = torch.cat([self.ids, torch.tensor([[token]], device=device)], dim=1)
        for rows, row in ((self.scores, scores), (self.logits, logits)):
            if rows is not None:
                rows.append(row[None].to(copy=True, dtype=torch.float32, device=device))
        ended = self.criteria(self.ids, None if self.scores is None else tuple(self.scores))
        if self.streamer is not None:
            self.streamer.put(torch.tensor([token]))
        return bool(ended.all())


class _AsPrepared(LogitsProcessor):  # type: ignore[misc]
    """A processor called as `generate` would: where the ids are, and with the left padding, which some count in."""

    def __init__(self, processor: LogitsProcessor, hidden: torch.Tensor) -> None:
        self.processor, self.hidden = processor, hidden

    def __deepcopy__(self, memo: dict[int, Any]) -> _AsPrepared:
        return _AsPrepared(copied(self.processor), self.hidden)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        device = self.hidden.device
        ids = torch.cat([self.hidden.expand(len(input_ids), -1), input_ids.to(device)], dim=1)
        return self.processor(ids, scores.to(device))  # type: ignore[no-any-return]


def _params(text: _Text, processors: Sequence[LogitsProcessor], limit: int, config: GenerationConfig) -> SamplingParams:
    """The processors already hold temperature, top-k and all else that shapes the law; the criteria hold every stop."""
    seed = int(torch.randint(2**63 - 1, (1,))) if config.do_sample else 0  # greedy `generate` draws no number either
    return SamplingParams(
        max_new_tokens=limit,
        temperature=1.0 if config.do_sample else 0.0,
        seed=seed,
        ignore_eos=True,
        stop_when=text,
        logits_processors=tuple(processors),
    )


def _for_row(processor: LogitsProcessor, row: int, rows: int) -> LogitsProcessor:
    """A processor as it acts on one row of the batch: several nodes of that row come at once, and some processors keep
    what is each row's own. `rows` counts num_return_sequences; processors of the "encoder" (the prompt) do not.
    """
    own = copy.copy(processor)
    if isinstance(own, RepetitionPenaltyLogitsProcessor) and isinstance(own.prompt_ignore_length, torch.Tensor):
        own.prompt_ignore_length = int(own.prompt_ignore_length[row])
    elif isinstance(own, EncoderRepetitionPenaltyLogitsProcessor):
        prompts = own.encoder_input_ids
        own.encoder_input_ids = prompts[row * len(prompts) // rows][None]
    elif isinstance(own, EncoderNoRepeatNGramLogitsProcessor):
        own.generated_ngrams, own.batch_size = [own.generated_ngrams[row * own.batch_size // rows]], 1
    elif isinstance(own, PrefixConstrainedLogitsProcessor):
        allowed, prompt = own._prefix_allowed_tokens_fn, row // own._num_beams
        own._prefix_allowed_tokens_fn, own._num_beams = lambda _, ids: allowed(prompt, ids), 1
    return own


def _output(
    texts: Sequence[_Text], results: Sequence[Result], config: GenerationConfig
) -> DraftgraphOutput | torch.Tensor:
    pad = config._pad_token_tensor
    filler = 0 if pad is None else int(pad)
    width = max(text.ids.shape[1] for text in texts)
    sequences = texts[0].ids.new_full((len(texts), width), filler)
    for row, text in zip(sequences, texts, strict=True):
        row[: text.ids.shape[1]] = text.ids[0]
    if not config.return_dict_in_generate:
        return sequences
    scores, logits = (
        None if rows[0] is None else _by_step([row or [] for row in rows], filler)
        for rows in ([text.scores for text in texts], [text.logits for text in texts])
    )
    return DraftgraphOutput(
        sequences=sequences, scores=scores, logits=logits, stats=[result.stats for result in results]
    )


def _by_step(texts: Sequence[Sequence[torch.Tensor]], filler: int) -> tuple[torch.Tensor, ...]:
    """f32[rows, V] for every step. Where a row has ended, the law is certain: the padding that follows."""
    certain = torch.full_like(texts[0][0], -torch.inf)
    certain[0, filler] = 0.0
    steps = range(max(len(rows) for rows in texts))
    return tuple(torch.cat([rows[step] if step < len(rows) else certain for rows in texts]) for step in steps)
