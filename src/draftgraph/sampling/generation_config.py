"""transformers' GenerationConfig: which of its fields shape the law, which cannot be honoured, which say nothing.

Every field belongs to one of the tables here. `custom_generate` refuses by the first two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    ExponentialDecayLengthPenalty,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    GenerationConfig,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    LogitsProcessor,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from draftgraph.errors import OptionError, brief, unknown_name

Table = Sequence[tuple[str, tuple[Any, ...], str]]
"""Fields, the values of each that are possible, and what to write otherwise. In braces: plain  how to do without; ours  the
call that takes a drafter; drafter  how to name one there; loop  how to have transformers prepare the request."""

OTHER_TEXTS: Table = (
    ("num_beams", (None, 1), "it samples or is greedy; write num_beams=1"),
    ("num_beam_groups", (None, 1), "it samples or is greedy; write num_beam_groups=1"),
    ("constraints", (None,), "{plain}"),
    ("force_words_ids", (None,), "{plain}"),
    ("penalty_alpha", (None, 0), "it does no contrastive search; {plain}"),
    ("dola_layers", (None,), "it does no DoLa decoding; {plain}"),
    ("guidance_scale", (None, 1), "guidance is a second run of the model per token; {plain}"),
)
"""Fields that ask another text, and that no loop of ours honours."""
OTHER_MEANS: Table = (
    ("prompt_lookup_num_tokens", (None,), "write {ours}(prompt_lookup_num_tokens=...) instead"),
    ("assistant_early_exit", (None,), "{drafter}"),
    ("assistant_ensemble_weight", (None,), "it changes the law of the text; leave it out"),
    ("speculation_type", (None,), "{drafter}"),
    ("use_mtp", (None, False), "{drafter}"),
    ("output_attentions", (None, False), "a forward scores many drafted tokens at once; {plain}"),
    ("output_hidden_states", (None, False), "a forward scores many drafted tokens at once; {plain}"),
    ("cache_implementation", (None, "dynamic"), "it has a cache of its own; leave it out"),
    ("use_cache", (None, True), "it needs its cache; write use_cache=True"),
)
"""Fields that ask the same text by other means, or more than the text; no loop of ours honours them."""
NOT_IN_GENERATE: Table = (
    ("max_time", (None,), "write stop_when=..., or close a stream after that time"),
    ("num_return_sequences", (None, 1), "write a batch of one prompt several times, with sample=0, sample=1, ..."),
    ("token_healing", (None, False), "it changes the prompt; {plain}"),
    ("watermarking_config", (None,), "write logits_processors=[...], or {loop}"),
    ("output_scores", (None, False), "write logprobs=True, or stop_when=..., which is shown every row"),
    ("output_logits", (None, False), "write logprobs=True, or stop_when=..., which is shown every row"),
)
"""Fields that `custom_generate` leaves to transformers, and `Engine.generate` cannot honour."""
NOT_WHILE_SAMPLING: Table = (
    ("top_h", (None,), "write {loop}"),
    ("typical_p", (None, 1), "write {loop}"),
    ("epsilon_cutoff", (None, 0), "write {loop}"),
    ("eta_cutoff", (None, 0), "write {loop}"),
)
"""The same, for fields that count only while tokens are sampled."""

SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p")
LENGTHS = ("max_length", "max_new_tokens")
TEXT_ENDS = ("eos_token_id", "stop_strings")
HARMLESS = frozenset({
    "assistant_confidence_threshold", "assistant_lookbehind", "bos_token_id", "cache_config", "compile_config",
    "continuous_batching_config", "decoder_start_token_id", "disable_compile", "diversity_penalty", "early_stopping",
    "is_assistant", "length_penalty", "low_memory", "max_cache_len", "max_matching_ngram_size", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "pad_token_id", "prefill_chunk_size", "return_dict_in_generate", "target_lookbehind",
    "transformers_version",
})  # fmt: skip
"""Fields without a say in which tokens come: beam search's (there is one beam), assistants', storage, compilation."""

WORDS = {
    "plain": "leave it out",
    "ours": "Engine.from_pretrained",
    "drafter": "write the drafter into Engine.from_pretrained(draft_model=...) instead",
    "loop": "model.generate(..., custom_generate=draftgraph.custom_generate(...))",
}
"""What `Engine.generate` says for the words in braces. transformers prepares every field for custom_generate."""


@dataclass(frozen=True)
class Start:
    """Where an answer begins, as transformers' processors want to know it.

    prompt   i64[1, n] token ids.
    begin    length of the text when the first free token comes: n, or n + 1 behind a forced one.
    longest  tokens that prompt and answer may have together.
    eos      i64[k] end-of-sequence ids, or None.
    vocab    tokens of the target.
    """

    prompt: torch.Tensor
    begin: int
    longest: int
    eos: torch.Tensor | None
    vocab: int

    @property
    def length(self) -> int:
        return int(self.prompt.shape[1])

    @property
    def device(self) -> torch.device:
        return self.prompt.device


@dataclass(frozen=True)
class Shaper:
    """A field that shapes the law at every temperature.

    neutral    values that do nothing.
    make       the processor, from the field's value and the start of the answer.
    needs_eos  whether the field counts only where there are end-of-sequence ids.
    is_last    whether it comes after the user's own processors; all others come before them.
    """

    name: str
    neutral: tuple[Any, ...]
    make: Callable[[Any, Start], LogitsProcessor]
    needs_eos: bool = False
    is_last: bool = False


def _forced_eos(value: Any, start: Start) -> LogitsProcessor:
    _refuse_beyond(value, start)
    return ForcedEOSTokenLogitsProcessor(start.longest, value, start.device)


def _forced_bos(value: Any, start: Start) -> LogitsProcessor:
    _refuse_beyond(value, start)
    return ForcedBOSTokenLogitsProcessor(value)


def _suppressed(value: Any, start: Start) -> LogitsProcessor:
    _refuse_beyond(value, start)
    return SuppressTokensLogitsProcessor(value, start.device)


def _suppressed_at_begin(value: Any, start: Start) -> LogitsProcessor:
    _refuse_beyond(value, start)
    return SuppressTokensAtBeginLogitsProcessor(value, start.begin, start.device)


def _refuse_beyond(ids: Any, start: Start) -> None:
    if any(not 0 <= token < start.vocab for token in (ids if isinstance(ids, list | tuple) else [ids])):
        raise ValueError(f"the vocabulary has {start.vocab} tokens")


_SHAPERS = (
    Shaper("sequence_bias", (), lambda v, s: SequenceBiasLogitsProcessor(v)),
    Shaper(
        "encoder_repetition_penalty", (1,), lambda v, s: EncoderRepetitionPenaltyLogitsProcessor(float(v), s.prompt)
    ),
    Shaper("repetition_penalty", (1,), lambda v, s: RepetitionPenaltyLogitsProcessor(float(v))),
    Shaper("no_repeat_ngram_size", (0,), lambda v, s: NoRepeatNGramLogitsProcessor(v)),
    Shaper("encoder_no_repeat_ngram_size", (0,), lambda v, s: EncoderNoRepeatNGramLogitsProcessor(v, s.prompt)),
    Shaper("bad_words_ids", (), lambda v, s: NoBadWordsLogitsProcessor(v, s.eos)),
    Shaper("min_length", (0,), lambda v, s: MinLengthLogitsProcessor(v, s.eos, s.device), needs_eos=True),
    Shaper(
        "min_new_tokens",
        (0,),
        lambda v, s: MinNewTokensLengthLogitsProcessor(s.length, v, s.eos, s.device),
        needs_eos=True,
    ),
    Shaper("forced_bos_token_id", (), _forced_bos),
    Shaper("forced_eos_token_id", (), _forced_eos),
    Shaper("remove_invalid_values", (False,), lambda v, s: InfNanRemoveLogitsProcessor()),
    Shaper(
        "exponential_decay_length_penalty",
        (),
        lambda v, s: ExponentialDecayLengthPenalty(v, s.eos, s.length),
        needs_eos=True,
    ),
    Shaper("suppress_tokens", (), _suppressed),
    Shaper("begin_suppress_tokens", (), _suppressed_at_begin),
    Shaper("renormalize_logits", (False,), lambda v, s: LogitNormalization(), is_last=True),
)
"""In transformers' order."""
SHAPERS = frozenset(shaper.name for shaper in _SHAPERS)

KNOWN = frozenset(
    {*SAMPLING, *LENGTHS, *TEXT_ENDS, *SHAPERS, *HARMLESS}
    | {name for table in (OTHER_TEXTS, OTHER_MEANS, NOT_IN_GENERATE, NOT_WHILE_SAMPLING) for name, _, _ in table}
)


def fields_of(config: GenerationConfig | Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields that a configuration sets, by name."""
    if config is None:
        return {}
    entries = config if isinstance(config, Mapping) else vars(config)
    return {name: value for name, value in entries.items() if value is not None and not str(name).startswith("_")}


def unsupported(
    fields: Mapping[str, Any], tables: Collection[Table], words: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """What cannot be honoured, as "name=value", each with what to write instead."""
    for table in tables:
        for name, possible, instead in table:
            value = fields.get(name)
            if not _is_one_of(value, possible):
                yield f"{name}={brief(value)}", instead.format(**words)


def refuse_unknown(fields: Mapping[str, Any]) -> None:
    """Raise OptionError for a field that no table here knows: what it would do cannot be told."""
    for name in fields:
        if name not in KNOWN:
            raise unknown_name("field of a GenerationConfig", name, KNOWN)


def shapes(fields: Mapping[str, Any]) -> bool:
    """Whether a field shapes the law at every temperature."""
    return any(shaper.name in fields and not _is_one_of(fields[shaper.name], shaper.neutral) for shaper in _SHAPERS)


def processors(fields: Mapping[str, Any], start: Start) -> tuple[list[LogitsProcessor], list[LogitsProcessor]]:
    """What `model.generate` makes of the fields, in its order: before the user's own processors, and after them.

    Every processor is tried on the prompt. Raises OptionError for a value that transformers cannot use.
    """
    before: list[LogitsProcessor] = []
    after: list[LogitsProcessor] = []
    row = torch.zeros(1, start.vocab, device=start.device)
    for shaper in _SHAPERS:
        value = fields.get(shaper.name)
        if value is None or _is_one_of(value, shaper.neutral) or (shaper.needs_eos and start.eos is None):
            continue
        try:
            processor = shaper.make(value, start)
            processor(start.prompt, row.clone())
        except Exception as error:
            raise OptionError(
                f"{shaper.name}={brief(value)} of the generation config is not possible ({brief(error)}); "
                "write another value, or None"
            ) from error
        (after if shaper.is_last else before).append(processor)
    return before, after


def _is_one_of(value: Any, possible: tuple[Any, ...]) -> bool:
    try:
        return value in possible
    except Exception:  # a tensor of several values
        return False
