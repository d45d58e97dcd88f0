"""Random DFlash and DSpark checkpoints for tiny random targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from transformers import PreTrainedModel

from eagle3_folders import GROUPS, HEAD_DIM, HEADS, SPECULATORS, Tensors, block

LAYOUTS = ("original", "dflash", "dspark")
SIZE, MASK, RANK = 5, 63, 6


def tensors(target: PreTrainedModel, entries: int, *, taps: int, layers: int, rank: int = 0, seed: int = 1) -> Tensors:
    """Random tensors by their names in the layout of speculators."""
    noise = torch.Generator().manual_seed(seed)
    d, f, vocab = target.config.hidden_size, 48, target.config.vocab_size

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=noise) * (1.5 * shape[-1] ** -0.5)

    def norm(width: int) -> torch.Tensor:
        return 1.0 + 0.3 * torch.randn(width, generator=noise)

    found = {"fc.weight": random(d, taps * d), "norm.weight": norm(d), "hidden_norm.weight": norm(d)}
    for layer in range(layers):
        name = f"layers.{layer}."
        sizes = {"q": HEADS * HEAD_DIM, "k": GROUPS * HEAD_DIM, "v": GROUPS * HEAD_DIM}
        found |= {f"{name}self_attn.{part}_proj.weight": random(rows, d) for part, rows in sizes.items()}
        found |= {f"{name}self_attn.{part}_norm.weight": norm(HEAD_DIM) for part in "qk"}
        found |= {f"{name}self_attn.o_proj.weight": random(d, HEADS * HEAD_DIM)}
        found |= {f"{name}mlp.{part}_proj.weight": random(f, d) for part in ("gate", "up")}
        found |= {f"{name}mlp.down_proj.weight": random(d, f)}
        found |= {f"{name}{part}.weight": norm(d) for part in ("input_layernorm", "post_attention_layernorm")}
    if rank:
        found |= {"markov_head.markov_w1.weight": torch.randn(vocab, rank, generator=noise)}
        found |= {"markov_head.markov_w2.weight": random(entries, rank)}
    if entries < vocab:
        tokens = torch.randperm(vocab, generator=noise)[:entries].sort().values
        found["d2t"] = tokens - torch.arange(entries)
        found["t2d"] = torch.zeros(vocab, dtype=torch.bool).index_fill_(0, tokens, True)
        found["lm_head.weight"] = 3.0 * random(entries, d)
    return found


def write_dflash(
    folder: Path, target: PreTrainedModel, layout: str = "original", *, entries: int | None = None, layers: int = 2,
    ids: tuple[int, ...] = (2, 3), size: int = SIZE, anchor: bool | None = None, seed: int = 1, **more: Any,
) -> Path:  # fmt: skip
    """A folder with a random drafter. ids  numbers of the hidden states. anchor  whether its row speaks of a token as well."""
    vocab = target.config.vocab_size
    entries = vocab if entries is None else entries
    rank = RANK if layout == "dspark" else 0
    found = tensors(target, entries, taps=len(ids), layers=layers, rank=rank, seed=seed)
    blocks = block(target, model_type="qwen3", num_hidden_layers=layers)
    mask = min(MASK, vocab - 1)
    said: dict[str, Any]
    if layout == "original":
        nested = {"mask_token_id": mask, "target_layer_ids": [number - 1 for number in ids]}
        said = blocks | {
            "architectures": ["DFlashDraftModel"], "block_size": size, "dflash_config": nested,
            "num_target_layers": target.config.num_hidden_layers,
        }  # fmt: skip
    else:
        said = {
            "speculators_model_type": layout, "transformer_layer_config": blocks, "block_size": size, "mask_token_id": mask,
            "aux_hidden_state_layer_ids": list(ids), "draft_vocab_size": entries,
            "speculators_config": SPECULATORS | {"algorithm": layout},
        }  # fmt: skip
        said |= {} if anchor is None else {"sample_from_anchor": anchor}
        said |= {"markov_rank": rank, "enable_confidence_head": False} if rank else {}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(said | more))
    safetensors.torch.save_file(found, folder / "model.safetensors")
    return folder
