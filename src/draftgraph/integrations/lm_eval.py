"""draftgraph as a model of lm_eval, the language model evaluation harness (extra "eval").

    python -m draftgraph.integrations.lm_eval run --model draftgraph \\
        --model_args pretrained=FOLDER,draft_model=FOLDER --tasks gsm8k

lm_eval 0.4 looks for no entry points, so somebody has to register the model: the line above does, and so does `register()` before
`lm_eval.simple_evaluate(model="draftgraph", ...)`. lm_eval is imported by what needs it, and not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from draftgraph.engine.engine import Engine
from draftgraph.errors import OptionError
from draftgraph.sampling.params import SamplingParams

NAME = "draftgraph"
MOST_NEW_TOKENS = 256
"""Where a task does not say."""
BATCH = 8
"""Texts that are generated together where --batch_size does not say."""
UNASKED_DEVICE = "cuda:0"
"""What lm_eval's command line asks for on every machine, whether it has one or not."""
WINDOWLESS_TOKENS = 2048
"""What a model without a window reads at most."""
_AS_THEY_ARE = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
)  # fmt: skip
_WITHOUT_EFFECT = frozenset({"until", "do_sample", "max_gen_toks", "num_beams"})


def register() -> None:
    """Make `model="draftgraph"` known to lm_eval. Raises OptionError without it."""
    if find_spec("lm_eval") is None:
        raise OptionError("lm_eval is not installed; write pip install 'draftgraph[eval]'")
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=model_class())


def model_class() -> type[Any]:
    """The class that lm_eval makes models of."""
    from lm_eval.api.model import TemplateLM

    return type("DraftgraphLM", (Evaluated, TemplateLM), {})


class Evaluated:
    """What lm_eval asks of a model, of an engine.

    pretrained  the target; draft_model and all other options of `Engine.from_pretrained` are given by name.
    engine      one that is made, instead.
    batch_size  texts that are generated together; "auto" is BATCH. max_gen_toks  new tokens where a task does not say.
    """

    cache_hook: Any

    def __init__(
        self,
        pretrained: Any = None,
        *,
        engine: Engine | None = None,
        batch_size: int | str = BATCH,
        max_batch_size: int | None = None,
        max_gen_toks: int = MOST_NEW_TOKENS,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if device == UNASKED_DEVICE and not torch.cuda.is_available():
            device = None
        self.engine = _engine(pretrained, engine, options | {"device": device})
        self.tokenizer: Any = self.engine.tokenizer
        self.max_gen_toks = max_gen_toks
        self.batch_size = BATCH if batch_size == "auto" else int(batch_size)

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def max_length(self) -> int:
        return self.engine.target.context_window or WINDOWLESS_TOKENS

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
        options = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        return str(self.tokenizer.apply_chat_template(chat_history, tokenize=False, **options))

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **more: Any) -> list[int]:
        bos = self.tokenizer.bos_token
        if add_special_tokens is None and bos and string.startswith(bos):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **options))

    def _loglikelihood_tokens(self, requests: Any, **more: Any) -> list[tuple[float, bool]]:
        found = []
        for texts, context, continuation in requests:
            found.append(likelihood(self.engine, context, continuation))
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, found[-1])
        return found

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        totals = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            scored = self._loglikelihood_tokens([(None, *make_disjoint_window(pair)) for pair in windows])
            totals.append(sum(logprob for logprob, _ in scored))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

        found: dict[int, str] = {}
        for options, numbers in _alike([request.args[1] for request in requests]):
            asked = normalize_gen_kwargs(options, self.max_gen_toks)
            params = replace(sampling(asked), stop_token_ids=(self.eot_token_id,))
            room = max(self.max_length - params.max_new_tokens, 1)
            for batch in _batches(numbers, self.batch_size):
                prompts = [self.tok_encode(requests[i].args[0])[-room:] for i in batch]
                for i, result in zip(batch, self.engine.generate(prompts, params), strict=True):
                    found[i] = postprocess_generated_text(result.text, asked["until"], None)
                    self.cache_hook.add_partial("generate_until", requests[i].args, found[i])
        return [found[i] for i in range(len(requests))]


def likelihood(engine: Engine, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
    """Log-probability of a continuation behind its context, and whether greedy decoding writes it.

    A context that does not fit into the window loses its beginning.
    """
    window = engine.target.context_window
    ids = [*context, *continuation]
    ids = ids if window is None else ids[-window:]
    begin = max(len(ids) - len(continuation), 1)
    scores = engine.score(ids, top_logprobs=1)
    best = scores.top_logprobs or []
    greedy = all(top is not None and top[0][0] == token for top, token in zip(best[begin:], ids[begin:], strict=True))
    return sum(logprob or 0.0 for logprob in scores.logprobs[begin:]), greedy


def sampling(asked: Mapping[str, Any]) -> SamplingParams:
    """The options of generated texts. Raises OptionError for one that has no meaning here."""
    unknown = sorted(name for name in asked if name not in _AS_THEY_ARE and name not in _WITHOUT_EFFECT)
    if unknown or asked.get("num_beams", 1) != 1:
        raise OptionError(
            f"generation_kwargs has {', '.join(unknown) or 'num_beams'}, which draftgraph does not read; leave it out of the "
            f"task or of --gen_kwargs. Possible: {', '.join(_AS_THEY_ARE)}"
        )
    own = {name: asked[name] for name in _AS_THEY_ARE if asked.get(name) is not None}
    return SamplingParams(max_new_tokens=asked["max_gen_toks"], stop=tuple(asked["until"]), **own)


def _engine(pretrained: Any, engine: Engine | None, options: dict[str, Any]) -> Engine:
    if (pretrained is None) == (engine is None):
        raise OptionError("write pretrained=FOLDER or hub name, or give an engine; one of them")
    made = Engine.from_pretrained(pretrained, **options) if engine is None else engine
    if made.tokenizer is None or made.tokenizer.eos_token_id is None:
        raise OptionError("lm_eval reads and writes texts; put a tokenizer with an eos_token into the model's folder")
    return made


def _batches(numbers: Sequence[int], size: int) -> list[Sequence[int]]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _alike(options: Sequence[Mapping[str, Any]]) -> list[tuple[dict[str, Any], list[int]]]:
    """Options that occur, each with the numbers of the requests that have them."""
    groups: list[tuple[dict[str, Any], list[int]]] = []
    for number, each in enumerate(options):
        for known, numbers in groups:
            if known == each:
                numbers.append(number)
                break
        else:
            groups.append((dict(each), [number]))
    return groups


def main() -> None:
    """lm_eval's own command line, with this model."""
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
