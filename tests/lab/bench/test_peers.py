"""Other decoders: how they are asked for, what is said where they are missing, and how their answers are counted."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from draftgraph.errors import OptionError
from draftgraph.lab.bench import peers
from draftgraph.lab.bench.contenders import Task
from draftgraph.lab.bench.models import Models
from draftgraph.lab.bench.peers import Absent, Asked, llama_cpp, load, missing, parse_peer
from models import plain
from pairs import save_pair

PROMPT = [72, 105]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Models:
    return Models.load(*save_pair(tmp_path_factory.mktemp("pair")))


@pytest.fixture
def nowhere(monkeypatch) -> None:
    """No peer is installed."""
    kinds = {name: replace(kind, module="no_such_module") for name, kind in peers.KINDS.items()}
    monkeypatch.setattr(peers, "KINDS", kinds)


def test_a_peer_is_a_name_with_weights(tmp_path):
    (tmp_path / "b.gguf").touch()
    asked = parse_peer(f"llama.cpp={tmp_path},{tmp_path / 'b.gguf'}")
    assert asked == Asked("llama.cpp", [tmp_path, tmp_path / "b.gguf"])
    assert parse_peer(str(asked)) == asked
    assert str(parse_peer("vllm")) == "vllm"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("openvin", "Did you mean 'openvino'"),
        ("openvino=/nowhere", "To convert: optimum-cli export openvino"),
        ("vllm=.", "write --peer vllm"),
        ("openvino=.,.,.", "write --peer openvino=WEIGHTS or openvino=WEIGHTS,DRAFTER"),
    ],
)
def test_misuse(text, words):
    with pytest.raises(OptionError) as caught:
        parse_peer(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", list(peers.KINDS))
def test_who_is_not_installed_says_how_to_be(nowhere, models, name):
    absent = load(Asked(name, ()), models, 1, 4)
    assert isinstance(absent, Absent)
    assert absent.name == name
    assert absent.reason.startswith("not installed; ")
    assert "install" in absent.reason.removeprefix("not installed")


@pytest.mark.parametrize("name", [name for name, kind in peers.KINDS.items() if kind.convert is not None])
def test_who_has_no_weights_says_how_to_convert(monkeypatch, name):
    monkeypatch.setattr(peers, "KINDS", {name: replace(peers.KINDS[name], module="json")})
    absent = missing(Asked(name, ()))
    assert absent is not None
    assert f"write --peer {name}=WEIGHTS" in absent.reason
    assert "To convert: " in absent.reason


def test_weights_that_cannot_be_loaded_are_said(monkeypatch, models, tmp_path):
    def fail(*arguments):
        raise RuntimeError("no model here\nat line 3")

    monkeypatch.setattr(peers, "KINDS", {"vllm": replace(peers.KINDS["vllm"], module="json", load=fail)})
    absent = load(Asked("vllm", ()), models, 1, 4)
    assert absent == Absent("vllm", "could not load its weights: RuntimeError: no model here")


@pytest.mark.skipif(importlib.util.find_spec("openvino_genai") is None, reason="OpenVINO GenAI is not installed")
def test_openvino_refuses_a_folder_without_a_model(models, tmp_path):
    absent = load(Asked("openvino", [tmp_path]), models, 1, 4)
    assert isinstance(absent, Absent)
    assert absent.reason.startswith("could not load its weights: ")


@pytest.mark.skipif(importlib.util.find_spec("economize") is None, reason="economize is not installed")
@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")  # its own call of transformers 5.24
@pytest.mark.parametrize("with_drafter", [True, False])
def test_economize_continues_greedily_like_transformers(models, with_drafter):
    pair = models if with_drafter else replace(models, drafter_source=None, drafter=None)
    peer = load(Asked("economize", ()), pair, 1, 3)
    alone, drafted = peer.contenders(Task(0.0, 12))
    expected = plain(models.target, PROMPT, 12)
    assert alone.answer(PROMPT, 0).ids == drafted.answer(PROMPT, 0).ids == expected
    assert alone.answer(PROMPT, 0).nodes == 0
    sampled = peer.contenders(Task(1.0, 12))[1]
    assert sampled.answer(PROMPT, 5).ids == sampled.answer(PROMPT, 5).ids
    assert len(sampled.answer(PROMPT, 5).ids) == 12


class Llama:
    """What llama-cpp-python's model does, by transformers: an endless generator, which asks a draft after every call."""

    def __init__(self, model, draft=None, window=256) -> None:
        self.model, self.draft, self.window, self.resets, self.options = model, draft, window, 0, {}

    def n_ctx(self) -> int:
        return self.window

    def reset(self) -> None:
        self.resets += 1

    def set_seed(self, seed) -> None:
        self.seed = seed

    def generate(self, tokens, **options):
        self.options = options
        text = list(tokens)
        drafted: list[int] = []
        while True:
            after = plain(self.model, text, len(drafted) + 1)
            agreed = next((i for i, token in enumerate(drafted) if token != after[i]), len(drafted))
            for token in after[: agreed + 1]:
                text.append(token)
                yield token
            drafted = [] if self.draft is None else self.draft(np.array(text)).tolist()


def test_llama_cpp_is_counted_like_everybody(models):
    task = Task(0.0, 12)
    expected = plain(models.target, PROMPT, 12)
    alone = llama_cpp._Model("alone", Llama(models.target), task).answer(PROMPT, 2**40)
    assert (alone.ids, alone.rounds, alone.nodes) == (expected, 12, 0)
    draft = llama_cpp._Draft(Llama(models.target), 3)  # a perfect drafter
    with_draft = llama_cpp._Model("assisted", Llama(models.target, draft), task, draft)
    for _ in range(2):  # counts do not add up over runs
        answer = with_draft.answer(PROMPT, 1)
        assert (answer.ids, answer.rounds, answer.nodes) == (expected, 4, 9)  # 1 + 4 + 4 + 3
    assert with_draft.model.resets == 2
    narrow = llama_cpp._Draft(Llama(models.target, window=6), 3)
    assert [len(narrow(np.array([1] * length))) for length in (2, 4, 6, 7)] == [3, 2, 0, 0]
    assert with_draft.model.options["temp"] == 0.0
    assert (with_draft.model.options["top_k"], with_draft.model.options["min_p"]) == (0, 0.0)


def test_vllm_gets_ids_and_gives_ids(models, monkeypatch):
    """vLLM cannot run here; this is its documented interface."""
    asked = {}

    class LLM:
        def __init__(self, **options) -> None:
            asked.update(options)

        def generate(self, prompts, params, use_tqdm):
            ids = plain(models.target, prompts[0]["prompt_token_ids"], params.max_tokens)
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(ids))])]

    module = SimpleNamespace(LLM=LLM, SamplingParams=lambda **options: SimpleNamespace(**options))
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(peers, "missing", lambda asked: None)
    peer = load(Asked("vllm", ()), models, 1, 4)
    (contender,) = peer.contenders(Task(0.0, 6))
    answer = contender.answer(PROMPT, 1)
    assert (contender.name, answer.ids) == ("vllm plain", plain(models.target, PROMPT, 6))
    assert (asked["dtype"], asked["model"], asked["enable_prefix_caching"]) == ("float32", models.source, False)
