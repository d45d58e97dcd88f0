"""One request may draft otherwise than its engine; what cannot be is refused, with what to write."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import pytest

import draftgraph as dg
from cost_tables import costs
from draftgraph.errors import OptionError
from ids import told
from models import byte_tokenizer, perturbed, plain, tiny_lm
from recurrent import recurrent

PROMPT, TOKENS = [5, 9, 5], 30


@cache
def target() -> Any:
    return tiny_lm(vocab=256)


@cache
def engine(kind: str = "auto") -> dg.Engine:
    options: dict[str, dict[str, Any]] = {
        "auto": {},
        "chain": {"structure": "chain", "budget": 4},
        "block": {"rule": "block", "budget": 4},
        "off": {"budget": 0},
    }
    pair = {} if kind in ("lookup", "own") else {"draft_model": perturbed(target(), 0.05)}
    own = {"lookup": {"budget": 8}, "own": {"drafter": Silent(), "budget": 3}}
    made = dg.Engine.from_pretrained(target(), **pair, **(options | own)[kind], tokenizer=byte_tokenizer())
    made.__dict__["costs"] = costs()
    return made


class Silent(dg.Drafter):
    def propose(self, request: Any, limits: Any) -> dg.Draft:
        return dg.Draft(dg.DraftGraph())


@cache
def right() -> list[int]:
    return plain(target(), PROMPT, TOKENS)


@pytest.mark.parametrize(
    "asked",
    [
        {"budget": 0},
        {"budget": 5},
        {"budget": 7, "num_speculative_tokens": 2},
        {"num_assistant_tokens": 1},
        {"rule": "agree"},
        {"rule": "block"},
        {"rule": "standard", "structure": "chain"},
        {"structure": "tree"},
        {"structure": "comb"},
        {"structure": "gsd"},
        {"structure": dg.structures.Tree((3, 2, 1))},
        {"params": {"budget": 3, "temperature": 0.0}},
        {"params": {"budget": 3}, "budget": 2},
    ],
    ids=told,
)
@pytest.mark.parametrize("kind", ["auto", "off"])
def test_one_request_drafts_in_its_own_way(asked: dict[str, Any], kind: str) -> None:
    result = engine(kind).generate(PROMPT, max_new_tokens=TOKENS, **asked)
    assert result.token_ids == right()
    if "rule" in asked:
        assert result.choice.rule.name == {"standard": "token"}.get(asked["rule"], asked["rule"])
    if "structure" in asked:
        assert result.choice.structure.name == getattr(asked["structure"], "name", asked["structure"])
    budget = asked.get("budget", asked.get("params", {}).get("budget"))
    if budget is not None:
        assert all(len(record.tokens) <= budget for record in result.rounds)
        assert (result.stats.num_draft_tokens > 0) == (budget > 0)
    if "num_speculative_tokens" in asked or "num_assistant_tokens" in asked:
        deepest = max((depth for record in result.rounds for depth in record.depths()), default=0)
        if kind == "auto":
            assert result.stats.num_drafter_passes <= deepest * len(result.rounds)
    after = engine(kind).generate(PROMPT, max_new_tokens=TOKENS)  # the engine is as it was
    assert after.choice.structure == engine(kind).config.resolved_structure


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_each_of_a_batch_in_its_own_way_and_as_alone(temperature: float) -> None:
    each = [{"budget": 0}, {"budget": 4, "rule": "block"}, {"structure": "tree"}, {"rule": "agree", "budget": 2}]
    params = [{**one, "max_new_tokens": TOKENS, "temperature": temperature, "seed": 5} for one in each]
    together = engine().generate([PROMPT] * 4, params)
    alone = [engine().generate(PROMPT, one) for one in params]
    beside = asyncio.run(engine().agenerate([PROMPT] * 4, params))
    for results in (together, beside):
        assert [result.token_ids for result in results] == [result.token_ids for result in alone]
        assert results[0].stats.num_draft_tokens == 0
        assert results[1].stats.num_draft_tokens == alone[1].stats.num_draft_tokens  # a number is not shared out
    assert [result.choice.rule.name for result in together][1] == "block"
    assert together[0].stats.num_draft_tokens == 0


@pytest.mark.parametrize("kind", ["auto", "lookup"])
def test_predicted_text_is_a_source_of_copies_and_counted(kind: str) -> None:
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "budget": 12, "num_speculative_tokens": 8}
    if kind == "auto":
        options["num_speculative_tokens"] = 1  # the rest of the budget is for copies
    result = engine(kind).generate(PROMPT, prediction=right(), **options)
    assert result.token_ids == right()
    accepted, rejected = result.stats.accepted_by_source, result.stats.rejected_by_source
    assert accepted["text"] > 5
    assert sum(accepted.values()) == result.stats.num_accepted_tokens
    assert sum(accepted.values()) + sum(rejected.values()) == result.stats.num_draft_tokens
    wrong = engine(kind).generate(PROMPT, prediction=[5, 77, 78, 79] * 4, **options)
    assert wrong.token_ids == right()
    assert wrong.stats.accepted_by_source.get("text", 0) == 0
    without = engine(kind).generate(PROMPT, **options)
    assert "text" not in {**without.stats.accepted_by_source, **without.stats.rejected_by_source}


def test_predicted_text_may_be_a_text_and_is_each_requests_own() -> None:
    text = byte_tokenizer().decode(right())
    made = engine("lookup")
    results = made.generate([PROMPT] * 3, [{"prediction": text}, {}, {"prediction": right()}], max_new_tokens=TOKENS)
    counts = [result.stats.accepted_by_source.get("text", 0) for result in results]
    assert counts[1] == 0
    assert min(counts[0], counts[2]) > 0


@pytest.mark.parametrize(
    ("kind", "asked", "message"),
    [
        ("auto", {"budget": -1}, r"budget=-1 is not possible; write an integer >= 0, or 'auto'"),
        ("auto", {"rule": "nonsense"}, "unknown rule 'nonsense'"),
        ("auto", {"drafter": "lookup"}, r"drafter belongs to the engine; write Engine.from_pretrained"),
        ("auto", {"bitwise": True}, "bitwise belongs to the engine"),
        ("auto", {"rule": "block", "structure": "tree"}, "rule 'block' verifies"),
        ("auto", {"prediction": [1, 2], "budget": 0}, "prediction is copied into drafts, and budget=0 drafts nothing"),
        ("off", {"prediction": [1, 2]}, "budget=0 drafts nothing"),
        ("auto", {"prediction": [1, 999]}, "prediction holds token id 999, outside"),
        ("auto", {"prediction": [1], "structure": "tree"}, "structure='tree' has none here; write structure='graph'"),
        ("chain", {"prediction": [1]}, "structure='chain' has none here"),
        ("chain", {"structure": "graph"}, "this engine's drafter keeps none; write structure='tree', or Engine.from_"),
        ("block", {"structure": "tree"}, "rule 'block' verifies"),
        ("lookup", {"structure": "comb"}, "asks a draft model"),
        ("own", {"structure": "tree"}, "makes its own"),
        ("own", {"prediction": [1]}, "prediction"),
    ],
    ids=told,
)
def test_what_this_engine_cannot_draft_is_refused(kind: str, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        engine(kind).generate(PROMPT, **asked)
    with pytest.raises(OptionError, match=message):
        engine(kind).astream(PROMPT, asked)


def test_text_that_is_expected_needs_edges() -> None:
    made = dg.Engine.from_pretrained(tiny_lm(), draft_model=tiny_lm(), edges=())
    with pytest.raises(OptionError, match=r"edges=\(\) allow none"):
        made.generate(PROMPT, prediction=[1])


def test_an_engine_of_chains_takes_other_structures_without_copies() -> None:
    result = engine("block").generate(PROMPT, max_new_tokens=TOKENS, rule="layer", budget=6)
    assert result.token_ids == right()
    assert result.choice.structure.name == "tree"


def test_an_engine_that_looks_chains_up_looks_up_other_structures_as_well() -> None:
    made = dg.Engine.from_pretrained(tiny_lm(), drafter="lookup", structure="chain", budget=4)
    prompt = [3, 4, 5, 3, 4, 6, 3, 4]
    chain = made.generate(prompt, max_new_tokens=TOKENS, temperature=0.0)
    for structure in ("graph", "auto"):
        result = made.generate(prompt, max_new_tokens=TOKENS, temperature=0.0, structure=structure)
        assert result.choice.structure.name == "graph"
        assert result.token_ids == chain.token_ids
        assert result.stats.num_draft_tokens > 0


def test_a_model_that_reads_one_path_drafts_chains_whatever_a_request_asks() -> None:
    made = dg.Engine.from_pretrained(recurrent("mamba"), budget=4)
    assert made.generate(PROMPT, max_new_tokens=8, budget=2).choice.structure.name == "chain"
    with pytest.raises(OptionError, match="read one path"):
        made.generate(PROMPT, structure="tree")
