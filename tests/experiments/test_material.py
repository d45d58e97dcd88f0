"""What experiments read, and what they say where it is missing."""

from __future__ import annotations

import pytest

from experiments import material, prediction, rules


def test_texts_and_beginnings_are_token_ids(tiny_material):
    pair = material.load_pair("story-124k", tiny_material)
    texts = material.held_out("story-124k", pair, tiny_material)
    assert [len(ids) for ids in texts] == [90] * 6
    assert len(material.beginnings(pair)) > 8


@pytest.mark.parametrize("experiment", [rules, prediction], ids=["rules", "prediction"])
def test_without_its_models_there_is_nothing_to_measure(experiment, tmp_path):
    with pytest.raises(SystemExit, match=r"nothing to measure: there is no .* write --data FOLDER"):
        experiment.main(["--quick", "--data", str(tmp_path), "--out", str(tmp_path)])


@pytest.mark.parametrize(
    "wrong",
    [["--temperature", "0"], ["--texts", "1"], ["--texts", "few"], ["--threads", "0"]],
    ids=["no temperature", "one text", "no number", "no thread"],
)
@pytest.mark.parametrize("experiment", [rules, prediction], ids=["rules", "prediction"])
def test_what_cannot_be_measured_is_refused(experiment, wrong, capsys):
    with pytest.raises(SystemExit):
        experiment.main(wrong)
    assert "is not possible; write a" in capsys.readouterr().err


def test_every_pair_is_explained():
    assert material.ABOUT.keys() == material.PAIRS.keys()
