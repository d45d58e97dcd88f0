"""How an engine drafts and verifies. Frozen and checked: what a rule cannot verify is refused before the first forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from draftgraph.errors import OptionError, PromptError, brief, require, unknown_name
from draftgraph.token_ids import token_ids
from draftgraph.values import as_integer, as_list, has_surrogates
from draftgraph.verification.base import Rule
from draftgraph.verification.example import CHILDREN, SAMPLED_CHILDREN, takes
from draftgraph.verification.registry import get_rule

STRUCTURES = ("graph", "tree", "comb", "paths", "chain", "gsd")
DRAFTERS = ("model", "lookup", "text")
EDGES = ("merge", "own", "context", "rejected", "text", "table")
ALIASES = {
    "num_assistant_tokens": "num_speculative_tokens",
    "rejection_sample_method": "rule",
    "method": "drafter",
}
"""Names of transformers and vLLM that are accepted for ours."""
_COUNTS: dict[str, tuple[int, tuple[str | None, ...]]] = {
    "budget": (0, ("auto",)),
    "num_speculative_tokens": (1, (None,)),
    "read_ahead": (0, ("auto",)),
    "gsd_match": (-1, ()),
}
"""Options that count something: the least count, and what may stand instead."""


@dataclass(frozen=True)
class Config:
    """How an engine drafts and verifies.

    budget     nodes that the target verifies per round; 0 is plain decoding. "auto": as many as pay, or none, by what passes cost
               on this machine (measured once, then kept) and by what the request has accepted. Another machine, or a cost
               table measured anew, may draft differently: the law of the text is the same, but under rules other than "agree" a
               seed may then give another text; a number gives the same one.
    structure  "graph" (a tree whose spare slots are filled by edges into text already seen), "tree", "comb" (one main path
               with leaves where the drafter is unsure), "paths" (SAMPLED i.i.d. from the root), "chain", "gsd" (the published
               merge-while-drafting order, a baseline), or "auto": the first of them that the rule verifies.
    rule       a name in `draftgraph.rules()`, a Rule, or "auto".
    num_speculative_tokens  depth of the draft; None suits budget and drafter.
    branching  children per node for every depth, for a tree of fixed shape, e.g. (3, 2, 1, 1); (4, 1, 1) are four paths.
    children   what the children of a fixed shape are: "hybrid" (the best ones FIXED, the last one SAMPLED from the rest),
               "fixed", "with_replacement", "without_replacement", "spine" (one SAMPLED from all, the best ones FIXED),
               "systematic" (one draw of k different tokens), or "auto": "hybrid" where the rule verifies it.
               At temperature 0 all are "fixed".
    drafter    "model" where a draft model is given; "lookup" (n-grams of prompt and output) or "text" (`prediction`) without.
    prediction text that the output is expected to repeat, for drafter="text".
    edges      sources that copies may come from, for structure="graph" and for drafters without a model: names of `EDGES`, () for
               none, or "auto" for all that the drafter has, without "table".
               "merge" (rows that the drafter computed this round), "rejected" (rows that it computed for branches which the last
               round rejected), "own" (the target's rows of this request's output), "context" (what followed in prompt and
               output), "text" (`prediction`), "table" (what the target expected last behind the same two tokens, in any
               request of this engine). Texts of earlier requests then shape later drafts. At temperature 0, and under
               rule="agree", the text stays the same; under other rules its law does, but which text a seed gives depends on the
               requests before it.
    read_ahead  copies that every drafter pass reads beyond what is asked of it, so that later passes may not be needed; "auto"
               reads some ahead where all slots are FIXED and the budget is "auto" (with a number every pass is made anyway).
               The drafts are those of the drafter either way.
    gsd_match  τ of structure="gsd": a token is merged if it and its τ predecessors occurred before in the draft; -1 merges
               nothing. The rest of the published procedure (arXiv 2407.16207): breadth-first, 4 children per node (k), a
               child needs .2 of its best sibling's probability (θ_sib), growth goes on while some path has every token at
               .4 or above (θ_prob). Slots are FIXED; defects of the published code are not kept (draft/structures/gsd.py).
    """

    budget: int | str = "auto"
    structure: str = "auto"
    rule: str | Rule = "auto"
    num_speculative_tokens: int | None = None
    branching: tuple[int, ...] | None = None
    children: str = "auto"
    drafter: str | None = None
    prediction: str | Sequence[int] | None = None
    edges: str | Sequence[str] = "auto"
    read_ahead: int | str = "auto"
    gsd_match: int = 1

    def __post_init__(self) -> None:
        for name, (least, others) in _COUNTS.items():
            self._read_count(name, least, others)
        for name, known in (("structure", (*STRUCTURES, "auto")), ("children", (*CHILDREN, "auto"))):
            if not _is_one_of(getattr(self, name), known):
                raise unknown_name(name, getattr(self, name), known)
        if not _is_one_of(self.rule, ("auto",)):
            get_rule(self.rule)
        if self.drafter is not None and not _is_one_of(self.drafter, DRAFTERS):
            raise unknown_name("drafter", self.drafter, DRAFTERS)
        if not _is_one_of(self.edges, ("auto",)):
            self._set("edges", _edge_names(self.edges))
        if self.prediction is not None:
            self._set("prediction", _prediction(self.prediction))
        if self.branching is not None:
            self._set("branching", _child_counts(self.branching))
        self._refuse_unsound()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _read_count(self, name: str, least: int, others: Sequence[str | None]) -> None:
        """Make a Python int of an option that counts something, unless it is one of `others`."""
        given = getattr(self, name)
        if (given is None or isinstance(given, str)) and given in others:
            return
        count = as_integer(given)
        possible = ", or ".join([f"an integer >= {least}", *map(repr, others)])
        require(count is not None and count >= least, name, given, possible)
        self._set(name, count)

    def _refuse_unsound(self) -> None:
        if self.resolved_rule.continues:
            raise OptionError(
                f"rule {self.resolved_rule.name!r} re-targets later positions, and every round here starts from the plain "
                "target; over many rounds that yields fewer tokens than block verification; write rule='block'"
            )
        if self.branching is not None:
            self._refuse_shape(self.branching)
        if self.children != "auto":
            self._refuse_children()
        if self.structure == "paths" and not self.resolved_rule.uses_laws:
            raise OptionError(f"structure='paths' is SAMPLED, and {self._reads_no_laws}; write structure='graph'")
        self.refuse_unverified(self._samples)

    def _refuse_shape(self, branching: tuple[int, ...]) -> None:
        structure = self.resolved_structure
        if self.num_speculative_tokens not in (None, len(branching)):
            raise OptionError(
                f"branching={branching} is {len(branching)} deep, not num_speculative_tokens="
                f"{self.num_speculative_tokens}; leave one of them out"
            )
        if structure not in ("tree", "paths", "chain"):
            raise OptionError(f"branching={branching} is the shape of a tree; write structure='tree' with it")
        if structure == "chain" and set(branching) != {1}:
            raise OptionError(f"structure='chain' cannot branch as branching={branching} asks; write structure='tree'")
        if structure == "paths" and set(branching[1:]) - {1}:
            raise OptionError(
                f"paths part at the root only, not as branching={branching} asks; write ({branching[0]}, 1, 1, ...), "
                "or structure='tree'"
            )

    def _refuse_children(self) -> None:
        if self.structure == "paths" and self.children != "with_replacement":
            raise OptionError(
                f"structure='paths' has children='with_replacement', not {self.children!r}; write structure='tree'"
            )
        if self.branching is None and self.structure != "paths":
            raise OptionError(f"children={self.children!r} fill a fixed shape; write branching=(3, 2, 1, 1) with it")
        if self.children != "fixed" and not self.resolved_rule.uses_laws:
            raise OptionError(
                f"children={self.children!r} are SAMPLED, and {self._reads_no_laws}; write children='fixed'"
            )

    @property
    def _reads_no_laws(self) -> str:
        return f"rule {self.resolved_rule.name!r} reads no laws, so that its drafts are FIXED"

    def refuse_unverified(self, sampled: bool) -> None:
        """Refuse drafts that the rule does not verify. `sampled`: a draft model makes them, at a temperature > 0.

        Raises OptionError.
        """
        rule, structure = self.resolved_rule, self.resolved_structure
        if self._verifies(structure, sampled):
            return
        if not sampled:
            raise OptionError(
                f"rule {rule.name!r} verifies {rule.accepts}; at temperature 0, or without a draft model, there is nothing "
                "to sample. Write rule='layer'"
            )
        possible = [f"structure={name!r}" for name in STRUCTURES if takes(rule, name, "hybrid", grown=True)]
        shapes = [f"children={name!r}" for name in CHILDREN if takes(rule, "tree", name, grown=False)]
        if self.branching is None:
            asked = f"structure={structure!r}"
            possible += [f"branching=(3, 2, 1, 1) with {kind}" for kind in shapes[:1]]
        else:
            asked = f"branching={self.branching} with children={self.resolved_children!r}"
            possible = shapes or [f"{name} without branching" for name in possible]
        instead = " or ".join([*possible, "rule='layer'"])
        raise OptionError(f"rule {rule.name!r} verifies {rule.accepts}, not {asked}; write {instead}")

    def _verifies(self, structure: str, sampled: bool) -> bool:
        """Whether the rule takes such drafts; children="auto": with some kind of SAMPLED children."""
        children = SAMPLED_CHILDREN if self.children == "auto" else (self.children,)
        kinds = children if sampled else ("fixed",)
        return any(takes(self.resolved_rule, structure, kind, self.branching is None) for kind in kinds)

    @property
    def _samples(self) -> bool:
        """Whether drafts have SAMPLED slots at temperatures > 0, as far as can be known here."""
        return self.drafter in (None, "model") and self.resolved_rule.uses_laws

    @property
    def resolved_rule(self) -> Rule:
        """The rule that runs; "auto" is the layer rule, which is the best known one for every draft made here."""
        return get_rule("layer" if self.rule == "auto" else self.rule)

    @cached_property
    def resolved_structure(self) -> str:
        if self.structure != "auto":
            return self.structure
        names = ["graph", "comb", "paths", "chain"]
        if self.branching is not None:
            names = ["tree", *["paths"] * (set(self.branching[1:]) <= {1}), *["chain"] * (set(self.branching) <= {1})]
        return next((name for name in names if self._verifies(name, self._samples)), names[0])

    @cached_property
    def resolved_children(self) -> str:
        """The kind of children of a fixed shape where there is a law to sample."""
        if self.children != "auto":
            return self.children
        if not self.resolved_rule.uses_laws:
            return "fixed"
        if self.resolved_structure == "paths":
            return "with_replacement"
        kinds = (kind for kind in SAMPLED_CHILDREN if takes(self.resolved_rule, "tree", kind, grown=False))
        return next(kinds, "hybrid")

    @property
    def asks_model(self) -> str | None:
        """The option that only a draft model can follow, if there is one."""
        if self.branching is not None:
            return f"branching={self.branching}"
        structure = self.resolved_structure
        return f"structure={structure!r}" if structure in ("comb", "paths", "gsd") else None

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
            if name not in known:
                raise unknown_name("option", name, known | set(ALIASES) | {"prompt_lookup_num_tokens"})
            named[name] = (
                {"standard": "token"}.get(value, value) if name == "rule" and isinstance(value, str) else value
            )
        return replace(self, **named)


def _is_one_of(value: object, names: Sequence[str]) -> bool:
    return isinstance(value, str) and value in names


def _edge_names(given: Any) -> tuple[str, ...]:
    names = [given] if isinstance(given, str) else as_list(given)
    require(names is not None, "edges", given, "names of edge sources, or 'auto'")
    for name in names or ():
        if not _is_one_of(name, EDGES):
            raise unknown_name("edge source", name, (*EDGES, "auto"))
    return tuple(dict.fromkeys(names or ()))


def _child_counts(given: Any) -> tuple[int, ...]:
    counts = [as_integer(count) for count in as_list(given) or [None]]
    held = all(count is not None and count >= 1 for count in counts)
    require(held, "branching", given, "a tuple of child counts >= 1, one per depth")
    return tuple(count for count in counts if count is not None)


def _prediction(given: Any) -> str | tuple[int, ...]:
    if isinstance(given, str):
        require(not has_surrogates(given), "prediction", given, "a text without lone surrogates")
        return given
    try:
        return tuple(token_ids(given))
    except PromptError as error:
        raise OptionError(f"prediction={brief(given)} is not possible: {error}; write a text, or token ids") from error
