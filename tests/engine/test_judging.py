"""The rule that judges through the engine: exact at threshold 0, lossy and labelled above it, refused where it is not sound."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

import draftgraph as dg
from automata import Automaton
from draftgraph.errors import ModelError, OptionError, PairError
from draftgraph.server.usage import usage_of
from draftgraph.verification.published.judge import JudgeRule
from draftgraph.view.why import why
from judges import head_for, save_head
from models import byte_tokenizer, perturbed, plain, tiny_lm

PROMPT, TOKENS = [5, 9, 5, 3], 40
CHAINS: dict[str, Any] = {"structure": "chain", "budget": 6}


@cache
def target(seed: int = 0) -> Any:
    return tiny_lm(seed=seed)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_head(tmp_path_factory.mktemp("judge") / "head", head_for(target()))


def engine(judge: Path | None, threshold: float | None = None, **options: Any) -> dg.Engine:
    drafting = {"draft_model": perturbed(target(), 0.3)} | CHAINS | options
    judging = {} if judge is None else {"rule": "judge", "judge": judge, "threshold": threshold}
    return dg.Engine.from_pretrained(target(), **drafting, **judging)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="chain"),
        pytest.param({"structure": "graph", "budget": 12}, id="graph"),
        pytest.param({"structure": "comb", "budget": 9}, id="comb"),
        pytest.param({"draft_model": None, "structure": "auto", "budget": 5}, id="lookup"),
    ],
)
def test_threshold_zero_is_the_greedy_text_token_for_token_and_labelled_lossy(judge: Path, options: Any) -> None:
    result = engine(judge, 0.0, **options).generate(PROMPT, max_new_tokens=TOKENS)
    assert result.token_ids == plain(target(), PROMPT, TOKENS)
    assert (result.stats.lossless, result.stats.rule, result.choice.rule.lossless) == (False, "judge", False)


def test_what_is_forgiven_is_written_and_everything_is_at_one(judge: Path) -> None:
    own = plain(target(), PROMPT, TOKENS)
    some, every = (engine(judge, threshold).generate(PROMPT, max_new_tokens=TOKENS) for threshold in (0.5, 1.0))
    assert own != some.token_ids != every.token_ids
    assert all(len(record.path) == len(record.tokens) for record in every.rounds)
    drafted = [(record, node) for record in some.rounds for node in range(len(record.tokens))]
    forgiven = [(record, node) for record, node in drafted if node in record.path and record.p[node] == 0.0]
    assert forgiven
    assert all("the target would not write it, and the rule forgives it" in why(*each) for each in forgiven)
    greedy = engine(None).generate(PROMPT, max_new_tokens=TOKENS)
    lengths = [result.stats.mean_acceptance_length for result in (greedy, some, every)]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("options", [CHAINS, {"structure": "graph", "budget": 10}], ids=["chain", "graph"])
def test_every_token_is_the_targets_choice_or_judged_unimportant(judge: Path, threshold: float, options: Any) -> None:
    """Against hidden states of whole passes of transformers, at late positions and over several rounds."""
    result = engine(judge, threshold, **options).generate(PROMPT, max_new_tokens=TOKENS)
    ids = torch.tensor([PROMPT + result.token_ids])
    with torch.inference_mode():
        out = target()(input_ids=ids, output_hidden_states=True)
    states, best = out.hidden_states[-1][0], out.logits[0].argmax(dim=-1).tolist()
    head, accepted, place = head_for(target()), 0, len(PROMPT)
    for record in result.rounds:
        for node in record.path[: record.emitted]:
            if record.tokens[node] != best[place - 1]:
                assert head.importance(states[place - 1 : place], states[place : place + 1])[0] < threshold
                accepted += 1
            place += 1
        if record.emitted > len(record.path):
            assert record.bonus == best[place - 1]
            place += 1
    assert accepted
    assert place == ids.shape[1]


def test_requests_of_one_pass_have_thresholds_of_their_own(judge: Path) -> None:
    prompts = [[3, 1, 4, 1], [5, 9], [2, 6, 5, 3, 5]]
    asked: Sequence[Any] = [{"threshold": 0.5}, {"threshold": 0.0}, {"rule": "layer"}]
    judging = engine(judge, 0.4)
    alone = [judging.generate(prompt, max_new_tokens=20, **own) for prompt, own in zip(prompts, asked, strict=True)]
    beside = judging.generate(prompts, [{"max_new_tokens": 20, **own} for own in asked])

    async def together() -> list[Any]:
        calls = (judging.agenerate(p, max_new_tokens=20, **own) for p, own in zip(prompts, asked, strict=True))
        return await asyncio.wait_for(asyncio.gather(*calls), 60)

    for results in (beside, asyncio.run(together())):
        assert [result.token_ids for result in results] == [result.token_ids for result in alone]
        assert [result.stats.lossless for result in results] == [False, False, True]
    assert [result.token_ids for result in alone[1:]] == [plain(target(), prompt, 20) for prompt in prompts[1:]]
    assert usage_of(prompts, alone, 1)["lossless"] is False
    assert "lossless" not in usage_of(prompts[2:], alone[2:], 1)


class Stubborn(dg.Drafter):
    """Drafts the same tokens, whatever is ruled out."""

    draws = ("fixed",)
    structure = dg.structures.Chain()

    def propose(self, request: Any, limits: Any) -> dg.Draft:
        graph, node = dg.DraftGraph(), dg.ROOT
        for token in (7, 12, 12, 9, 4, 30)[: min(limits.reach, limits.budget)]:
            node = graph.fix(node, token)
        return dg.Draft(graph)


@pytest.mark.parametrize("drafting", [{}, {"draft_model": None, "drafter": Stubborn(), "structure": "auto"}])
def test_a_token_that_is_ruled_out_is_never_forgiven(judge: Path, drafting: Any) -> None:
    odd = {token: "even" for token in range(1, 64, 2)}
    grammar = Automaton({"start": odd, "even": dict.fromkeys(range(0, 64, 2), "start")}, vocab=64)
    judging = engine(judge, 1.0, **drafting)
    free = judging.generate(PROMPT, max_new_tokens=TOKENS)
    bound = judging.generate(PROMPT, max_new_tokens=TOKENS, grammar=grammar)
    assert [token % 2 for token in bound.token_ids] == [1, 0] * (TOKENS // 2)
    assert bound.stats.num_accepted_tokens > 0
    banned = free.token_ids[7]
    without = judging.generate(PROMPT, max_new_tokens=TOKENS, logit_bias={banned: -torch.inf})
    assert banned not in without.token_ids


def test_long_prompts_are_read_in_pieces_before(judge: Path) -> None:
    prompt = [(7 * i) % 64 for i in range(60)]
    judging = engine(judge, 0.5)
    whole = judging.generate(prompt, max_new_tokens=20)
    judging.target.most_rows = 16  # type: ignore[misc]
    assert judging.generate(prompt, max_new_tokens=20).token_ids == whole.token_ids


def test_without_a_threshold_the_one_beside_the_head_is_taken(judge: Path) -> None:
    assert engine(judge).config.resolved_rule.threshold == 0.5
    assert engine(judge, 0.2).config.with_options(threshold=0.3).resolved_rule.threshold == 0.3


def test_a_head_that_was_fitted_anew_is_read_anew(tmp_path: Path) -> None:
    folder = save_head(tmp_path / "judge", head_for(target()), 0.25)
    first = dg.Config(rule="judge", judge=str(folder)).resolved_rule
    save_head(folder, head_for(target(), seed=1), 0.75)
    second = dg.Config(rule="judge", judge=str(folder)).resolved_rule
    assert (first.threshold, second.threshold) == (0.25, 0.75)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "judge"}, r"rule 'judge' needs the head .*judge=FOLDER of `draftgraph judge fit`, or rule='layer'"),
        ({"rule": JudgeRule()}, "rule 'judge' needs the head"),
        ({"rule": "judge", "judge": 3}, "judge=3 is not possible"),
        ({"judge": "folder"}, "judge is for rule='judge', which is not lossless"),
        ({"rule": "layer", "threshold": 0.5}, "threshold is for rule='judge'"),
    ],
)
def test_options_without_each_other_are_refused(options: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        dg.Config(**options)


def test_thresholds_that_are_none_are_refused(judge: Path) -> None:
    for threshold in (-0.1, 1.5, float("nan"), "much"):
        with pytest.raises(OptionError, match=r"threshold=.* is not possible; write a probability from 0 to 1"):
            engine(judge, threshold)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="write a probability from 0 to 1"):
            engine(judge).generate(PROMPT, max_new_tokens=4, threshold=threshold)


def test_temperatures_above_zero_are_refused_before_the_first_pass(judge: Path, monkeypatch: Any) -> None:
    judging = engine(judge, 0.5)
    monkeypatch.setattr(judging.target, "forward", lambda *given: pytest.fail("a pass"))
    for params in ({"temperature": 0.7}, GenerationConfig(do_sample=True)):
        with pytest.raises(OptionError, match="rule 'judge' is defined at temperature 0 only"):
            judging.generate(PROMPT, params, max_new_tokens=4)


def test_the_automatic_budget_is_timed_at_temperature_zero(judge: Path) -> None:
    judging = engine(judge, 1.0, budget="auto", structure="auto")
    assert judging.warm_up(refresh=True).target
    result = judging.generate(PROMPT, max_new_tokens=TOKENS)
    assert len(result.token_ids) == TOKENS


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: tiny_lm(seed=1), "the judge was fitted to another target: hidden:2 of 6 known tokens is off by"),
        (lambda: tiny_lm("gpt2"), "the judge was fitted to another target"),
        (lambda: tiny_lm(layers=3), "the judge was fitted to another target"),
        (lambda: tiny_lm(vocab=7), "a head for a target with token 7, and the vocabulary here has 7 tokens"),
    ],
    ids=["weights", "family", "layers", "vocabulary"],
)
def test_the_judge_of_another_target_is_refused(judge: Path, other: Any, message: str) -> None:
    with pytest.raises(PairError, match=message):
        dg.Engine.from_pretrained(other(), rule="judge", judge=judge, budget=4)
    lookup = dg.Engine.from_pretrained(other(), budget=4)
    with pytest.raises(PairError, match=message):
        lookup.generate([1, 2], max_new_tokens=4, rule="judge", judge=judge)


def test_the_same_target_in_bfloat16_is_the_same_target(judge: Path) -> None:
    rounded = tiny_lm().bfloat16()
    result = dg.Engine.from_pretrained(rounded, rule="judge", judge=judge, budget=4).generate(PROMPT, max_new_tokens=8)
    assert result.stats.lossless is False


def test_targets_without_such_hidden_states_are_refused(tmp_path: Path) -> None:
    head = head_for(tiny_lm(layers=3))
    deeper = save_head(tmp_path / "deeper", head)
    with pytest.raises(OptionError, match=r"rule 'judge' reads hidden states, .* taps='hidden:3' is not possible"):
        engine(deeper, 0.5)


def test_on_openvino_hidden_states_are_there_if_the_engine_is_made_for_the_rule(judge: Path) -> None:
    pytest.importorskip("openvino")
    judging = engine(judge, 0.5, backend="openvino")
    assert (
        judging.generate(PROMPT, max_new_tokens=20).token_ids
        == engine(judge, 0.5).generate(PROMPT, max_new_tokens=20).token_ids
    )
    without = engine(None, backend="openvino")
    with pytest.raises(
        ModelError, match=r"rule 'judge' reads hidden states, .* without hidden states .*backend='torch'"
    ):
        without.generate(PROMPT, max_new_tokens=4, rule="judge", judge=judge)


def test_inside_transformers(judge: Path) -> None:
    ids = torch.tensor([PROMPT])
    options = {"draft_model": perturbed(target(), 0.3), "rule": "judge", "judge": judge, **CHAINS}
    for threshold, own in ((0.0, plain(target(), PROMPT, 20)), (0.5, None)):
        out = target().generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20, pad_token_id=0,
            custom_generate=dg.custom_generate(threshold=threshold, **options),
        )  # fmt: skip
        assert own is None or out[0, len(PROMPT) :].tolist() == own


def test_stop_strings_and_ends_hold_in_forgiven_runs(judge: Path) -> None:
    model, words = tiny_lm(vocab=256), byte_tokenizer()
    folder = save_head(judge.parent / "bytes", head_for(model))
    options: dict[str, Any] = {"draft_model": perturbed(model, 0.3), "tokenizer": words, **CHAINS}
    judging = dg.Engine.from_pretrained(model, rule="judge", judge=folder, threshold=1.0, **options)
    whole = judging.generate(PROMPT, max_new_tokens=TOKENS)
    stop = words.decode(whole.token_ids[9:11])
    ended = judging.generate(PROMPT, max_new_tokens=TOKENS, stop=(stop,))
    assert ended.finish_reason == "stop"
    assert whole.text.startswith(ended.text)
    ends = judging.generate(PROMPT, max_new_tokens=TOKENS, stop_token_ids=[whole.token_ids[9]])
    first = whole.token_ids.index(whole.token_ids[9])
    assert ends.token_ids == whole.token_ids[: first + 1]
