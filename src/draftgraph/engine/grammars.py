"""The grammars of an engine's requests: each is read once, and checked before the first forward."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Set
from importlib import import_module
from typing import Any, Protocol

from draftgraph.errors import OptionError, brief, first_line
from draftgraph.sampling.grammar import Grammar, Matcher, read_grammar
from draftgraph.sampling.grammar_states import GrammarStates

MOST_KEPT = 64
"""Grammars that stay read; the ones that were not used for longest go first."""
EXTRAS = {"llguidance": "grammar", "xgrammar": "xgrammar"}
"""Of draftgraph, by the package that reads a grammar."""


class Vocabulary(Protocol):
    """A tokenizer's tokens, which a package matches grammars against."""

    def read(self, grammar: Grammar) -> Any:
        """The grammar as the package holds it."""
        ...

    def matcher(self, state: Any, eos: Set[int], stops: Set[int]) -> Matcher:
        """A matcher of the empty text. eos  ids that end it. stops  further ones."""
        ...


class Grammars:
    """tokenizer   of the target; None where only matchers of the user's own can run.
    vocab_size  of the target, whose masks are bool[V].
    """

    def __init__(self, tokenizer: Any | None, vocab_size: int) -> None:
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self._known: dict[str, Vocabulary] = {}
        self._read: OrderedDict[Grammar, Any] = OrderedDict()
        self._lock = threading.RLock()

    def states(self, given: Any, eos: Set[int], stops: Set[int]) -> GrammarStates | None:
        """The states of a request; None without a grammar.

        given  what `SamplingParams.grammar` holds. eos  the model's own ids that end the text. stops  further ones.

        Raises OptionError for a grammar that is broken, or that admits no token of this vocabulary.
        """
        grammar = read_grammar(given)
        if grammar is None:
            return None
        start = self._start(grammar, eos, stops) if isinstance(grammar, Grammar) else grammar
        try:
            states = GrammarStates(start, self.vocab_size, eos | stops)
        except Exception as error:
            raise OptionError(f"grammar={brief(grammar)} cannot be forked: {first_line(error)}") from error
        allowed = states.root.allowed(self.vocab_size)
        if states.root.failure is not None:
            raise OptionError(f"grammar={brief(grammar)} cannot be followed: {states.root.failure}")
        if allowed is None:
            raise OptionError(f"grammar={brief(grammar)} admits no token to begin with; write one that does")
        return states

    def _start(self, grammar: Grammar, eos: Set[int], stops: Set[int]) -> Matcher:
        with self._lock:
            vocabulary = self._vocabulary(grammar.reader)
            if grammar not in self._read:
                self._read[grammar] = vocabulary.read(grammar)
            self._read.move_to_end(grammar)
            while len(self._read) > MOST_KEPT:
                self._read.popitem(last=False)
            return vocabulary.matcher(self._read[grammar], eos, stops)

    def _vocabulary(self, reader: str) -> Vocabulary:
        """The tokenizer's tokens as a package knows them. Raises OptionError where it is not installed."""
        if reader in self._known:
            return self._known[reader]
        if self.tokenizer is None:
            raise OptionError(
                "a grammar is matched against the tokens' texts, which needs a tokenizer; write "
                "Engine.from_pretrained(..., tokenizer=...), or grammar=an object with fork, accept and mask"
            )
        try:
            module = import_module(f"draftgraph.sampling.{reader}_matcher")
            known: Vocabulary = module.Vocabulary(self.tokenizer, self.vocab_size)
        except ImportError as error:
            raise OptionError(
                f"a grammar needs the package {reader} ({error}); write pip install 'draftgraph[{EXTRAS[reader]}]', or "
                "grammar=an object with fork, accept and mask"
            ) from error
        self._known[reader] = known
        return known
