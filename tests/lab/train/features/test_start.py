"""Going on from a drafter: its weights, whatever its head's tokens are, and nobody else's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from draftgraph.backends.feature_files import read_features
from draftgraph.backends.features import parameters_of
from draftgraph.errors import ModelError, PairError
from draftgraph.lab.train.features import project
from draftgraph.lab.train.features.generate import answer_all
from draftgraph.lab.train.features.networks import NETWORKS, Sizes, network_of
from draftgraph.lab.train.features.project import Project, Settings
from draftgraph.lab.train.features.recipe import Recipe
from draftgraph.lab.train.features.start import PEAK, about, continued, go_on_from
from feature_drafters import FORMS, tiny_net, write_drafter, write_form
from models import tiny_lm

SETTINGS = Settings(head=20, rows=128, epochs=2.0)


def target(**options: int) -> PreTrainedModel:
    return tiny_lm(vocab=24, logit_gain=1.5, **options).requires_grad_(False)


def test_weights_are_taken_over_and_the_head_is_free(tmp_path: Path) -> None:
    over = target()
    folder = write_drafter(tmp_path / "old", over)
    found, tokens = read_features(folder, over)
    net, others = tiny_net(over, seed=5, share=0.4)
    assert others.tolist() != tokens.tolist()
    go_on_from(folder, net, over)
    for (name, mine), (_, theirs) in zip(parameters_of(net), parameters_of(found), strict=True):
        assert torch.equal(mine, theirs), name
    assert torch.equal(net.head.weight, over.get_output_embeddings().weight[others])


def test_a_training_that_goes_on_begins_with_what_was_learnt(tmp_path: Path) -> None:
    over = target()
    answers = answer_all(
        over, [([1 + i % 20, 2 + i % 7], (0.0, 1.0)[i % 2]) for i in range(80)], 12, [], captured=False
    )
    first = Project(tmp_path / "first", replace(SETTINGS, epochs=12.0)).train(over, answers)
    start = str(tmp_path / "first")
    again = Project(tmp_path / "again", replace(SETTINGS, epochs=0.0, start=start)).train(over, answers)
    fresh = Project(tmp_path / "fresh", replace(SETTINGS, epochs=0.0)).train(over, answers)
    before, after, without = (card["held_out"]["sampled"]["tokens_per_call"][2] for card in (first, again, fresh))
    assert after > (before + without) / 2
    assert [stage["name"] for stage in again["recipe"]["stages"]] == ["three steps"]
    old = again["history"][0]
    assert (old["stage"], old["batches"]) == ("before", 0)
    assert old["sampled"]["tokens_per_call"][2] > (before + without) / 2
    assert [entry["stage"] for entry in fresh["history"]].count("before") == 0
    assert again["start"]["folder"] == "first"
    assert again["start"]["answer_tokens"] == first["answer_tokens"]
    assert "start" not in first


def test_weights_that_learn_nothing_better_stay_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = target()
    folder = write_drafter(tmp_path / "old", over)
    answers = answer_all(over, [([1 + i % 20, 2 + i % 7], 1.0) for i in range(40)], 12, [], captured=False)
    Project(tmp_path / "first", replace(SETTINGS, epochs=12.0, start=str(folder))).train(over, answers)
    monkeypatch.setattr(project, "continued", lambda recipe: replace(continued(recipe), peak=1e3))
    Project(tmp_path / "again", replace(SETTINGS, start=str(tmp_path / "first"))).train(over, answers)
    (before, _), (after, _) = (read_features(tmp_path / name, over) for name in ("first", "again"))
    for (name, mine), (_, theirs) in zip(parameters_of(before), parameters_of(after), strict=True):
        assert torch.equal(mine, theirs), name


def test_only_the_last_stage_is_trained_with_a_lower_peak() -> None:
    recipe = continued(Recipe())
    assert [(stage.steps, stage.share) for stage in recipe.stages] == [(3, 1.0)]
    assert recipe.peak == PEAK
    assert continued(Recipe(peak=1e-5)).peak == 1e-5


@pytest.mark.parametrize("name", ["layers", "hidden_size"])
def test_a_drafter_of_another_target_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_drafter(tmp_path / "old", tiny_lm(vocab=24, layers=3))
    over = target() if name == "layers" else tiny_lm(vocab=24, layers=3, seed=9)
    with pytest.raises(PairError, match="was trained for another target"):
        go_on_from(folder, tiny_net(over)[0], over)


def test_another_network_is_refused_by_name(tmp_path: Path) -> None:
    over = target()
    folder = write_form(FORMS["GRIFFIN"], tmp_path / "griffin", over)
    with pytest.raises(ModelError, match="its form is token_mlp, two, and that of --network own was asked for"):
        go_on_from(folder, tiny_net(over)[0], over)
    own = write_drafter(tmp_path / "own", over)
    for network, cause in (
        ("griffin", "token_mlp, two was asked for"),
        ("eagle3", "is for networks of our own layout"),
    ):
        project = Project(tmp_path / "new", Settings(network=network, start=str(own)))
        with pytest.raises(ModelError, match=cause):
            project.refuse_unfit(over)


@pytest.mark.parametrize("network", ["eagle3", "exit", "specdec"])
def test_a_drafter_of_another_layout_is_refused(network: str, tmp_path: Path) -> None:
    over = target()
    folder = tmp_path / "other"
    folder.mkdir()
    net = Project(folder, Settings(network=network))._network(over, 24)
    net.start_from(over, torch.arange(24))
    for name, content in network_of(network, Sizes()).packed(net, torch.arange(24), over, torch.float32).items():
        (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match="holds a drafter of the layout"):
        go_on_from(folder, tiny_net(over)[0], over)
    assert network in NETWORKS


def test_what_is_no_drafter_is_refused(tmp_path: Path) -> None:
    over = target()
    over.save_pretrained(tmp_path / "model")
    for folder, said in ((tmp_path / "model", "holds no drafter"), (tmp_path / "absent", "there is no such folder")):
        with pytest.raises(ModelError, match=said):
            go_on_from(folder, tiny_net(over)[0], over)
    broken = write_drafter(tmp_path / "broken", over)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelError):
        go_on_from(broken, tiny_net(over)[0], over)
    shutil.rmtree(broken)


def test_the_card_says_what_was_gone_on_from(tmp_path: Path) -> None:
    assert about(tmp_path) == {"folder": tmp_path.name}
    (tmp_path / "card.json").write_text(json.dumps({"answer_tokens": {"train": 3}, "history": [1]}))
    assert about(tmp_path) == {"folder": tmp_path.name, "answer_tokens": {"train": 3}}
    for broken in ("[]", "{", "3", '"answer_tokens"'):
        (tmp_path / "card.json").write_text(broken)
        assert about(tmp_path) == {"folder": tmp_path.name}
