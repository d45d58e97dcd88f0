"""A model of transformers as files that others read: a folder for OpenVINO GenAI, and a GGUF file in q8_0 for llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from draftgraph.backends.load import load_model, read_tokenizer
from draftgraph.backends.openvino.convert import ROWS, convert
from draftgraph.backends.openvino.runtime import runtime

LLAMA = "q8_0.gguf"
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
}
"""Names of a Llama's tensors in transformers and in GGUF files."""


def make(source: Path, folder: Path) -> None:
    """Write both. Needs the packages openvino_tokenizers and gguf."""
    folder.mkdir(parents=True, exist_ok=True)
    model = load_model(source, torch.float32, "cpu")
    with torch.inference_mode():
        for_llama(model, read_tokenizer(source), folder / LLAMA)
    for_genai(model, read_tokenizer(source), folder)


def for_genai(model: Any, tokenizer: Any, folder: Path) -> None:
    """The graph that draftgraph runs, without the input that picks rows, in the float32 that GenAI asks for."""
    ov = runtime()
    from openvino_tokenizers import convert_tokenizer

    graph = convert(model, model.config.max_position_embeddings)
    rows = next(node for node in graph.get_parameters() if node.get_friendly_name() == ROWS)
    for user in list(rows.output(0).get_target_inputs()):
        gather = user.get_node()
        gather.output(0).replace(gather.input_value(0))
    graph.remove_parameter(rows)
    graph.validate_nodes_and_infer_types()
    ov.save_model(graph, folder / "openvino_model.xml", compress_to_fp16=False)
    for name, part in zip(
        ("tokenizer", "detokenizer"), convert_tokenizer(tokenizer, with_detokenizer=True), strict=True
    ):
        ov.save_model(part, folder / f"openvino_{name}.xml")
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def for_llama(model: Any, tokenizer: Any, file: Path) -> None:
    """A Llama with a byte-level tokenizer; matrices in q8_0, as `llama-quantize` makes them."""
    import gguf
    from gguf.quants import quantize

    config, writer = model.config, gguf.GGUFWriter(file, "llama")
    writer.add_name(file.parent.name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, weight in model.state_dict().items():
        if name.startswith("lm_head") and config.tie_word_embeddings:
            continue
        array = _permuted(name, weight.float(), config).numpy()
        for ours, theirs in _NAMES.items():
            name = name.replace(ours, theirs)
        packed = array.ndim == 2 and array.shape[1] % 32 == 0
        writer.add_tensor(name, quantize(array, kind) if packed else array, raw_dtype=kind if packed else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, tokenizer: Any) -> None:
    import json

    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)


def _permuted(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    """llama.cpp pairs the halves of a rotary head beside each other."""
    heads = {"q_proj.": config.num_attention_heads, "k_proj.": config.num_key_value_heads}
    for projection, count in heads.items():
        if projection in name:
            halves = weight.reshape(count, 2, weight.shape[0] // count // 2, weight.shape[1])
            return halves.swapaxes(1, 2).reshape(weight.shape)
    return weight
