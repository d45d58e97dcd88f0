"""The model's own generation config, and what becomes of it in a request.

Whoever writes SamplingParams, or options by name, decides temperature, top_k, top_p, min_p and the length. What the model's
generation_config recommends there is not followed, and said once per engine: the default is greedy, 128 tokens. Everything
in it that `model.generate` applies at temperature 0 too is applied: penalties, forced and suppressed tokens, bad words,
biases, minimum lengths. Its end-of-sequence ids and stop strings end the text.

Whoever writes a GenerationConfig gets what `model.generate` makes of it. Fields that it leaves open are the model's own, then
transformers' defaults (greedy; top_k=50 where it samples). Where nobody states a length it is 128 tokens.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from draftgraph.engine.options import Asked
from draftgraph.errors import OptionError, brief, require
from draftgraph.sampling import generation_config as gc
from draftgraph.sampling.params import SamplingParams
from draftgraph.values import as_flag, as_integer, as_list

_TRANSFORMERS = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}
"""What transformers takes for fields that nobody sets."""
_FILTERS = ("top_k", "top_p", "min_p")


@dataclass(frozen=True)
class Settled:
    """What a request does.

    params  its options, the model's own included.
    eos     ids that end its text.
    hint    what the configs ask and the request does not do, in words; None if there is nothing.
    """

    params: SamplingParams
    eos: frozenset[int]
    hint: str | None = None


@dataclass(frozen=True)
class Defaults:
    """What an engine's model brings to every request.

    own     fields of its generation config.
    eos     ids that end its texts.
    vocab   tokens of its vocabulary.
    device  of its logits.
    """

    own: Mapping[str, Any]
    eos: frozenset[int]
    vocab: int
    device: torch.device

    def settle(self, asked: Asked, prompt: Sequence[int]) -> Settled:
        """What a request does, now that its prompt (token ids) is known.

        Raises OptionError for fields that cannot be honoured, and for token ids beyond the vocabulary.
        """
        config = asked.config or {}
        samples = self._samples(asked)
        params = asked.params if asked.config is None else self._from_config(asked, samples, len(prompt))
        if not params.stop and "stop" not in asked.named and "stop_strings" in self.own:
            params = self._with_own_stops(params)
        params.refuse_beyond(self.vocab)
        ends = self._ends(config["eos_token_id"]) if "eos_token_id" in config else self.eos
        eos = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else ends)
        return Settled(self._shaped(params, config, prompt, eos), eos, self._hint(asked, samples))

    def _with_own_stops(self, params: SamplingParams) -> SamplingParams:
        try:
            return replace(params, stop=self.own["stop_strings"])
        except OptionError as error:
            raise OptionError(
                f"the model's own generation_config says stop_strings={brief(self.own['stop_strings'])}, which is not "
                "possible; write stop=() or strings of your own, or Engine.from_pretrained(..., "
                "generation_config=GenerationConfig()), which leaves the model's aside"
            ) from error

    def _samples(self, asked: Asked) -> bool:
        """Whether tokens are sampled; a temperature that was named decides before do_sample does."""
        if asked.config is None or "temperature" in asked.named:
            return asked.params.temperature > 0
        given = ChainMap(dict(asked.config), dict(self.own), _TRANSFORMERS)["do_sample"]
        samples = as_flag(given)
        require(samples is not None, "do_sample", given, "True or False")
        return bool(samples)

    def _from_config(self, asked: Asked, samples: bool, length: int) -> SamplingParams:
        """The SamplingParams that a GenerationConfig comes to, changed by the options that were named."""
        assert asked.config is not None
        if samples:
            for what, instead in gc.unsupported(asked.config, (gc.NOT_WHILE_SAMPLING,), gc.WORDS):
                raise OptionError(f"generate cannot honour {what} of the generation config; {instead}")
        fields = ChainMap(dict(asked.config), dict(self.own), _TRANSFORMERS)
        options = {name: fields[name] for name in ("temperature", *_FILTERS)} if samples else {}
        options |= {name: asked.config.get(name) for name in ("repetition_penalty", "min_new_tokens")}
        options["stop"] = fields.get("stop_strings", ())
        options |= {name: getattr(asked.params, name) for name in asked.named}
        if "max_new_tokens" not in options:
            options["max_new_tokens"] = self._length(asked.config, length)
        return SamplingParams(**options)

    def _length(self, config: Mapping[str, Any], prompt: int) -> Any:
        for fields in (config, self.own):
            if "max_new_tokens" in fields:
                return fields["max_new_tokens"]
            if "max_length" in fields:
                longest = as_integer(fields["max_length"])
                if longest is None or longest <= prompt:
                    raise OptionError(
                        f"max_length={brief(fields['max_length'])} leaves no room after a prompt of {prompt} tokens; "
                        "write max_new_tokens=..., which counts the answer alone"
                    )
                return longest - prompt
        return SamplingParams.max_new_tokens

    def _ends(self, given: Any) -> frozenset[int]:
        ids = [as_integer(token) for token in (as_list(given) if as_integer(given) is None else [given]) or [None]]
        possible = f"token ids from 0 to {self.vocab - 1}"
        require(all(token is not None and 0 <= token < self.vocab for token in ids), "eos_token_id", given, possible)
        return frozenset(token for token in ids if token is not None)

    def _shaped(
        self, params: SamplingParams, config: Mapping[str, Any], prompt: Sequence[int], eos: frozenset[int]
    ) -> SamplingParams:
        """`params` with processors for all fields that shape the law at every temperature."""
        if not gc.shapes(ChainMap(dict(config), dict(self.own))):
            return params
        named = {"repetition_penalty": params.repetition_penalty, "min_new_tokens": params.min_new_tokens}
        fields = ChainMap({k: v for k, v in named.items() if v is not None}, dict(config), dict(self.own))
        begin = len(prompt) + (len(prompt) == 1 and "forced_bos_token_id" in fields)
        ids = torch.tensor([list(prompt)], device=self.device)
        ends = torch.tensor(sorted(eos), device=self.device) if eos else None
        before, after = gc.processors(
            fields, gc.Start(ids, begin, len(prompt) + params.max_new_tokens, ends, self.vocab)
        )
        chain = (*before, *params.logits_processors, *after)
        return replace(params, repetition_penalty=1.0, min_new_tokens=0, logits_processors=chain)

    def _hint(self, asked: Asked, samples: bool) -> str | None:
        own = [what for what, _ in gc.unsupported(self.own, (gc.OTHER_TEXTS, gc.NOT_IN_GENERATE), gc.WORDS)]
        own += [f"{name}={brief(value)}" for name, value in self.own.items() if name not in gc.KNOWN]
        if asked.config is None:
            own += self._recommended(asked.named, samples)
        elif samples:
            own += [what for what, _ in gc.unsupported(self.own, (gc.NOT_WHILE_SAMPLING,), gc.WORDS)]
        elif "do_sample" not in asked.config and (idle := [n for n in gc.SAMPLING if n in asked.config]):
            return (
                f"the generation config sets {', '.join(idle)}, which do nothing without do_sample=True: this request is "
                "greedy, as in transformers. Write do_sample=True, or the options by name, e.g. temperature=0.7"
            )
        if not own:
            return None
        return (
            f"the model's own generation_config says {', '.join(own)}, which this request does not follow; it is "
            f"{'sampled' if samples else 'greedy'} as its options say. Write the options by name, or "
            "params=engine.generation_config for those of the model"
        )

    def _recommended(self, named: frozenset[str], samples: bool) -> list[str]:
        """How the model's own config would sample and how long it would go on, where nobody named it."""
        names: list[str] = []
        if as_flag(self.own.get("do_sample")) and (samples or "temperature" not in named):
            names += ["do_sample", "temperature"] if "temperature" not in named else []
            names += [*_FILTERS, *(name for name, _, _ in gc.NOT_WHILE_SAMPLING)]
        if "max_new_tokens" not in named:
            names += gc.LENGTHS
        return [f"{name}={brief(self.own[name])}" for name in names if name in self.own and name not in named]
