"""How one request is sampled. Frozen and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from draftgraph.errors import OptionError, brief, require, unknown_name
from draftgraph.sampling.grammar import Grammar, Matcher, read_grammar
from draftgraph.values import MOST_ITEMS, as_flag, as_integer, as_list, as_number, has_surrogates

LogitsProcessor = Callable[[torch.LongTensor, torch.FloatTensor], torch.FloatTensor]
"""transformers' protocol: (input_ids i64[rows, length], scores f[rows, V]) -> scores f[rows, V]."""
StopWhen = Callable[[int, torch.Tensor, torch.Tensor], bool]
"""stop_when(token, logits f[V], scores f[V]) -> whether the text ends with this token."""

SEED_BITS = 128
LARGEST = 1e30
"""Penalties and biases at most, either way: a float32 holds the sum of many of them."""

_INTEGERS = {
    "max_new_tokens": (1, "an integer >= 1"),
    "top_k": (0, "an integer >= 0 (0 switches it off)"),
    "min_new_tokens": (0, "an integer >= 0"),
    "sample": (0, "an integer >= 0"),
    "top_logprobs": (0, "an integer >= 0 (0 is none)"),
}
"""Options that are whole numbers: the least one, and what to write."""
_NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda t: 0 <= t < math.inf, "a number >= 0 (0 is greedy)"),
    "top_p": (lambda p: 0 < p <= 1, "a number in (0, 1] (1 switches it off)"),
    "min_p": (lambda p: 0 <= p <= 1, "a number in [0, 1] (0 switches it off)"),
    "repetition_penalty": (lambda r: 1 / LARGEST <= r <= LARGEST, "a number > 0 (1 is none)"),
    "presence_penalty": (lambda x: abs(x) <= LARGEST, "a finite number (0 is none)"),
    "frequency_penalty": (lambda x: abs(x) <= LARGEST, "a finite number (0 is none)"),
}
"""Options that are numbers: which ones are possible, and what to write."""
_MODELS_OWN = ("repetition_penalty", "min_new_tokens")
"""Options of which None is the model's own."""
ELSEWHERE = {
    "do_sample": "temperature (0 is greedy, 1 samples)",
    "max_length": "max_new_tokens, which counts the answer alone",
    "min_length": "min_new_tokens, which counts the answer alone",
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "eos_token_id": "stop_token_ids",
    "stop_strings": "stop",
    "stopping_criteria": "stop_when",
    "logits_processor": "logits_processors=[...]",
    "suppress_tokens": "logit_bias={token: -math.inf}",
    "response_format": "grammar=a JSON schema, or grammar='json' for any JSON object",
    "guided_json": "grammar=a JSON schema",
    "guided_regex": "grammar=dg.Grammar.regex(pattern)",
    "guided_grammar": "grammar=dg.Grammar.lark(text)",
    "n": "a batch of one prompt several times, with SamplingParams(sample=0), SamplingParams(sample=1), ...",
    "num_return_sequences": "a batch of one prompt several times, with SamplingParams(sample=0), (sample=1), ...",
    "num_beams": "engine.beam_search(prompt, num_beams=...), or engine.beam_sample(...)",
    "attention_mask": "a prompt that is a mapping: {'input_ids': ..., 'attention_mask': ...}",
    "input_ids": "a prompt, as the first argument",
    "generation_config": "params=generation_config",
    "sampling_params": "params=sampling_params",
    "streamer": "for event in engine.stream(prompt)",
    "stream": "for event in engine.stream(prompt)",
}
"""Names of other libraries, and what says the same here."""


@dataclass(frozen=True)
class SamplingParams:
    """How one request is sampled. The same options shape the target law p and the draft law q, at every drafted node.

    NumPy numbers and tensors without dimensions are numbers; iterators are read here, once. Lists are copied.

    temperature         0 is greedy. Any other one is sampled, however small.
    top_k, top_p, min_p as in transformers; 0, 1.0 and 0.0 switch them off.
    repetition_penalty  as in transformers (prompt and output); presence_ and frequency_penalty as in the OpenAI API (output).
                        None is the model's own (its generation_config), or none.
    logit_bias          token id -> number added to its logit, up to 1e30; -inf forbids the token. Ids may be texts ("50").
    min_new_tokens      no end-of-sequence token before that many tokens. None is the model's own, or 0.
    logits_processors   functions of (input_ids i64[rows, length], scores f[rows, V]), as transformers' LogitsProcessor; called
                        before the temperature. Rows are continuations of the prompt, of which many are asked about in one call
                        and most are never taken. So the same ids and scores must give the same answer, in whatever order and
                        company, and input_ids must tell all there is to know. The engine asks copies first, and refuses what
                        answers otherwise: processors that count their calls, remember earlier ids, draw random numbers or want
                        one row. With budget=0 they run: one row, once per token, in order. Scores may be changed in place.
    stop                strings that end the text; they are not part of it. stop_token_ids end it like the model's own.
                        A special token's name ends it too, though special tokens are not shown.
    stop_when           called once per emitted token, in order, with the target's row that chose it: its logits, and its
                        scores after everything that depends on the prefix. True ends the text with that token.
    seed                None draws one; `Result.seed` tells it. Any integer of up to 128 bits, negative ones included; no two
                        of them are the same. sample distinguishes several samples with one seed.
    logprobs            also return the target's log-probability of every emitted token (before warping).
    top_logprobs        also return the best so many tokens at the position of every emitted one, with their log-probabilities;
                        `logprobs` is then on.
    grammar             what the text as a whole must be (docs/grammars.md). A dict, its text or a pydantic model is a JSON
                        schema; "json" is any JSON object; a text with a rule `start:` is a Lark grammar, another text of one
                        line a regular expression. `dg.Grammar.json(schema)`, `.regex(pattern)` and `.lark(text)` say which.
                        An object with fork, accept and mask is a matcher of your own (`dg.Matcher`). Where the grammar is
                        complete the text ends, with finish_reason "stop". max_new_tokens may end it earlier, with "length":
                        such a text is not complete.

    Raises OptionError for a value that is not possible.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_new_tokens: int | None = None
    seed: int | None = None
    sample: int = 0
    stop: Sequence[str] | str = ()
    stop_token_ids: Sequence[int] = ()
    stop_when: StopWhen | None = None
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    logits_processors: Sequence[LogitsProcessor] = ()
    grammar: Grammar | Matcher | Mapping[str, Any] | type | str | None = None

    def __post_init__(self) -> None:
        for name, (least, possible) in _INTEGERS.items():
            self._read(name, as_integer, lambda whole, least=least: whole >= least, possible)  # type: ignore[misc]
        for name, (is_possible, possible) in _NUMBERS.items():
            self._read(name, as_number, is_possible, possible)
        for name in ("ignore_eos", "logprobs"):
            self._read(name, as_flag, lambda flag: True, "True or False")
        if self.top_logprobs:
            self._set("logprobs", True)
        if self.seed is not None:
            self._read(
                "seed", as_integer, lambda seed: seed.bit_length() <= SEED_BITS, "an integer of up to 128 bits, or None"
            )
        self._set("stop", self._stop_strings())
        self._set("stop_token_ids", self._stop_ids())
        self._set("logit_bias", _read_bias(self.logit_bias))
        self._set("logits_processors", self._processors())
        self._set("grammar", read_grammar(self.grammar))
        require(self.stop_when is None or callable(self.stop_when), "stop_when", self.stop_when, "a callable, or None")
        if (self.min_new_tokens or 0) > self.max_new_tokens:
            raise OptionError(
                f"min_new_tokens={brief(self.min_new_tokens)} is more than max_new_tokens={brief(self.max_new_tokens)}; "
                "write a smaller one, or more max_new_tokens"
            )

    def with_options(self, **options: Any) -> SamplingParams:
        """A copy with some options changed. Raises OptionError for a name that is not an option."""
        known = {f.name for f in fields(self)}
        for name in options.keys() - known:
            if name in ELSEWHERE:
                raise OptionError(f"unknown option {name!r}; write {ELSEWHERE[name]}")
            raise unknown_name("option", name, known)
        return replace(self, **options)

    def refuse_beyond(self, vocab_size: int) -> None:
        """Raise OptionError if an option names token ids, or a number of them, that the target's vocabulary does not have."""
        if self.top_logprobs > vocab_size:
            raise OptionError(
                f"top_logprobs={brief(self.top_logprobs)} is more than the target's vocabulary of {vocab_size}; write less"
            )
        for name, ids in (("logit_bias", self.logit_bias), ("stop_token_ids", self.stop_token_ids)):
            wrong = next((token for token in ids if token >= vocab_size), None)
            if wrong is not None:
                raise OptionError(
                    f"{name} names token id {brief(wrong)}, and the target's vocabulary has {vocab_size} tokens; "
                    f"write ids from 0 to {vocab_size - 1}"
                )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _read(self, name: str, read: Callable[[Any], Any], is_possible: Callable[[Any], bool], possible: str) -> None:
        given = getattr(self, name)
        if given is None and name in _MODELS_OWN:
            return
        value = read(given)
        require(value is not None and is_possible(value), name, given, possible)
        self._set(name, value)

    def _stop_strings(self) -> tuple[str, ...]:
        strings = [self.stop] if isinstance(self.stop, str) else _items("stop", self.stop, "strings")
        for stop in strings:
            require(isinstance(stop, str) and stop != "", "stop", self.stop, "one or several non-empty strings")
            require(
                not has_surrogates(stop), "stop", self.stop, "strings without lone surrogates, which no text contains"
            )
        return tuple(map(str, strings))

    def _stop_ids(self) -> tuple[int, ...]:
        ids: list[int] = []
        for given in _items("stop_token_ids", self.stop_token_ids, "token ids"):
            token = as_integer(given)
            if token is None or token < 0:
                raise OptionError(f"stop_token_ids holds {brief(given)}; write token ids, integers >= 0")
            ids.append(token)
        return tuple(ids)

    def _processors(self) -> tuple[LogitsProcessor, ...]:
        processors = _items("logits_processors", self.logits_processors, "processors")
        for processor in processors:
            called = callable(processor) and not isinstance(processor, type)
            require(called, "logits_processors", processor, "callables (input_ids, scores) -> scores, not their class")
        return tuple(processors)


def _items(name: str, given: Any, kind: str) -> list[Any]:
    items = as_list(given)
    require(items is not None, name, given, f"a sequence of {kind}, at most {MOST_ITEMS}; () is none")
    return items or []


def _read_bias(given: Any) -> dict[int, float]:
    """A logit_bias with ids and numbers as such; JSON knows texts as keys only."""
    require(isinstance(given, Mapping), "logit_bias", given, "a mapping from token ids to numbers; {} is none")
    bias: dict[int, float] = {}
    for key, value in given.items():
        token = int(key) if isinstance(key, str) and _is_decimal(key) else as_integer(key)
        added = as_number(value)
        if token is None or token < 0:
            raise OptionError(f"logit_bias has the key {brief(key)}; write token ids as keys, e.g. 50 or '50'")
        if added is None or not (abs(added) <= LARGEST or added == -math.inf):
            raise OptionError(
                f"logit_bias={{{token}: {brief(value)}}} is not possible; write numbers up to {LARGEST:g}, "
                "or -math.inf to forbid the token"
            )
        if token in bias:
            raise OptionError(f"logit_bias names token id {token} twice, as a text and as a number; write one of them")
        bias[token] = added
    return bias


def _is_decimal(text: str) -> bool:
    """Digits alone; few enough of them to be a token id."""
    return text.isascii() and text.isdigit() and len(text) < 20
