"""The folders that are left in the end: the target, the drafter that it accepts most from, and their figures."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from draftgraph.lab.train.corpus import Text
from draftgraph.lab.train.measure import PairReport, measure_pair


def export_pair(target: LlamaForCausalLM, drafters: list[LlamaForCausalLM], text: Text, out: Path) -> list[PairReport]:
    """Measures every drafter against the target and saves the pair that accepts most; the reports, best first."""
    measured = [
        (measure_pair(target, drafter, text.held_out, text.held_out_bytes_per_token), drafter) for drafter in drafters
    ]
    measured.sort(key=lambda pair: pair[0].overlap, reverse=True)
    save_folder(target, text.tokenizer, out / "target")
    save_folder(measured[0][1], text.tokenizer, out / "drafter")
    reports = [report for report, _ in measured]
    (out / "report.json").write_text(json.dumps([asdict(report) for report in reports], indent=2) + "\n")
    return reports


def save_folder(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A folder that AutoModelForCausalLM and AutoTokenizer load without a network; weights in bfloat16."""
    # A copy is saved, because converting in place would also round the model that the caller goes on with.
    copy = deepcopy(model).to(torch.bfloat16)
    copy.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0)
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
