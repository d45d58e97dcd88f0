"""Logits to probabilities, at every node with that node's own prefix: the only place that shapes p and q.

The options are transformers' own processors in transformers' order, so a law here is the law of `model.generate`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from draftgraph.errors import LogitsError, OptionError
from draftgraph.sampling.contract import call, refusal, same, unknown
from draftgraph.sampling.copies import copied
from draftgraph.sampling.filters import Filters
from draftgraph.sampling.grammar_states import GrammarStates, State
from draftgraph.sampling.laws import TargetLaws
from draftgraph.sampling.params import SamplingParams
from draftgraph.sampling.penalties import CommittedText, Penalties
from draftgraph.types import TokenTree

_KINDS = (torch.float32, torch.float64)
"""Kinds of numbers that laws are computed in; other logits become the first of them."""
COLD = 1e-3
"""Below this temperature, the best logit is made 0 and the others are divided in float64: no temperature is 0 there."""


class Warper:
    """The warping of one request; one object shapes p, q and the bonus row alike.

    drafts   whether processors are asked about drafts, so that what they say of emitted tokens has to be confirmed.
    grammar  the states of the request's grammar; None without one.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_length: int,
        eos: Sequence[int],
        device: torch.device,
        drafts: bool = False,
        grammar: GrammarStates | None = None,
    ) -> None:
        if params.grammar is not None and grammar is None:
            raise OptionError("laws are read without a grammar here; leave grammar out of the params")
        self.temperature, self.device, self.grammar = params.temperature, device, grammar
        self._penalties = Penalties(params, prompt_length, eos, device)
        self._text = CommittedText(prompt_length, device)
        self._users = params.logits_processors
        self._prefixed = bool(self._penalties) or bool(self._users)
        self._unknown = unknown(params.logits_processors) if drafts else []
        self._in_order = list(map(copied, params.logits_processors)) if self._unknown else []
        self._filters = Filters(params.top_k, params.top_p, params.min_p)
        self._filtered = bool(self._filters)
        self._buffer = self._out = torch.empty(0, 0)

    @property
    def heeds_prefixes(self) -> bool:
        """Whether scores depend on what stands before them; where not, they are the logits."""
        return self._prefixed or self.grammar is not None

    @property
    def picks_best(self) -> bool:
        """Whether a law has all mass on the best logit."""
        return self.temperature == 0.0 and not self.heeds_prefixes

    @property
    def scales(self) -> bool:
        """Whether a law is softmax(logits / temperature), which no option cuts or changes."""
        return self.temperature >= COLD and not (self.heeds_prefixes or self._filtered)

    def probabilities(self, logits: torch.Tensor, prefixes: Prefixes) -> torch.Tensor:
        """f32[rows, V] laws (f64 for f64 logits) from raw logits f[rows, V]; one-hot at temperature 0."""
        return self.shape(self.scores(logits, prefixes))

    def scores(self, logits: torch.Tensor, prefixes: Prefixes | None) -> torch.Tensor:
        """Logits after everything that depends on the prefix (penalties, bias, grammar, processors), before the temperature.

        prefixes  may be None where `heeds_prefixes` says that nothing looks at them.

        Processors are not asked about nodes below a token that is ruled out: they may know no such state. Rows behind such a
        token, or behind the end of the text, cannot be reached; a grammar leaves them as they are.
        """
        logits = logits if logits.dtype in _KINDS else logits.float()
        if prefixes is None or not self.heeds_prefixes:
            return logits
        states = self._states(prefixes, len(logits))
        if states is not None and not self._prefixed:
            return self._settled(states, logits, self._masked(states, logits))
        self._text.read(prefixes.committed)
        scores = logits.clone()
        unreachable: set[int] = set()
        for rows in prefixes.by_length(len(logits)):
            impossible = prefixes.impossible(rows, scores)
            unreachable |= {row for row in rows if row in impossible or prefixes.parent(row) in unreachable}
            asked = [row for row in rows if row not in unreachable]
            if asked:
                paths = prefixes.paths(asked, logits.device)
                behind = None if states is None else [states[row] for row in asked]
                scores[asked] = self._processed(self._users, paths, logits[asked], behind).to(scores)
        return scores

    def _states(self, prefixes: Prefixes, count: int) -> list[State] | None:
        return None if self.grammar is None else [self.grammar.behind(prefixes.path(row)) for row in range(count)]

    def _processed(
        self, users: Sequence[Any], paths: torch.Tensor, logits: torch.Tensor, states: Sequence[State] | None
    ) -> torch.Tensor:
        """What the options make of rows behind paths i64[rows, depth]. Processors see what the grammar refuses, and cannot
        allow it."""
        if states is None:
            return self._asked(users, paths, self._penalties(self._text, paths, logits))
        masked = self._masked(states, logits)
        scores = self._penalties(self._text, paths, masked)
        if users:
            emptied = _empty(scores)[:, None]
            scores = self._asked(users, paths, torch.where(emptied, masked, scores))
            scores = self._masked(states, scores).masked_fill(emptied, -torch.inf)
        return self._settled(states, logits, scores)

    def _asked(self, users: Sequence[Any], paths: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """What processors make of rows; they read the whole text of each."""
        if not users:
            return scores
        ids = torch.cat([self._text.ids.to(paths.device).expand(len(paths), -1), paths], dim=1)
        for processor in users:
            scores = call(processor, ids, scores)
        return scores

    def _masked(self, states: Sequence[State], scores: torch.Tensor) -> torch.Tensor:
        """Scores f[rows, V] with -inf for the tokens that the grammar refuses."""
        assert self.grammar is not None
        return self.grammar.penalties(states, scores.device).to(scores.dtype).add_(scores)

    def _settled(self, states: Sequence[State], logits: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores f[rows, V] in which every row has a token.

        Where the grammar is complete the text ends, whatever other options say. Where grammar and options leave no token the
        row is what the model gave, logits f[rows, V]: that is an error only if the text gets there (`accept`).
        """
        assert self.grammar is not None
        for row, (state, is_empty) in enumerate(zip(states, _empty(scores).tolist(), strict=True)):
            state.stuck = is_empty
            if is_empty:
                ending = self._masked([state], logits[row : row + 1])
                state.stuck = bool(_empty(ending)) or not self.grammar.must_end(state)
                scores[row] = logits[row] if state.stuck else ending[0]
        return scores

    @property
    def confirms(self) -> bool:
        """Whether there are processors that `confirm` asks."""
        return bool(self._unknown)

    def confirm(
        self, logits: torch.Tensor, scores: torch.Tensor, committed: Sequence[int], tree: TokenTree, path: Sequence[int]
    ) -> None:
        """Ask copies of the processors, which are called as in plain decoding, about the rows that choose this round's tokens.

        logits, scores  f[N + 1, V] the round's rows, before and after processors. path  the accepted nodes.

        Raises OptionError if an answer was not that of plain decoding, before anything of the round is emitted.
        """
        self._text.read(committed)
        tokens = [tree.tokens[node] for node in path]
        for depth, row in enumerate((0, *(node + 1 for node in path))):
            taken = torch.tensor([tokens[:depth]], dtype=torch.int64, device=logits.device)
            states = None if self.grammar is None else [self.grammar.behind(tokens[:depth])]
            try:
                answer = self._processed(self._in_order, taken, logits[row : row + 1].to(scores, copy=True), states)
            except LogitsError as error:
                raise refusal(self._unknown, f"fails where plain decoding calls it ({error})") from error
            if not same(answer.to(scores), scores[row : row + 1]):
                raise refusal(
                    self._unknown, "answered otherwise than in plain decoding, so it keeps state from call to call"
                )

    @property
    def refuses(self) -> Callable[[Sequence[int], int], bool] | None:
        """refuses(path of drafted tokens, token) -> whether the grammar rules out that the token follows; None without one."""
        return None if self.grammar is None else self.grammar.refuses

    def accept(self, token: int) -> bool:
        """Take note of an emitted token. Returns whether the grammar says that the text is complete, without an end token.

        Raises LogitsError where the grammar left no token to choose.
        """
        return self.grammar is not None and self.grammar.accept(token)

    def shape_round(self, scores: torch.Tensor) -> TargetLaws:
        """`shape` for the rows of one round: the result is overwritten by the next call.

        Tens of megabytes that are allocated anew in every round cost more in page faults than the softmax itself.
        """
        if self.temperature == 0:
            chosen = self._choices(scores)
            return TargetLaws(lambda: self._masses(chosen, self._buffer_for(scores)), chosen[:, 0].tolist())
        laws = self.shape(scores, self._buffer_for(scores))
        return TargetLaws(lambda: laws)

    def _buffer_for(self, scores: torch.Tensor) -> torch.Tensor:
        if self._out.shape != scores.shape or self._out.dtype != scores.dtype:
            buffer = self._buffer
            if buffer.shape[1:] != scores.shape[1:] or len(buffer) < len(scores) or buffer.dtype != scores.dtype:
                self._buffer = torch.empty_like(scores)
            self._out = self._buffer[: len(scores)]
        return self._out

    def shape(self, scores: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Temperature, top-k, top-p, min-p and softmax: rows of scores f[rows, V] to laws of the same shape.

        out  memory that may be written to, of the same shape and kind.
        """
        if self.temperature == 0:
            return self._masses(self._choices(scores), torch.empty_like(scores))
        if self.temperature < COLD:  # in float32 dividing would overflow, and 1e-46 would be 0
            behind = (scores - scores.amax(dim=1, keepdim=True)).double()
            scores = (behind / self.temperature).to(scores)
        elif self.temperature != 1.0:  # a float32 of 1e300 would be infinite, and -inf / inf no number
            scores = torch.div(scores, min(self.temperature, torch.finfo(scores.dtype).max), out=out)
        laws = self._filters.laws(scores) if self._filtered else torch.softmax(scores, dim=1, out=out)
        if self._prefixed:
            self.refuse_impossible(laws)
        return laws

    @staticmethod
    def _masses(choices: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Point masses f[rows, V] at the tokens i64[rows, 1]."""
        return out.zero_().scatter_(1, choices, 1.0)

    def _choices(self, scores: torch.Tensor) -> torch.Tensor:
        """i64[rows, 1], the best token of every row; of equal ones the first."""
        if self._prefixed:
            self.refuse_impossible(scores.amax(dim=1))
        if scores.is_cpu:  # on whole rows NumPy is several times as fast as torch
            return torch.from_numpy(scores.numpy().argmax(axis=1, keepdims=True))
        return scores.argmax(dim=1, keepdim=True)

    def refuse_impossible(self, values: torch.Tensor) -> None:
        """Refuse what processors made of rows; models answer for their own logits. values  f[rows], the best score of each.

        Raises LogitsError.
        """
        if self._prefixed and not bool(torch.isfinite(values).all()):
            raise LogitsError(
                "the logits processors left a row that is not a distribution (NaN, +inf, or no token possible)"
            )


class Prefixes:
    """The prefix of every row: the committed text, then the row's own path of drafted tokens, `path(row)`.

    parent  the row of the node above a row, or -1 if that is not among the rows.
    """

    def __init__(
        self,
        committed: Sequence[int],
        path: Callable[[int], Sequence[int]],
        parent: Callable[[int], int] = lambda row: -1,
    ) -> None:
        self.committed, self.path, self.parent = committed, path, parent

    @classmethod
    def of_tree(cls, committed: Sequence[int], tree: TokenTree) -> Prefixes:
        """Of the root (row 0) and every node (row i + 1)."""
        return cls(
            committed, lambda row: tree.path_tokens(row - 1), lambda row: tree.parents[row - 1] + 1 if row else -1
        )

    def by_length(self, count: int) -> list[list[int]]:
        """Rows of equal prefix length together, as processors take them, the shortest first."""
        groups: dict[int, list[int]] = defaultdict(list)
        for row in range(count):
            groups[len(self.path(row))].append(row)
        return [groups[length] for length in sorted(groups)]

    def paths(self, rows: Sequence[int], device: torch.device) -> torch.Tensor:
        """i64[rows, depth], what was drafted before rows of equal length."""
        return torch.tensor([list(self.path(row)) for row in rows], dtype=torch.int64, device=device)

    def impossible(self, rows: Sequence[int], scores: torch.Tensor) -> set[int]:
        """Those rows whose last token the row above rules out; `scores` f[count, V] holds the rows above."""
        below = [row for row in rows if self.parent(row) >= 0]
        if not below:
            return set()
        ruled_out = scores[[self.parent(row) for row in below], [self.path(row)[-1] for row in below]] == -torch.inf
        return {row for row, out in zip(below, ruled_out.tolist(), strict=True) if out}


def _empty(scores: torch.Tensor) -> torch.Tensor:
    """Which rows of f[..., V] have no token, bool[...]."""
    return scores.amax(dim=-1) == -torch.inf
