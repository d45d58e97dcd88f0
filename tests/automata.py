"""Grammars over token ids that a person can read: finite automata, as matchers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass
class Automaton:
    """A `dg.Matcher`: from every state, the tokens that may come and the states that they lead to.

    A token without a state (None) ends the text.
    """

    steps: Mapping[str, Mapping[int, str | None]]
    state: str = "start"
    vocab: int = 8

    def fork(self) -> Automaton:
        return Automaton(self.steps, self.state, self.vocab)

    def accept(self, token: int) -> None:
        after = self.steps[self.state][token]
        assert after is not None, "the end of a text is not accepted"
        self.state = after

    def mask(self) -> torch.Tensor:
        mask = torch.zeros(self.vocab, dtype=torch.bool)
        mask[list(self.steps[self.state])] = True
        return mask

    def admits(self, text: Sequence[int]) -> bool:
        """Whether a text may begin so."""
        state: str | None = self.state
        for token in text:
            if state is None or token not in self.steps[state]:
                return False
            state = self.steps[state][token]
        return True
