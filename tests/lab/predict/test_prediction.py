"""The whole prediction, and the engine beside it."""

from __future__ import annotations

import json

import pytest

from draftgraph import SamplingParams
from draftgraph.budget.costs import Cost, Costs
from draftgraph.errors import OptionError, PairError
from draftgraph.lab.pair import PROMPT, Pair
from draftgraph.lab.predict.acceptance import Plan, rounds, survival
from draftgraph.lab.predict.prediction import exact_plans, measure, predict, tree_plans
from draftgraph.lab.predict.rows import read_rows
from draftgraph.lab.texts import Text, own_texts
from models import byte_tokenizer, perturbed, tiny_lm

PARAMS = SamplingParams(max_new_tokens=40, temperature=1.0, seed=5, ignore_eos=True)
FLAT = Cost((1, 2), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (3, 3))


@pytest.fixture(scope="module")
def pair() -> Pair:
    target = tiny_lm()
    return Pair.load(target, perturbed(target, 0.25))


def rows_of(pair: Pair, params: SamplingParams, texts: int = 6):
    prompts = [[1 + i] for i in range(texts)]
    return read_rows(*pair.backends, own_texts(pair.engine(budget=0), prompts, params), params, pair.vocab)


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_every_plan_is_predicted_and_can_be_asked_for(pair, temperature, monkeypatch):
    monkeypatch.setattr("draftgraph.lab.predict.prediction.ROUNDS", 12)
    params = SamplingParams(max_new_tokens=24, temperature=temperature, seed=5)
    free = Costs(FLAT, Cost((1, 2), (0.1, 0.1), (0.1, 0.1), (0.1, 0.1), (3, 3)), (0.0, 0.0, 0.0), 0.0, 1, 8)
    found = predict(rows_of(pair, params, 3), "own", temperature, free, lambda text: None)
    plans = exact_plans(temperature == 0) + tree_plans(temperature == 0)
    assert len(found.rows) == len(plans)
    for row in found.rows:
        assert 1.0 <= row.tokens.value <= 1 + len(row.level_rows)
        assert row.pace is not None
        pair.engine(**row.options)  # the engine accepts what is predicted
    assert found.best.pace.speedup == max(row.pace.speedup for row in found.rows)
    json.dumps(found.to_dict())


def test_measured_lies_beside_predicted(pair, monkeypatch):
    monkeypatch.setattr("draftgraph.lab.predict.prediction.ROUNDS", 12)
    rows = rows_of(pair, PARAMS, 4)
    found = predict(rows, "own", 1.0, None, lambda text: None).rows
    chosen = [row for row in found if row.draft in ("chain 2", "tree 2·1·1")]
    done = measure(chosen, pair.engine, [[1], [2], [3]], PARAMS, lambda text: None)
    assert all(row.measured is not None and row.off is not None for row in done)
    assert [row.off for row in found] == [None] * len(found)


@pytest.mark.parametrize(("rule", "children"), [("token", "hybrid"), ("block", "hybrid"), ("walk", "fixed")])
def test_the_engine_makes_as_many_rounds_as_its_texts_say(pair, rule, children, monkeypatch):
    """Given the text, rounds are independent of each other: Σ (made − predicted) over texts is pure chance of known spread."""
    monkeypatch.setattr("draftgraph.draft.model.ModelDrafter._calibrate", lambda *_: None)  # the theory knows no tuning
    engine = pair.engine(structure="chain", budget=3, num_speculative_tokens=3, rule=rule)
    prompts = [[1 + i] for i in range(12)]
    results = [
        engine.generate(prompt, SamplingParams(max_new_tokens=40, temperature=1.0, seed=i, ignore_eos=True))
        for i, prompt in enumerate(prompts)
    ]
    texts = [Text((*prompt, *one.token_ids), 1, 40) for prompt, one in zip(prompts, results, strict=True)]
    rows = read_rows(*pair.backends, texts, PARAMS, pair.vocab)
    given = survival(rows, Plan(rule, (1, 1, 1), children)).given
    lost = [
        one.stats.num_rounds - float(rounds(given[span.begin : span.end], 40)[0].sum())
        for one, span in zip(results, rows.spans, strict=True)
    ]
    if rule == "walk":  # the draft is a function of the text, and so is every round
        assert lost == pytest.approx([0.0] * len(lost), abs=1e-9)
    else:
        assert abs(sum(lost)) < 3.5 * sum(x * x for x in lost) ** 0.5


def test_prompts_are_beginnings_or_the_start_token(pair):
    assert pair.prompts(3, [list(range(40)), [7, 8]]) == [list(range(PROMPT)), [7, 8], list(range(PROMPT))]
    with pytest.raises(OptionError, match="no start token"):
        pair.prompts(3, [])
    with pytest.raises(OptionError, match="no tokenizer"):
        pair.encode(["text"])
    target = tiny_lm()
    target.generation_config.bos_token_id = 9
    assert Pair.load(target, perturbed(target)).prompts(2, []) == [[9], [9]]


def test_a_pair_that_cannot_run_is_refused():
    with pytest.raises(PairError, match="vocabulary size"):
        Pair.load(tiny_lm(), tiny_lm(vocab=300))


def test_texts_are_read_with_the_targets_tokenizer():
    target = tiny_lm(vocab=256)
    pair = Pair(target, target, byte_tokenizer(), 256, 64)
    assert pair.encode(["ab", "c"]) == [byte_tokenizer()(text)["input_ids"] for text in ("ab", "c")]
