"""Random EAGLE-3 checkpoints for tiny random targets, in all layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from transformers import PreTrainedModel

LAYOUTS = ("original", "sglang", "speculators")
HEADS, GROUPS, HEAD_DIM = 4, 2, 8
SPECULATORS = {
    "algorithm": "eagle3",
    "default_proposal_method": "greedy",
    "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
    "verifier": {"name_or_path": "made-up", "architectures": []},
}
Tensors = dict[str, torch.Tensor]


def tensors(
    target: PreTrainedModel,
    entries: int,
    *,
    taps: int = 3,
    layers: int = 1,
    qwen: bool = False,
    seed: int = 1,
    **norms: bool,
) -> Tensors:
    """Random tensors by their names in the layout of speculators."""
    noise = torch.Generator().manual_seed(seed)
    d, f, vocab = target.config.hidden_size, 48, target.config.vocab_size
    queries, keys = HEADS * HEAD_DIM, GROUPS * HEAD_DIM

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=noise) * (1.5 * shape[-1] ** -0.5)

    def norm(width: int) -> torch.Tensor:
        return 1.0 + 0.3 * torch.randn(width, generator=noise)

    found = {"fc.weight": random(d, taps * d), "norm.weight": norm(d), "lm_head.weight": 3.0 * random(entries, d)}
    for layer in range(layers):
        name, width = f"layers.{layer}.", 2 * d if layer == 0 else d
        found |= {
            f"{name}self_attn.{part}_proj.weight": random(rows, width)
            for part, rows in zip("qkv", (queries, keys, keys), strict=True)
        }
        found |= {f"{name}self_attn.o_proj.weight": random(d, queries)}
        found |= {f"{name}mlp.{part}_proj.weight": random(f, d) for part in ("gate", "up")}
        found |= {f"{name}mlp.down_proj.weight": random(d, f)}
        found |= {f"{name}{part}.weight": norm(d) for part in ("input_layernorm", "post_attention_layernorm")}
        if qwen:
            found |= {f"{name}self_attn.{part}_norm.weight": norm(HEAD_DIM) for part in "qk"}
    found["layers.0.hidden_norm.weight"] = norm(d)
    if norms.get("norm_before_fc"):
        found["input_norm.weight"] = norm(taps * d)
    if norms.get("fc_norm"):
        found |= {f"fc_norm.{i}.weight": norm(d) for i in range(taps)}
    if entries < vocab:
        tokens = torch.randperm(vocab, generator=noise)[:entries].sort().values
        found["d2t"] = tokens - torch.arange(entries)
        found["t2d"] = torch.zeros(vocab, dtype=torch.bool).index_fill_(0, tokens, True)
    return found


def block(target: PreTrainedModel, **more: Any) -> dict[str, Any]:
    """The fields of the draft's own blocks."""
    return {
        "hidden_size": target.config.hidden_size, "intermediate_size": 48, "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS, "head_dim": HEAD_DIM, "rms_norm_eps": 1e-5, "vocab_size": target.config.vocab_size,
        "max_position_embeddings": 64, "rope_theta": 500.0, "num_hidden_layers": 1, "model_type": "llama",
    } | more  # fmt: skip


def write_eagle3(
    folder: Path, target: PreTrainedModel, layout: str = "original", *, entries: int | None = None, qwen: bool = False,
    layers: int = 1, ids: list[int] | None = None, seed: int = 1, own: Tensors | None = None, **norms: bool,
) -> Path:  # fmt: skip
    """A folder with a random drafter. entries  of its head; None: 45. ids  explicit numbers of layers. own  more tensors."""
    entries = min(45, target.config.vocab_size) if entries is None else entries
    taps = 3 if ids is None else len(ids)
    found = tensors(target, entries, taps=taps, layers=layers, qwen=qwen, seed=seed, **norms) | (own or {})
    kind = {"model_type": "qwen3" if qwen else "llama", "num_hidden_layers": layers}
    said: dict[str, Any]
    if layout == "speculators":
        said = {
            "architectures": ["Eagle3Speculator"], "speculators_model_type": "eagle3", "draft_vocab_size": entries,
            "transformer_layer_config": block(target, **kind), "eagle_aux_hidden_state_layer_ids": ids, **norms,
            "speculators_config": SPECULATORS,
        }  # fmt: skip
    else:
        said = block(target, draft_vocab_size=entries, num_hidden_layers=7, **norms)  # which is not their number
        said["architectures"] = ["LlamaForCausalLM" if layout == "original" else "LlamaForCausalLMEagle3"]
        if ids is not None:
            said["eagle_config"] = {
                "eagle_aux_hidden_state_layer_ids": [i - 1 for i in ids],
                "use_aux_hidden_state": True,
            }
        found = {name.replace("layers.0.", "midlayer."): weight for name, weight in found.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(said))
    safetensors.torch.save_file(found, folder / "model.safetensors")
    return folder
