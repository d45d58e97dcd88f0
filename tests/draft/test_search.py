"""Drafting by search: the text is the target's own, whatever the table says; forks keep requests apart, sharing is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

import draftgraph as dg
from automata import Automaton
from draft_tables import check
from draftgraph.backends.fingerprint import tokenizer_fingerprint
from draftgraph.draft.graph import DraftGraph
from draftgraph.draft.ngrams.counts import Counter
from draftgraph.draft.ngrams.file import write_table
from draftgraph.draft.puct import Found
from draftgraph.draft.search import SearchDrafter, affordable, joined, likeliest
from draftgraph.draft.terms import Limits
from draftgraph.errors import OptionError, TableError
from models import byte_tokenizer, perturbed, plain, tiny_lm

PROMPTS = {
    "one token": [5],
    "two": [9, 4],
    "text": [5, 6, 7, 5, 6, 8, 5, 6, 7, 5, 6],
    "long": [i * i % 61 for i in range(50)],
}


@cache
def target(family: str = "llama") -> PreTrainedModel:
    return tiny_lm(family)


@cache
def expected(prompt: tuple[int, ...], tokens: int, family: str = "llama") -> list[int]:
    return plain(target(family), list(prompt), tokens)


def engine(family: str = "llama", **options: Any) -> dg.Engine:
    return dg.Engine.from_pretrained(target(family), **{"drafter": "search", "budget": 8} | options)


def table_of(*texts: Sequence[int], to: Path, vocab: int = 64, tokenizer: str = "none") -> Path:
    counter = Counter(vocab)
    for text in texts:
        counter.add(text)
    write_table(to, counter.counts(), tokenizer)
    return to


@pytest.fixture
def knowing(tmp_path: Path) -> Path:
    """A table that was counted on what the target says."""
    texts = [[*prompt, *expected(tuple(prompt), 40)] for prompt in PROMPTS.values()]
    return table_of(*texts, to=tmp_path / "knowing.table")


@pytest.mark.parametrize("structure", ["auto", "graph", "tree", "chain"])
@pytest.mark.parametrize("budget", [1, 8, 40, "auto"])
def test_greedy_text_is_the_targets(structure: str, budget: int | str, knowing: Path) -> None:
    made = engine(structure=structure, budget=budget, table=knowing)
    for prompt in PROMPTS.values():
        result = made.generate(prompt, max_new_tokens=40)
        assert result.token_ids == expected(tuple(prompt), 40)
        for record in result.rounds:
            assert len(record.tokens) <= (64 if budget == "auto" else budget)
            assert not any(record.sampled)
            if structure == "chain":
                assert list(record.parents) == list(range(-1, len(record.tokens) - 1))


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
@pytest.mark.parametrize("options", [{}, {"edges": ()}, {"edges": ("context", "table")}, {"rule": "agree"}], ids=str)
def test_families_and_sources(family: str, options: dict[str, Any]) -> None:
    prompt = PROMPTS["text"]
    assert engine(family, **options).generate(prompt, max_new_tokens=30).token_ids == expected(
        tuple(prompt), 30, family
    )


@pytest.mark.parametrize("text", [[63] * 80, [i % 64 for i in range(300)], [5, 6] * 40, [0, 1, 2]], ids=len)
def test_a_wrong_table_costs_nothing_but_speed(text: list[int], tmp_path: Path) -> None:
    made = engine(table=table_of(text, to=tmp_path / "wrong.table"), edges=())
    for prompt in PROMPTS.values():
        assert made.generate(prompt, max_new_tokens=30).token_ids == expected(tuple(prompt), 30)


def test_a_table_of_what_the_target_says_is_accepted(knowing: Path) -> None:
    prompt = PROMPTS["two"]
    bare, known = (
        engine(edges=(), **options).generate(prompt, max_new_tokens=40) for options in ({}, {"table": knowing})
    )
    assert known.stats.mean_acceptance_length > 2 > 0.5 + bare.stats.mean_acceptance_length / 2
    assert known.stats.num_rounds < bare.stats.num_rounds
    assert set(known.stats.accepted_by_source) == {"search"}


def test_what_the_search_finds_and_copies_are_one_draft() -> None:
    prompt = [*PROMPTS["two"], *expected(tuple(PROMPTS["two"]), 40), *PROMPTS["two"]]
    stats = engine().generate(prompt, max_new_tokens=40).stats
    drafted = {name for names in (stats.accepted_by_source, stats.rejected_by_source) for name in names}
    assert {"search", "context"} <= drafted | {"own"}
    assert "search" in drafted
    assert stats.num_drafter_passes == 0


def rounds(made: dg.Engine, prompt: Sequence[int], tokens: int = 40) -> int:
    result = made.generate(list(prompt), max_new_tokens=tokens)
    assert result.token_ids == expected(tuple(prompt), tokens)
    return result.stats.num_rounds


def test_a_second_pass_over_shared_prompts_accepts_more() -> None:
    made = engine(table_shared=True, edges=())
    first = [rounds(made, prompt) for prompt in PROMPTS.values()]
    second = [rounds(made, prompt) for prompt in PROMPTS.values()]
    assert all(after < before for before, after in zip(first, second, strict=True))


def test_requests_leave_nothing_behind_unless_asked() -> None:
    """Drafts, and not texts alone, are those of an engine that has served nobody."""
    made, fresh = engine(), engine()
    for prompt in PROMPTS.values():
        made.generate(prompt, max_new_tokens=30)
    for params in (dg.SamplingParams(max_new_tokens=30), dg.SamplingParams(max_new_tokens=30, temperature=1.0, seed=3)):
        one, other = (each.generate(PROMPTS["text"], params) for each in (made, fresh))
        assert one.token_ids == other.token_ids
        assert [record.tokens for record in one.rounds] == [record.tokens for record in other.rounds]


def test_sharing_changes_later_drafts_and_no_greedy_text() -> None:
    made, fresh = engine(table_shared=True), engine(table_shared=True)
    made.generate(PROMPTS["text"], max_new_tokens=30)
    one, other = (each.generate(PROMPTS["text"], max_new_tokens=30) for each in (made, fresh))
    assert one.token_ids == other.token_ids
    assert [record.tokens for record in one.rounds] != [record.tokens for record in other.rounds]


def test_batches_and_streams_are_the_same_texts() -> None:
    made, prompts = engine(), list(PROMPTS.values())
    params = [dg.SamplingParams(max_new_tokens=20, temperature=t, seed=7) for t in (0.0, 1.0, 0.0, 0.7)]
    alone = [made.generate(prompt, each).token_ids for prompt, each in zip(prompts, params, strict=True)]
    assert [result.token_ids for result in made.generate(prompts, params)] == alone
    assert [token for event in made.stream(prompts[1], params[1]) for token in event.token_ids] == alone[1]

    async def beside() -> list[list[int]]:
        asked = [made.agenerate(prompt, each) for prompt, each in zip(prompts, params, strict=True)]
        return [result.token_ids for result in await asyncio.wait_for(asyncio.gather(*asked), 60)]

    assert asyncio.run(beside()) == alone


def test_only_what_was_emitted_is_learnt() -> None:
    """The text ends within an accepted run: what stood behind its end was never said."""
    made = engine(table_shared=True, edges=())
    prompt, answer = PROMPTS["two"], expected(tuple(PROMPTS["two"]), 40)
    made.generate(prompt, max_new_tokens=40)
    made.drafter.table = type(made.drafter.table)(made.drafter.table.counts)  # type: ignore[attr-defined]
    stop = next(i for i in range(6, 40) if answer[i] not in answer[:i])
    made.generate(prompt, max_new_tokens=40, stop_token_ids=[answer[stop]])
    table = made.drafter.table  # type: ignore[attr-defined]
    row = table.behind(answer[stop - 2 : stop])
    assert row is not None
    assert answer[stop] in row.tokens
    assert table._learnt[2].get(answer[stop - 1] << 21 | answer[stop]) is None


def test_a_grammar_is_kept_and_never_drafted_against() -> None:
    even, odd = ({token: then for token in range(begin, 64, 2)} for begin, then in ((0, "odd"), (1, "start")))
    grammar = Automaton({"start": even, "odd": odd}, vocab=64)
    result = engine().generate(PROMPTS["text"], max_new_tokens=30, grammar=grammar)
    bare = engine(budget=0).generate(PROMPTS["text"], max_new_tokens=30, grammar=grammar)
    assert result.token_ids == bare.token_ids
    drafted = [record for record in result.rounds if record.tokens]
    assert drafted
    for record in drafted:
        for token, depth in zip(record.tokens, record.depths(), strict=True):
            assert token % 2 == (record.length - len(PROMPTS["text"]) + depth - 1) % 2


def test_processors_and_penalties_shape_the_text_as_without_drafts() -> None:
    options = {"max_new_tokens": 30, "repetition_penalty": 1.4, "min_new_tokens": 30}
    with_drafts, without = (engine(budget=budget).generate(PROMPTS["text"], **options) for budget in (8, 0))
    assert with_drafts.token_ids == without.token_ids


def test_inside_transformers(knowing: Path) -> None:
    ids = torch.tensor([PROMPTS["two"]])
    loop = dg.custom_generate(drafter="search", table=knowing, budget=8)
    found = target().generate(ids, attention_mask=torch.ones_like(ids), custom_generate=loop, max_new_tokens=30, do_sample=False, pad_token_id=0)  # fmt: skip  # noqa: E501
    assert found[0, 2:].tolist() == expected(tuple(PROMPTS["two"]), 30)


def test_predicted_text_is_copied_as_well() -> None:
    prompt = tuple(PROMPTS["two"])
    result = engine(prediction=expected(prompt, 40)).generate(list(prompt), max_new_tokens=40)
    assert result.token_ids == expected(prompt, 40)
    assert result.stats.accepted_by_source["text"] > 10


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a table without its drafter": ({"drafter": "lookup", "table": "x"}, "table='x' is for drafter='search'"),
    "sharing without it": ({"drafter": None, "table_shared": True}, "table_shared=True is for drafter='search'"),
    "sharing by halves": ({"table_shared": 2}, "table_shared=2 is not possible"),
    "a table of no name": ({"table": ""}, "table='' is not possible"),
    "a table that is a number": ({"table": 5}, "table=5 is not possible"),
    "a structure of models": ({"structure": "comb"}, "asks a draft model"),
    "a rule of laws": ({"rule": "kseq"}, "rule 'kseq' verifies"),
    "copies of models": ({"edges": ("merge",)}, "share rows of a draft model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_do_is_refused_by_name(name: str) -> None:
    options, why = REFUSED[name]
    with pytest.raises(OptionError, match=why):
        engine(**options)


def test_a_draft_model_beside_it_is_refused() -> None:
    with pytest.raises(OptionError, match="drafter='search' drafts without it"):
        dg.Engine.from_pretrained(target(), draft_model=perturbed(target()), drafter="search")


def test_a_request_has_no_table_of_its_own() -> None:
    with pytest.raises(OptionError, match="table belongs to the engine"):
        engine().generate([1, 2], table="x")


def test_tables_that_do_not_belong_here_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="No such file"):
        engine(table=tmp_path / "absent")
    with pytest.raises(TableError, match="token id 99, and the target has 64"):
        engine(table=table_of([98, 99, 98], to=tmp_path / "large", vocab=100))
    theirs = tokenizer_fingerprint(byte_tokenizer())
    with pytest.raises(TableError, match="another tokenizer"):
        engine(table=table_of([1, 2], to=tmp_path / "theirs", tokenizer=theirs), tokenizer=byte_tokenizer(vocab=64))


FOUND = st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=4), st.floats(0, 1)), max_size=12)


def trie(entries: list[tuple[list[int], float]]) -> list[Found]:
    """Prefixes, parents first, whose scores do not rise."""
    scores: dict[tuple[int, ...], float] = {(): 1.0}
    for path, score in entries:
        for end in range(1, len(path) + 1):
            scores.setdefault(tuple(path[:end]), scores[tuple(path[: end - 1])] * score)
    return [Found(path, score, 2) for path, score in scores.items() if path]


@given(FOUND, FOUND, st.integers(0, 12), st.sampled_from([None, 1, 2]), st.sampled_from([0.0, 0.3]))
def test_drafts_are_joined_and_cut_to_the_likeliest(
    ours: list[Any], theirs: list[Any], budget: int, width: int | None, floor: float
) -> None:
    graph = joined(joined(DraftGraph(), trie(ours), 0.0), trie(theirs), floor)
    best: dict[tuple[int, ...], float] = {}
    for path, score, _ in (*trie(ours), *(each for each in trie(theirs) if each.score >= floor)):
        best[path] = max(score, best.get(path, 0.0))
    assert {tuple(graph.path_tokens(node)): graph.scores[node] for node in range(len(graph))} == best
    cut = likeliest(graph, budget, width)
    check(cut, Limits(budget, 4, 4))
    if width is None:
        assert sorted(cut.scores) == sorted(sorted(best.values(), reverse=True)[:budget])[: len(cut)]
        assert len(cut) == min(budget, len(best))
    else:
        children = [sum(parent == node for parent in cut.parents) for node in range(-1, len(cut))]
        assert max(children) <= width


def test_a_search_takes_a_small_share_of_a_round() -> None:
    """With a fixed budget all simulations are made; under the automatic one as many as the target's rounds allow."""
    assert affordable(32, Limits(8, 4, 4)) == 32
    assert affordable(32, Limits(8, 0, 4, seconds=[0.020, 0.030])) == 32
    assert affordable(32, Limits(8, 0, 4, seconds=[0.002, 0.003])) == 7
    assert affordable(32, Limits(8, 0, 4, seconds=[1e-5, 2e-5])) == 0


def test_it_may_be_made_by_hand_and_names_itself() -> None:
    assert SearchDrafter(()).name == "a table of n-grams"
    assert engine().drafter.name == "a table of n-grams and text already seen"
    assert engine().drafter.fresh().identity == engine().drafter.identity
