"""Every rule of what can run: it passes, and the pair that breaks it fails by its name, in the engine too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import draftgraph as dg
from draftgraph.backends.check import Check
from draftgraph.backends.load import check_pair, same_tokens
from draftgraph.errors import DraftgraphError, ModelError, PairError
from draftgraph.lab.doctor import checks
from draftgraph.lab.doctor.checks import Checkup, check_up
from models import REFUSED, byte_tokenizer, tiny_lm
from pairs import save_pair

SIDE = {
    "configuration", "tokenizer", "decoder-only", "weights", "language-model head", "floating-point weights", "cache rolls back",
    "attention takes masks", "rows are independent", "honours masks and positions", "precision", "backend",
}  # fmt: skip
PAIR = {"same tokens", "context windows", "same end of text", "drafter is smaller", "threads"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    return save_pair(tmp_path_factory.mktemp("pair"))


def save(folder: Path, model: Any, tokenizer: Any | None = None) -> Path:
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def outcomes(checkup: Checkup, of: str) -> dict[str, str]:
    return {check.rule: check.outcome for check in dict(checkup.groups)[of]}


def found(checkup: Checkup, of: str, rule: str) -> Check:
    return next(check for check in dict(checkup.groups)[of] if check.rule == rule)


def test_a_good_pair_passes_every_rule(pair):
    checkup = check_up(*pair)
    assert checkup.ok
    assert set(outcomes(checkup, "target")) == set(outcomes(checkup, "drafter")) == SIDE
    assert set(outcomes(checkup, "pair")) == PAIR
    warned = {check.rule for _, group in checkup.groups for check in group if check.outcome != "pass"}
    assert warned - {"threads"} == {"drafter is smaller"}
    loaded = checkup.pair()
    assert (loaded.vocab, loaded.window) == (256, 256)
    assert json.loads(json.dumps(checkup.to_dict()))["ok"] is True


def test_a_target_alone(pair):
    checkup = check_up(pair[0])
    assert checkup.ok
    assert outcomes(checkup, "machine").keys() == {"threads"}
    assert checkup.to_dict()["drafter"] is None


def test_an_unreadable_folder_fails_and_the_other_model_is_checked_all_the_same(pair, tmp_path):
    (tmp_path / "empty").mkdir()
    checkup = check_up(tmp_path / "empty", pair[1])
    assert not checkup.ok
    assert outcomes(checkup, "target")["configuration"] == "fail"
    assert outcomes(checkup, "target")["weights"] == "not checked"
    assert set(outcomes(checkup, "target")) == SIDE
    assert set(outcomes(checkup, "drafter").values()) == {"pass"}
    assert outcomes(checkup, "pair")["same tokens"] == "not checked"


def test_corrupt_weights_fail_and_vocabularies_are_compared_all_the_same(pair, tmp_path):
    broken = save(tmp_path / "broken", tiny_lm(vocab=256), byte_tokenizer())
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    checkup = check_up(pair[0], broken)
    assert outcomes(checkup, "drafter")["weights"] == "fail"
    assert "cannot load" in found(checkup, "drafter", "weights").found
    assert outcomes(checkup, "drafter")["honours masks and positions"] == "not checked"
    assert outcomes(checkup, "pair")["same tokens"] == "pass"
    with pytest.raises(ModelError, match="cannot load"):
        dg.Engine.from_pretrained(pair[0], draft_model=broken)


def test_another_tokenizer_fails_with_the_tokens_that_differ(pair, tmp_path):
    tokenizer = byte_tokenizer()
    shifted = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = shifted["model"]["vocab"]
    shifted["model"]["vocab"] = {token: (number + 7) % len(vocab) for token, number in vocab.items()}
    other = save(tmp_path / "other", tiny_lm(vocab=256), tokenizer)
    (other / "tokenizer.json").write_text(json.dumps(shifted))
    checkup = check_up(pair[0], other)
    check = found(checkup, "pair", "same tokens")
    assert (check.outcome, check.error) == ("fail", PairError)
    assert "'!' is 0 for the target and 7 for the drafter" in check.found
    assert "256 of 256 tokens differ" in check.found
    with pytest.raises(PairError, match="'!' is 0 for the target and 7"):
        dg.Engine.from_pretrained(pair[0], draft_model=other)


class Sized:
    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size


def test_padding_is_tolerated_and_said():
    ours, theirs = byte_tokenizer(), byte_tokenizer(("<extra>",), vocab=257)
    check = same_tokens(Sized(256), Sized(320), ours, theirs)
    assert check.outcome == "pass"
    assert "256 tokens have the same ids" in check.found
    assert "<extra>" in check.found
    assert "256 and 320 rows" in check.found
    check_pair(Sized(256), Sized(320), ours, theirs)


def test_without_tokenizers_only_sizes_are_compared(tmp_path):
    assert same_tokens(Sized(256), Sized(300), None, None).outcome == "warning"
    assert same_tokens(Sized(256), Sized(400), None, None).outcome == "fail"
    with pytest.raises(PairError, match="vocabulary size: the target has 256 tokens, the drafter 400"):
        check_pair(Sized(256), Sized(400), None, None)
    checkup = check_up(save(tmp_path / "bare", tiny_lm()))
    assert checkup.ok
    assert found(checkup, "target", "tokenizer").outcome == "warning"


RULE_OF = {
    "rwkv": "cache rolls back",
    "openai-gpt": "honours masks and positions",
    "moshi": "honours masks and positions",
}


@pytest.mark.parametrize("family", RULE_OF)
def test_refused_architectures_fail_by_the_rule_that_the_engine_raises(family, tmp_path):
    folder = save(tmp_path / family, tiny_lm(family, **REFUSED[family]))
    checkup = check_up(folder)
    check = found(checkup, "target", RULE_OF[family])
    assert (check.outcome, checkup.ok) == ("fail", False)
    assert check.advice
    with pytest.raises(ModelError) as raised:
        dg.Engine.from_pretrained(folder)
    assert str(raised.value) == f"{check.found}; {check.advice}"


def test_encoder_decoders_fail_before_their_weights_are_read(tmp_path):
    from transformers import AutoConfig

    AutoConfig.for_model("t5", **REFUSED["t5"]).save_pretrained(tmp_path)
    checkup = check_up(tmp_path)
    assert found(checkup, "target", "decoder-only").outcome == "fail"
    assert found(checkup, "target", "weights").outcome == "not checked"


def test_logits_that_are_no_numbers_fail(tmp_path):
    model = tiny_lm()
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    checkup = check_up(save(tmp_path / "nan", model))
    check = found(checkup, "target", "honours masks and positions")
    assert check.failed
    assert "NaN" in check.found


def test_windows_and_half_precision_and_ends_are_warnings(pair, tmp_path):
    short = save(tmp_path / "short", tiny_lm(vocab=256, window=64, eos=3), byte_tokenizer())
    checkup = check_up(pair[0], short, dtype="bfloat16")
    assert checkup.ok
    assert found(checkup, "target", "precision").outcome == "warning"
    assert "beyond 64 tokens drafts are copies" in found(checkup, "pair", "context windows").advice
    ends = found(checkup, "pair", "same end of text")
    assert (ends.outcome, "[3]" in ends.found) == ("warning", True)
    assert checks.windows(None, 64).outcome == "warning"
    assert checks.windows(64, None).outcome == checks.windows(64, 64).outcome == "pass"


def test_a_small_drafter_and_a_big_one():
    target, small = tiny_lm(layers=12), tiny_lm(layers=1, vocab=8)
    assert checks.sizes(target, small).outcome == "pass"
    assert "times more" in checks.sizes(small, target).found


@pytest.mark.skipif(torch.cuda.is_available(), reason="it can run there")
def test_a_backend_that_cannot_run_here_fails_as_in_an_engine(pair):
    checkup = check_up(*pair, backend="cuda_graphs")
    check = found(checkup, "target", "backend")
    assert (check.outcome, checkup.ok) == ("fail", False)
    with pytest.raises(DraftgraphError) as raised:
        dg.Engine.from_pretrained(pair[0], backend="cuda_graphs")
    assert str(raised.value) == check.found


def test_quantised_weights_are_checked_and_handed_on(pair):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    checkup = check_up(*pair, weights="int8")
    assert checkup.ok, checkup.to_dict()
    assert found(checkup, "target", "backend").found == "openvino: weights='int8' was asked for"
    assert "int8 weights make another model" in found(checkup, "target", "precision").found
    target, drafter = checkup.pair().backends
    assert "int8" in target.fingerprint
    assert "int8" in drafter.fingerprint


def test_more_threads_than_cores_are_warned_about(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: checks.cores() + 1)
    assert checks.threads().advice == f"write --threads {checks.cores()}"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert checks.threads().outcome == "pass"


def test_only_failed_checks_raise():
    Check("a rule", "warning", "odd").enforce()
    Check("a rule", "not checked", "unknown").enforce()
    with pytest.raises(DraftgraphError, match=r"^bad; mend it$"):
        Check("a rule", "fail", "bad", "mend it").enforce()
