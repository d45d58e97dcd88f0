"""What a logits processor must be where drafts are verified: a function of input_ids and scores.

Plain decoding calls a processor once per token, in order, with one row. A draft has many continuations, those of equal length
are asked about in one call, and most of them are rejected. So a prefix must get the same answer whatever was asked before it,
and whatever is asked beside it. Questions to copies of the processors say so before the first draft. They cannot prove it, so
`Warper.confirm` compares every emitted token's row with that of a copy which is called as in plain decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from draftgraph.errors import LogitsError, OptionError
from draftgraph.sampling.copies import copied
from draftgraph.sampling.params import LogitsProcessor

BRANCHES = 6
"""Continuations of the prompt that are asked about."""
REPEATS = 8
"""Times that the prompt is asked about at the end: some processors count their calls, and act on a later one."""
TOLERANCE = 1e-4
"""Answers differ by less if the same rows were computed in another order."""
REMEDY = (
    "Write budget=0: the processor is then called as in plain decoding, once per token, in order, with one row. If it keeps "
    "state, make it anew for every request"
)
STATEFUL = {
    transformers.SynthIDTextWatermarkLogitsProcessor: "counts its calls",
    transformers.UnbatchedClassifierFreeGuidanceLogitsProcessor: "runs the model, with a cache of its own",
}
FUNCTIONS = (
    transformers.EncoderNoRepeatNGramLogitsProcessor,
    transformers.EncoderRepetitionPenaltyLogitsProcessor,
    transformers.EpsilonLogitsWarper,
    transformers.EtaLogitsWarper,
    transformers.ExponentialDecayLengthPenalty,
    transformers.ForcedBOSTokenLogitsProcessor,
    transformers.ForcedEOSTokenLogitsProcessor,
    transformers.InfNanRemoveLogitsProcessor,
    transformers.LogitNormalization,
    transformers.MinLengthLogitsProcessor,
    transformers.MinNewTokensLengthLogitsProcessor,
    transformers.MinPLogitsWarper,
    transformers.NoBadWordsLogitsProcessor,
    transformers.NoRepeatNGramLogitsProcessor,
    transformers.RepetitionPenaltyLogitsProcessor,
    transformers.SequenceBiasLogitsProcessor,
    transformers.SuppressTokensAtBeginLogitsProcessor,
    transformers.SuppressTokensLogitsProcessor,
    transformers.TemperatureLogitsWarper,
    transformers.TopKLogitsWarper,
    transformers.TopPLogitsWarper,
    transformers.TypicalLogitsWarper,
    transformers.WatermarkLogitsProcessor,
)
"""Processors of transformers that are functions; asking them would only take time."""
AGAIN = "when it is asked about the same text again: it keeps state from call to call, or draws random numbers"
AFTER = "when it is asked about several continuations of a text, one after the other"
BESIDE = "when it is asked about several continuations of a text in one call"
Path = tuple[int, ...]
"""The tokens between the prompt and a continuation's end."""


def unknown(processors: Sequence[LogitsProcessor]) -> list[LogitsProcessor]:
    """Those that are not known to be functions."""
    return [processor for processor in processors if type(_own(processor)) not in FUNCTIONS]


def names(processors: Sequence[LogitsProcessor]) -> str:
    """What users call them: the names of functions, and of other objects' types."""
    own = map(_own, processors)
    return ", ".join(str(getattr(processor, "__name__", type(processor).__name__)) for processor in own)


def _own(processor: Any) -> Any:
    """The user's own processor, where another one calls it."""
    return getattr(processor, "processor", processor)


def refusal(processors: Sequence[LogitsProcessor], why: str, remedy: str = REMEDY) -> OptionError:
    return OptionError(
        f"drafts cannot honour the logits processor {names(processors)}: it {why}. Drafts ask about many continuations, several "
        "in a call, so that a processor must be a function of input_ids and scores (see SamplingParams.logits_processors). "
        f"{remedy}"
    )


def refuse_stateful(processors: Sequence[LogitsProcessor]) -> None:
    """Raise OptionError for processors of transformers that are known to keep state."""
    for processor in processors:
        for kind, why in STATEFUL.items():
            if isinstance(_own(processor), kind):
                raise refusal([processor], why)


def check_functions(
    processors: Sequence[LogitsProcessor],
    prompt: Sequence[int],
    vocab_size: int,
    device: torch.device,
    remedy: str = REMEDY,
) -> None:
    """Raise OptionError for a processor that is no function of input_ids and scores, as far as questions about this prompt show.

    The processors themselves are not called, but copies of them, unless they cannot be copied.
    """
    refuse_stateful(processors)
    if unknown(processors):
        _Check(processors, prompt, vocab_size, device, remedy).run()


def call(processor: LogitsProcessor, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """A processor's answer to ids i64[rows, length] and scores f[rows, V]. Raises LogitsError if it has none."""
    try:
        processed = processor(ids, scores)  # type: ignore[arg-type]  # the protocol's types are those of its docstrings
    except Exception as error:
        raise LogitsError(f"logits processor {names([processor])} raised {type(error).__name__}: {error}") from error
    if not isinstance(processed, torch.Tensor) or processed.shape != scores.shape:
        raise LogitsError(f"logits processor {names([processor])} must return scores of shape {list(scores.shape)}")
    return processed


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two answers are the same."""
    return torch.equal(first, second) or torch.allclose(first, second, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


class _Check:
    """Questions about a prompt and its continuations, and the answers of every processor of a chain by continuation."""

    def __init__(
        self,
        processors: Sequence[LogitsProcessor],
        prompt: Sequence[int],
        vocab_size: int,
        device: torch.device,
        remedy: str,
    ) -> None:
        self.processors, self.prompt, self.device, self.remedy = processors, prompt, device, remedy
        self.scores = 3.0 * torch.randn(BRANCHES + 2, vocab_size, generator=torch.Generator().manual_seed(0))
        self.rows: dict[Path, int] = {}
        self.answers: dict[Path, list[torch.Tensor]] = {}

    @torch.inference_mode()
    def run(self) -> None:
        alone, root = self._copies(), [()]
        try:
            self._ask(alone, root, AGAIN)
        except LogitsError:
            return  # the request will raise it, with what came before
        branches = self._branches()
        if not branches:
            return  # no token is possible, which the request will say as well
        self._ask(alone, root, AGAIN)
        self._ask(alone, root, AGAIN)
        for branch in branches:
            self._ask(alone, [branch], AFTER)
        deeper = branches[0] + self._likely(branches[0], 1)
        for path in (deeper, branches[0]):
            self._ask(alone, [path], AFTER)
        for first in range(len(branches)):  # what reads only new ids takes those of the first row
            together = self._copies()
            self._ask(together, root, AGAIN)
            self._ask(together, branches[first:] + branches[:first], BESIDE)
        for paths in ([deeper] * 2, branches[-1:] * 2):
            self._ask(together, paths, BESIDE)
        for _ in range(REPEATS):
            self._ask(together, root, AGAIN)

    def _copies(self) -> list[LogitsProcessor]:
        return [copied(processor) for processor in self.processors]

    def _branches(self) -> list[Path]:
        """Continuations that are possible: likely ones, and a repetition of the prompt's last token."""
        last = self.prompt[-1]
        repeated = (last,) if bool(torch.isfinite(self.answers[()][-1][last])) else ()
        return [(token,) for token in dict.fromkeys((*self._likely((), BRANCHES - 1), *repeated))]

    def _likely(self, path: Path, count: int) -> Path:
        """The best tokens behind a path, of those that are possible."""
        scores = self.answers[path][-1].nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
        best, tokens = scores.topk(min(count, len(scores)))
        return tuple(tokens[best > -torch.inf].tolist())

    def _ask(self, chain: Sequence[LogitsProcessor], paths: Sequence[Path], when: str) -> None:
        """Ask about paths of equal length in one call; compare with what was answered before."""
        ids = torch.tensor([[*self.prompt, *path] for path in paths], device=self.device)
        scores = self.scores[[self.rows.setdefault(path, len(self.rows)) for path in paths]].to(self.device)
        for number, processor in enumerate(chain):
            try:
                scores = call(processor, ids, scores.clone())
            except LogitsError as error:
                if len(self.answers.get((), ())) <= number:
                    raise
                raise refusal([self.processors[number]], f"fails {when} ({error})", self.remedy) from error
            for path, answer in zip(paths, scores.clone(), strict=True):
                before = self.answers.setdefault(path, [])
                if len(before) <= number:
                    before.append(answer)
                elif not same(answer, before[number]):
                    raise refusal([self.processors[number]], f"answers otherwise {when}", self.remedy)
