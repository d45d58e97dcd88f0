"""An engine as a model of lm_eval: what it computes, and, where lm_eval is installed, what lm_eval's own model computes."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import pytest

import draftgraph as dg
from draftgraph.errors import OptionError
from draftgraph.integrations import lm_eval as module
from draftgraph.integrations.lm_eval import Evaluated, likelihood, register, sampling
from models import byte_tokenizer
from pairs import save_pair

HARNESS = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm_eval is not installed")


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> dg.Engine:
    target, drafter = save_pair(tmp_path_factory.mktemp("pair"))
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "~"
    return dg.Engine.from_pretrained(
        target, draft_model=drafter, tokenizer=tokenizer, backend="torch", budget=4, num_speculative_tokens=3
    )


def test_a_likelihood_is_the_sum_of_the_targets_own(engine):
    ids = list(b"def f(x): return x")
    scores = engine.score(ids)
    assert likelihood(engine, ids[:10], ids[10:]) == (pytest.approx(sum(scores.logprobs[10:])), False)
    greedy = engine.generate(ids, max_new_tokens=4).token_ids
    logprob, is_greedy = likelihood(engine, ids, greedy)
    assert is_greedy
    assert logprob == pytest.approx(sum(engine.score([*ids, *greedy]).logprobs[-4:]))
    assert not likelihood(engine, ids, [*greedy[:3], (greedy[3] + 1) % 256])[1]


def test_a_context_beyond_the_window_loses_its_beginning(engine):
    ids = [i % 200 for i in range(300)]
    assert likelihood(engine, ids, [7, 8]) == likelihood(engine, ids[-254:], [7, 8])


def test_texts_are_read_and_cached_by_what_was_asked(engine):
    kept = []
    evaluated = Evaluated(engine=engine)
    evaluated.cache_hook = SimpleNamespace(add_partial=lambda *given: kept.append(given))
    found = evaluated._loglikelihood_tokens([(("a", "b"), [97], [98]), (None, [97], [98])])
    assert found == [likelihood(engine, [97], [98])] * 2
    assert kept == [("loglikelihood", ("a", "b"), found[0])]
    assert evaluated.tok_encode("ab") == engine.tokenizer.encode("ab")
    assert evaluated.prefix_token_id == evaluated.eot_token_id == engine.tokenizer.eos_token_id


@pytest.mark.parametrize("name", ["typical_p", "num_beams", "logit_bias"])
def test_options_that_have_no_meaning_are_refused_by_name(name):
    with pytest.raises(OptionError, match=name):
        sampling({"until": [], "do_sample": False, "max_gen_toks": 3, name: 2})


def test_options_are_those_of_sampling():
    asked = {"until": ["\n"], "do_sample": True, "max_gen_toks": 3, "temperature": 0.5, "top_p": 0.9, "num_beams": 1}
    assert sampling(asked) == dg.SamplingParams(max_new_tokens=3, stop=("\n",), temperature=0.5, top_p=0.9)


def test_an_engine_or_a_folder_is_needed(engine):
    with pytest.raises(OptionError, match="one of them"):
        Evaluated()
    with pytest.raises(OptionError, match="one of them"):
        Evaluated("folder", engine=engine)


def test_without_the_harness_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install 'draftgraph\[eval\]'"):
        register()


@HARNESS
def test_the_harness_makes_the_same_of_it_as_of_its_own_model(engine):
    import lm_eval.models  # noqa: F401  it knows its own models
    from lm_eval.api.instance import Instance
    from lm_eval.api.registry import get_model

    register()
    register()
    ours = get_model("draftgraph").create_from_arg_obj({"engine": engine}, {"batch_size": 2, "device": "cuda:0"})
    theirs = get_model("hf")(pretrained=engine.target.model, tokenizer=engine.tokenizer, device="cpu", batch_size=1)

    def asked(kind: str, *cases):
        return [Instance(request_type=kind, doc={}, arguments=case, idx=i) for i, case in enumerate(cases)]

    likelihoods = asked("loglikelihood", ("def f", "(x)"), ("", "a = 1"), ("a ", "b"))
    for mine, other in zip(ours.loglikelihood(likelihoods), theirs.loglikelihood(likelihoods), strict=True):
        assert mine == (pytest.approx(other[0], abs=1e-4), other[1])
    rolling = asked("loglikelihood_rolling", ("one text",))
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(theirs.loglikelihood_rolling(rolling), abs=1e-3)
    greedy = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}
    texts = asked("generate_until", ("def f", greedy), ("import ", greedy | {"max_gen_toks": 3}), ("class", greedy))
    assert ours.generate_until(texts) == theirs.generate_until(texts)
