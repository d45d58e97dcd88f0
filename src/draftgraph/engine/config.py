"""How an engine drafts and verifies. Frozen and checked: what a rule cannot verify is refused before the first forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from draftgraph.draft.base import Drafter
from draftgraph.draft.edges.sources import EDGES
from draftgraph.draft.search import SEARCH
from draftgraph.draft.structures.base import Structure
from draftgraph.draft.structures.registry import SUITING, UNROLLED, get_structure
from draftgraph.engine.judging import judge_rule, refuse_without_judge
from draftgraph.engine.old_options import OLD_OPTIONS, reads_old_options, translated
from draftgraph.engine.parallel_options import refuse_branches, refuse_copies, refuse_drafter, refuse_rule
from draftgraph.engine.unverified import unverified
from draftgraph.errors import OptionError, PromptError, brief, require, unknown_name
from draftgraph.token_ids import token_ids
from draftgraph.values import as_flag, as_integer, as_list, has_surrogates
from draftgraph.verification.base import Rule
from draftgraph.verification.registry import get_rule

WITHOUT_MODEL = ("lookup", "text", SEARCH)
DRAFTERS = ("model", *WITHOUT_MODEL)
SCHEDULES = ("sequential", "parallel", "auto")
ALIASES = {
    "num_assistant_tokens": "num_speculative_tokens",
    "rejection_sample_method": "rule",
    "method": "drafter",
}
"""Names of transformers and vLLM that are accepted for ours."""


@reads_old_options
@dataclass(frozen=True)
class Config:
    """How an engine drafts and verifies.

    budget     nodes that the target verifies per round; 0 is plain decoding. "auto": as many as pay, or none, by what passes cost
               on this machine (measured once, then kept) and by what the request has accepted. Another machine, or a cost
               table measured anew, may draft differently: the law of the text is the same, but under rules other than "agree" a
               seed may then give another text; a number gives the same one.
    structure  an object of `draftgraph.structures`, or the name of one with its parameters at their defaults:
               "graph" (a tree whose spare slots are filled by edges into text already seen), "tree", "comb" (one main path
               with leaves where the drafter is unsure), "paths" (SAMPLED i.i.d. from the root), "chain", "gsd" (the published
               merge-while-drafting order, a baseline), or "auto": the first of them that the rule verifies. Where that is
               "graph" and the budget is "auto", the draft of a round is a chain if that gives more tokens per second.
    rule       a name in `draftgraph.rules()`, a Rule, or "auto".
    num_speculative_tokens  depth of the draft; None suits budget and drafter.
    drafter    "model" where a draft model is given; "lookup" (n-grams of prompt and output), "text" (`prediction`) or "search" (a
               tree search over a table of n-grams, and copies) without; or a `draftgraph.Drafter` of your own.
    prediction text that the output is expected to repeat, for drafter="text".
    edges      sources that copies may come from: names of `EDGES` for structure="graph" and for drafters without a model, () for
               none, or "auto" for all that the drafter has, without "table". With a draft model copies fill the spare slots of a
               graph. With budget="auto" they also come in the place of a graph, comb or chain where they give more.
               "merge" (rows that the drafter computed this round), "rejected" (rows that it computed for branches which the last
               round rejected), "own" (the target's rows of this request's output), "context" (what followed in prompt and
               output), "text" (`prediction`), "table" (what the target expected last behind the same two tokens, in any
               request of this engine). Texts of earlier requests then shape later drafts. At temperature 0, and under
               rule="agree", the text stays the same; under other rules its law does, but which text a seed gives depends on the
               requests before it.
    table      for drafter="search": a file of `draftgraph table build`, which every request begins with. None begins empty.
               Requests learn from their prompts and from what the target says, each in a fork of its own.
    table_shared  for drafter="search": True lets all requests of the engine learn into one table. Earlier requests then shape
               later drafts, as with edges="table"; and how fast a text comes tells what others have said.
    bitwise    True: the rows of the target are the same bit for bit with drafts and without, in bfloat16 and with quantised
               weights too. No pass has a single row, and a draft is verified as paths that are sequences of their own, so that
               "auto" drafts chains, or copies in as many paths as pay. False: as passes come. "auto": on where weights or
               activations are not float32, if the backend can do it and no tree was asked for.
    judge      folder of `draftgraph judge fit`, for rule="judge", which is not lossless: it forgives drafted tokens that the
               head in the folder finds unimportant.
    threshold  from 0 (nothing is forgiven) to 1: what P(important) must be below. None: the one in the folder.
    schedule   "sequential": draft, then verify. "parallel": the draft model drafts on, one path, while the target verifies, each
               with half of the threads; for one request at a time (PEARL, arXiv 2408.11850). `engine.parallel_options` says what
               does not go with it. "auto": `Engine.from_pretrained` takes the second where measured costs say that it pays.

    Raises OptionError for a value that is not possible, and for drafts that the rule does not verify.
    """

    budget: int | str = "auto"
    structure: str | Structure = "auto"
    rule: str | Rule = "auto"
    num_speculative_tokens: int | None = None
    drafter: str | Drafter | None = None
    prediction: str | Sequence[int] | None = None
    edges: str | Sequence[str] = "auto"
    table: str | Path | None = None
    table_shared: bool = False
    bitwise: str | bool = "auto"
    judge: str | Path | None = None
    threshold: float | None = None
    schedule: str = "sequential"

    def __post_init__(self) -> None:
        self._read_count("budget", 0, "auto")
        self._read_count("num_speculative_tokens", 1, None)
        if not _is_one_of(self.structure, ("auto",)):
            get_structure(self.structure)
        if not _is_one_of(self.rule, ("auto",)):
            get_rule(self.rule)
        refuse_without_judge(self.rule, self.judge, self.threshold)
        if isinstance(self.drafter, str) and self.drafter not in DRAFTERS:
            raise unknown_name("drafter", self.drafter, DRAFTERS)
        possible = "'model', 'lookup', 'text', 'search', or a dg.Drafter"
        require(self.drafter is None or isinstance(self.drafter, str | Drafter), "drafter", self.drafter, possible)
        if not _is_one_of(self.edges, ("auto",)):
            self._set("edges", _edge_names(self.edges))
        if not _is_one_of(self.bitwise, ("auto",)):
            flag = as_flag(self.bitwise)
            require(flag is not None, "bitwise", self.bitwise, "True, False or 'auto'")
            self._set("bitwise", flag)
        if self.prediction is not None:
            self._set("prediction", _prediction(self.prediction))
        self._read_table()
        require(_is_one_of(self.schedule, SCHEDULES), "schedule", self.schedule, "'sequential', 'parallel' or 'auto'")
        if self.parallel:
            refuse_drafter(self.drafter, self.own_drafter)
            if self.structure == "auto" and (self.own_drafter is None or self.own_drafter.structure is None):
                self._set("structure", "chain")
        self._refuse_unsound()

    def _read_table(self) -> None:
        """Check the options of drafter="search"."""
        named = self.table is None or (isinstance(self.table, str | Path) and str(self.table) != "")
        require(named, "table", self.table, "the name of a file that `draftgraph table build` wrote")
        if self.table is not None:
            self._set("table", str(self.table))
        shared = as_flag(self.table_shared)
        require(shared is not None, "table_shared", self.table_shared, "True or False")
        self._set("table_shared", shared)
        for name, value in (("table", self.table), ("table_shared", self.table_shared or None)):
            if value is not None and self.drafter != SEARCH:
                raise OptionError(
                    f"{name}={brief(value)} is for drafter='search'; write drafter='search', or leave it out"
                )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _read_count(self, name: str, least: int, other: str | None) -> None:
        """Make a Python int of an option that counts something, unless it is `other`."""
        given = getattr(self, name)
        if given is None if other is None else _is_one_of(given, (other,)):
            return
        count = as_integer(given)
        require(count is not None and count >= least, name, given, f"an integer >= {least}, or {other!r}")
        self._set(name, count)

    def _refuse_unsound(self) -> None:
        rule, structure, depth = self.resolved_rule, self.resolved_structure, self.num_speculative_tokens
        if rule.continues:
            raise OptionError(
                f"rule {rule.name!r} re-targets later positions, and every round here starts from the plain target; over many "
                "rounds that yields fewer tokens than block verification; write rule='block'"
            )
        if self.own_drafter is not None:
            self._refuse_beside(self.own_drafter)
        if structure.shape is not None and depth not in (None, len(structure.shape)):
            raise OptionError(
                f"structure={structure} is {len(structure.shape)} deep, not num_speculative_tokens={depth}; leave one of "
                "them out"
            )
        grown = self.own_drafter is None or self.own_drafter.structure is None
        if grown and structure.must_draw and not rule.uses_laws:
            raise OptionError(
                f"structure={structure} is SAMPLED, and rule {rule.name!r} reads no laws, so that its drafts are FIXED; "
                "write structure='graph', or another rule"
            )
        self.refuse_unverified(self._samples)
        if self.parallel:
            self._refuse_beside_parallel()

    def _refuse_beside_parallel(self) -> None:
        """What cannot go on while the target verifies. Raises OptionError."""
        if not self.drafts_chains:
            refuse_branches(self.resolved_structure)
        if self.edges not in ("auto", ()):
            refuse_copies(self.edges)
        refuse_rule(self.resolved_rule, self._samples)

    def _refuse_beside(self, own: Drafter) -> None:
        """What only our drafters can follow."""
        if own.structure is not None and self.structure not in ("auto", own.structure):
            raise OptionError(
                f"structure={self.structure} is for drafts of a draft model, and {own.name} makes its own; leave it out"
            )
        for name, value in (("edges", self.edges), ("prediction", self.prediction)):
            if value not in ("auto", None):
                raise OptionError(f"{name}={brief(value)} is for drafters without a model that are ours; leave it out")

    def refuse_unverified(self, sampled: bool) -> None:
        """Refuse drafts that the rule does not verify. `sampled`: they have SAMPLED slots.

        Raises OptionError.
        """
        if sampled not in self._verified:
            raise unverified(self.resolved_rule, self.resolved_structure, sampled, self.own_drafter)

    @cached_property
    def _verified(self) -> frozenset[bool]:
        """The kinds of drafts that the rule verifies: with SAMPLED slots (True), without (False)."""
        rule, structure = self.resolved_rule, self.resolved_structure
        return frozenset(sampled for sampled in (False, True) if structure.verified_by(rule, sampled))

    @property
    def _samples(self) -> bool:
        """Whether drafts have SAMPLED slots at temperatures > 0, as far as can be known here."""
        own = self.own_drafter
        draws = self.drafter in (None, "model") if own is None else "sampled" in own.draws
        return draws and self.resolved_rule.uses_laws

    @property
    def prices_paths(self) -> bool:
        """Whether drafts are copies in the shape that prices say, and the target reads each of their paths as a sequence."""
        priced = self.budget == "auto" and isinstance(self.drafter, str) and self.drafter != "model"
        return priced and self.bitwise is True

    @property
    def parallel(self) -> bool:
        """Whether the drafter drafts on while the target verifies."""
        return self.schedule == "parallel"

    @property
    def own_drafter(self) -> Drafter | None:
        """The drafter, if it is the user's own."""
        return None if self.drafter is None or isinstance(self.drafter, str) else self.drafter

    @cached_property
    def drafts_chains(self) -> bool:
        """Whether every draft is one path."""
        return self.resolved_structure.example(sampled=True).is_chain

    @cached_property
    def asks_for_tree(self) -> bool:
        """Whether a structure was asked for whose drafts part below the root."""
        if self.structure == "auto":
            return False
        return any(len(nodes) > 1 for nodes in self.resolved_structure.example(sampled=True).children[1:])

    @cached_property
    def resolved_rule(self) -> Rule:
        """The rule that runs; "auto" is the layer rule, which is the best known one for every draft made here."""
        if self.judge is not None:
            return judge_rule(self.judge, self.threshold)
        return get_rule("layer" if self.rule == "auto" else self.rule)

    @cached_property
    def resolved_structure(self) -> Structure:
        """The structure that drafts have, with what it leaves open chosen for the rule."""
        rule, own = self.resolved_rule, self.own_drafter
        if own is not None and own.structure is not None:
            return own.structure
        if self.structure != "auto":
            return get_structure(self.structure).suited(rule)
        suiting = UNROLLED if self.bitwise is True and not self.prices_paths else SUITING
        return next((each for each in suiting if each.verified_by(rule, self._samples)), suiting[0])

    def with_options(self, **options: Any) -> Config:
        """A copy with some options changed; aliases of the ecosystem are understood.

        Raises OptionError for a name that is not an option.
        """
        known = {f.name for f in fields(self)}
        named: dict[str, Any] = {}
        for name, value in options.items():
            if name == "prompt_lookup_num_tokens":
                named |= {"drafter": "lookup", "num_speculative_tokens": value}
                continue
            name = ALIASES.get(name, name)
            if name not in known and name not in OLD_OPTIONS:
                raise unknown_name("option", name, known | set(ALIASES) | {"prompt_lookup_num_tokens"})
            named[name] = (
                {"standard": "token"}.get(value, value) if name == "rule" and isinstance(value, str) else value
            )
        if "rule" in named:  # what belongs to another rule goes with it
            named = {"judge": None, "threshold": None, **named}
        return replace(self, **translated(named, self.structure, self.rule))


def _is_one_of(value: object, names: Sequence[str]) -> bool:
    return isinstance(value, str) and value in names


def _edge_names(given: Any) -> tuple[str, ...]:
    names = [given] if isinstance(given, str) else as_list(given)
    require(names is not None, "edges", given, "names of edge sources, or 'auto'")
    for name in names or ():
        if not _is_one_of(name, EDGES):
            raise unknown_name("edge source", name, (*EDGES, "auto"))
    return tuple(dict.fromkeys(names or ()))


def _prediction(given: Any) -> str | tuple[int, ...]:
    if isinstance(given, str):
        require(not has_surrogates(given), "prediction", given, "a text without lone surrogates")
        return given
    try:
        return tuple(token_ids(given))
    except PromptError as error:
        raise OptionError(f"prediction={brief(given)} is not possible: {error}; write a text, or token ids") from error
