"""What a training leaves can be loaded as any model can."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from draftgraph.lab.train.corpus import Text
from draftgraph.lab.train.export import export_pair
from draftgraph.lab.train.loop import Run
from draftgraph.lab.train.recipe import MAX_POSITION
from tiny import SOURCE, TINY, trained


def test_a_short_run_writes_loadable_folders(run: Run, text: Text, tmp_path: Path) -> None:
    target, drafters = trained(run)
    reports = export_pair(target, drafters, text, tmp_path / "out")
    assert reports[0].overlap >= reports[1].overlap
    for name, layers in (("target", TINY.target_layers), ("drafter", TINY.drafter_layers)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / name)
            tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / name)
        assert model.config.num_hidden_layers == layers
        assert model.dtype == torch.bfloat16
        assert (tokenizer.eos_token_id, model.generation_config.eos_token_id) == (0, 0)
        assert tokenizer.model_max_length == model.config.max_position_embeddings == MAX_POSITION
        assert tokenizer.decode(tokenizer.encode(SOURCE)) == SOURCE
