"""Models that number positions themselves: by the rows of a pass, or from their padding token on. The text is `generate`'s."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

import draftgraph as dg
from draftgraph.backends.base import Feed
from draftgraph.backends.positions import numbers_from_padding, placed, position_tables
from draftgraph.backends.probe import honours_masks
from draftgraph.backends.torch_model import TorchModel
from draftgraph.errors import ModelError
from draftgraph.types import ROOT
from models import perturbed, plain, tiny_lm

DECODER = {
    "tie_word_embeddings": False, "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
    "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 48,
}  # fmt: skip
BY_ROWS: dict[str, dict[str, Any]] = {"bart": DECODER, "mvp": DECODER, "pegasus": DECODER, "marian": DECODER}
FROM_PADDING: dict[str, dict[str, Any]] = {
    "roberta": {"is_decoder": True, "pad_token_id": 1, "tie_word_embeddings": False},
    "camembert": {"is_decoder": True, "pad_token_id": 3, "tie_word_embeddings": False},
}
PROMPT = [(7 * i * i + 3 * i) % 61 for i in range(300)]


def model(family: str) -> PreTrainedModel:
    return tiny_lm(family, window=400, **(BY_ROWS | FROM_PADDING)[family])


@pytest.mark.parametrize("structure", ["graph", "chain"])
@pytest.mark.parametrize("family", [*BY_ROWS, *FROM_PADDING])
def test_the_text_is_that_of_transformers(family: str, structure: str) -> None:
    """The prompts hold the padding tokens too."""
    lm = model(family)
    engine = dg.Engine.from_pretrained(lm, draft_model=perturbed(lm, 0.05), budget=12, structure=structure)
    engine.target.most_rows = 70  # the prompt is read in pieces
    for prompt in (PROMPT, [1, 3, 1, 7]):
        result = engine.generate(prompt, max_new_tokens=18)
        assert result.token_ids == plain(lm, prompt, 18)
        assert result.stats.num_accepted_tokens > 0


@pytest.mark.parametrize("family", BY_ROWS)
def test_without_their_own_positions_rows_are_others(family: str) -> None:
    over = TorchModel(model(family))
    assert over._tables
    assert not honours_masks(over).failed
    over._tables = []
    assert honours_masks(over).failed


@pytest.mark.parametrize("family", FROM_PADDING)
def test_positions_count_from_0_as_generate_counts_them(family: str) -> None:
    over = TorchModel(model(family))
    assert numbers_from_padding(over.model)
    assert not honours_masks(over).failed
    over._counts_from_0 = False
    assert honours_masks(over).failed


def test_a_model_that_tells_itself_other_positions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own preparation for `generate` numbers them from the padding token on, as its forward does."""
    lm = model("roberta")
    prepare = type(lm).prepare_inputs_for_generation

    def own(self: Any, *arguments: Any, **options: Any) -> Any:
        prepared = prepare(self, *arguments, **options)
        return prepared | {"position_ids": prepared["position_ids"] + 2}

    monkeypatch.setattr(type(lm), "prepare_inputs_for_generation", own)
    assert not numbers_from_padding(lm)
    with pytest.raises(ModelError, match="does not honour explicit masks and positions"):
        dg.Engine.from_pretrained(lm)


def test_models_that_are_told_positions_have_no_tables_to_ask() -> None:
    for family in ("llama", "gpt2", "opt"):
        lm = tiny_lm(family)
        assert (position_tables(lm), numbers_from_padding(lm)) == ([], False)


@torch.inference_mode()
def test_requests_of_one_pass_have_positions_of_their_own() -> None:
    over = TorchModel(model("bart"))
    a, b = over.open(64), over.open(64)
    over.forward([Feed(a, PROMPT[:20], [1, 2, 3], [ROOT] * 3), Feed(b, PROMPT[20:50], [4, 5], [ROOT, 0])])
    over.keep(a, [2])
    over.keep(b, [0])
    rows = [scored.logits[-1] for scored in over.forward([Feed(b, [6], [7], [ROOT]), Feed(a, [8], [9], [ROOT])])]
    ids = [[*PROMPT[20:50], 4, 6, 7], [*PROMPT[:20], 3, 8, 9]]
    expected = [over.plain(torch.tensor([each]), 1)[0, 0] for each in ids]
    torch.testing.assert_close(torch.stack(rows), torch.stack(expected), atol=2e-4, rtol=1e-3)


@torch.inference_mode()
def test_other_threads_and_later_calls_read_the_model_as_it_is() -> None:
    lm = model("bart")
    ids = torch.tensor([PROMPT[:5]])
    expected = lm(ids).logits
    seen: list[torch.Tensor] = []

    def call() -> None:
        with torch.inference_mode():
            seen.append(lm(ids).logits)

    with placed(position_tables(lm), [9, 8, 7, 6, 5], lm.device):
        other = threading.Thread(target=call)
        other.start()
        other.join(60)
        assert not torch.equal(lm(ids).logits, expected)
    call()
    assert all(torch.equal(each, expected) for each in seen)


def test_decoders_of_speech_end_at_their_table_of_positions() -> None:
    options = {name: value for name, value in DECODER.items() if name != "tie_word_embeddings"}
    lm = tiny_lm("whisper", max_target_positions=60, max_source_positions=60, tie_word_embeddings=False, **options)
    lm.generation_config = GenerationConfig()
    del lm.config.max_position_embeddings  # real configurations have none
    engine = dg.Engine.from_pretrained(lm, draft_model=perturbed(lm, 0.05), budget=12)
    result = engine.generate(PROMPT[:30], max_new_tokens=100)
    assert (result.finish_reason, len(result.token_ids)) == ("length", 30)
    assert result.token_ids == plain(lm, PROMPT[:30], 30)
