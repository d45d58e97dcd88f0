"""Networks that can be trained: EAGLE-3 beside our own, written so that other engines run it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

import draftgraph as dg
from draftgraph.backends.base import Feed
from draftgraph.backends.eagle3_export import exported
from draftgraph.backends.feature_model import FeatureHandle, FeatureModel
from draftgraph.backends.features import FeatureShape, default_taps
from draftgraph.backends.trained import find_trained
from draftgraph.lab.train.features.answers import Answer
from draftgraph.lab.train.features.loop import Training
from draftgraph.lab.train.features.measure import acceptance
from draftgraph.lab.train.features.names import NAMES
from draftgraph.lab.train.features.networks import NETWORKS, SIZED
from draftgraph.lab.train.features.project import Project, Settings
from draftgraph.lab.train.features.recipe import Recipe, Span
from draftgraph.lab.train.features.unroll import read_target, steps
from models import tiny_lm

PROMPTS = [[1 + i % 20, 2 + i % 7] for i in range(60)]
SETTINGS = Settings(tokens=900, most=12, batch=4, head=20, rows=128, epochs=6.0, network="eagle3")
TEXT, DRAFTED = [5, 9, 3, 14, 7, 2, 11, 20], [17, 4, 3]


PAPERS = [name for name in NAMES[2:] if name not in SIZED]


def target(layers: int = 6) -> Any:
    return tiny_lm(vocab=24, logit_gain=1.5, layers=layers).requires_grad_(False)


@cache
def answers(layers: int) -> list[Answer]:
    """What a target says, which no network changes."""
    with TemporaryDirectory() as folder:
        return Project(Path(folder) / "drafter", SETTINGS).answers(target(layers), PROMPTS, [])


def network(over: Any, entries: int = 20) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(1)
    shape = FeatureShape(over.config.hidden_size, default_taps(over.config.num_hidden_layers), entries)
    net = NETWORKS["eagle3"].make(shape, over.config)
    tokens = torch.arange(entries) + 2
    net.start_from(over, tokens)
    return net, tokens


@torch.inference_mode()
def test_steps_that_are_trained_are_passes_of_the_engine() -> None:
    over = target()
    net, tokens = network(over)
    model = FeatureModel(net.eval(), tokens, over.get_input_embeddings())
    text = model.open(0)
    assert isinstance(text, FeatureHandle)
    text.learn(read_target(over, torch.tensor([TEXT]), model.taps)[1][0, :-1])
    seen = [model.forward([Feed(text, TEXT[1:])])[0].logits[0]]
    for node, token in enumerate(DRAFTED):
        seen.append(model.forward([Feed(text, (), [token], [node - 1])])[0].logits[0])
    _, features, embedded = read_target(over, torch.tensor([[*TEXT, *DRAFTED]]), model.taps)
    for step, output in enumerate(steps(net, features, embedded, 1 + len(DRAFTED))):
        torch.testing.assert_close(seen[step][tokens], net.logits(output[0, len(TEXT) - 1]), atol=2e-4, rtol=1e-3)


def test_training_improves_what_is_held_out(tmp_path: Path) -> None:
    over, given = target(), answers(6)
    net, tokens = network(over)
    before = acceptance(net, over, tokens, given, 512)["sampled"].predicted
    Training(net.train(), over, tokens, given, given, Recipe(rows=256, peak=5e-3, patience=99), Span(updates=90),
             tmp_path / "state.pt").run()  # fmt: skip
    assert acceptance(net, over, tokens, given, 512)["sampled"].predicted > before + 0.15


@pytest.mark.parametrize("layers", [4, 7])
def test_a_trained_folder_is_eagle3_and_is_exported(layers: int, tmp_path: Path) -> None:
    over = target(layers)
    training = Project(tmp_path / "drafter", SETTINGS)
    training.begin()
    card = training.train(over, training.answers(over, PROMPTS, []))
    assert card["settings"]["network"] == "eagle3"
    found = find_trained(training.out)
    assert found is not None
    assert found.layout.name == "EAGLE-3"
    assert set(found.taps(layers)) == set(default_taps(layers))
    plain, drafted = (
        dg.Engine.from_pretrained(over, draft_model=folder, budget=5 if folder else 0)
        for folder in (None, training.out)
    )
    asked: dict[str, Any] = {"max_new_tokens": 30, "temperature": 0.0}
    result = drafted.generate([3, 1], **asked)
    assert result.token_ids == plain.generate([3, 1], **asked).token_ids
    assert result.stats.num_accepted_tokens > 0
    said = json.loads(exported(training.out, "speculators", target="made-up")["config.json"])
    assert said["draft_vocab_size"] == 20
    usual = json.loads((training.out / "config.json").read_text())
    assert ("eagle_config" in usual) is (layers == 4)


def test_names_are_those_of_the_networks() -> None:
    assert list(NAMES) == list(NETWORKS)


@pytest.mark.parametrize("name", PAPERS)
def test_a_network_of_a_paper_is_trained_and_drafts_exactly(name: str, tmp_path: Path) -> None:
    over = target(3)
    training = Project(tmp_path / "drafter", replace(SETTINGS, network=name, epochs=6.0, rows=256))
    training.begin()
    card = training.train(over, answers(3))
    assert card["settings"]["network"] == name
    assert card["recipe"]["objective"] == asdict(NETWORKS[name].objective)
    assert sum(stage["share"] for stage in card["recipe"]["stages"]) == pytest.approx(1.0)
    found = find_trained(training.out)
    assert found is not None
    assert found.layout.name == "draftgraph"
    assert found.taps(3) == NETWORKS[name].taps(3)
    asked: dict[str, Any] = {"max_new_tokens": 24, "temperature": 0.0}
    plain = dg.Engine.from_pretrained(over, budget=0).generate(PROMPTS[:3], **asked)
    accepted = 0
    for structure in ("chain", "tree", "comb"):
        engine = dg.Engine.from_pretrained(over, draft_model=training.out, structure=structure, budget=6)
        for result, expected in zip(engine.generate(PROMPTS[:3], **asked), plain, strict=True):
            assert result.token_ids == expected.token_ids
            accepted += result.stats.num_accepted_tokens
    assert accepted > 10


@pytest.mark.parametrize("name", ["fspad", "glide"])
def test_training_a_network_of_a_paper_improves_what_is_held_out(name: str, tmp_path: Path) -> None:
    over, given = target(3), answers(3)
    network, tokens = NETWORKS[name], torch.arange(20) + 2
    torch.manual_seed(1)
    net = network.make(FeatureShape(over.config.hidden_size, network.taps(3), 20), over.config)
    net.start_from(over, tokens)
    before = acceptance(net, over, tokens, given, 512)["sampled"].predicted
    recipe = Recipe(rows=256, peak=5e-3, patience=99, stages=network.stages, objective=network.objective)
    Training(net.train(), over, tokens, given, given, recipe, Span(updates=60), tmp_path / "state.pt").run()
    assert acceptance(net, over, tokens, given, 512)["sampled"].predicted > before + 0.15


BEFORE = ("tokens", "most", "batch", "head", "rows", "epochs", "seed")


def test_settings_of_our_own_network_are_written_as_before() -> None:
    own = replace(SETTINGS, network="own")
    assert json.loads(own.to_json()) == {name: value for name, value in asdict(own).items() if name in BEFORE}
    assert json.loads(SETTINGS.to_json())["network"] == "eagle3"
