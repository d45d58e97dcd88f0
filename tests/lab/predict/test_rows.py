"""Texts and the laws along them."""

from __future__ import annotations

import pytest
import torch

from draftgraph import Engine, SamplingParams
from draftgraph.backends.torch_model import TorchModel
from draftgraph.errors import OptionError
from draftgraph.lab.predict import rows as module
from draftgraph.lab.predict.rows import read_rows
from draftgraph.lab.texts import SHORTEST, WARM_UP, Text, natural_texts, own_texts
from models import perturbed, tiny_lm

LENGTHS = (9, 5, 7)


def texts(vocab: int = 64) -> list[Text]:
    generator = torch.Generator().manual_seed(0)
    return [
        Text(tuple(torch.randint(vocab, (length,), generator=generator).tolist()), 2, length - 2) for length in LENGTHS
    ]


def literal(model, text: Text, temperature: float) -> torch.Tensor:
    """The laws at the predicted positions, one forward per prefix."""
    prefixes = [torch.tensor([text.tokens[:at]]) for at in range(text.start, len(text.tokens))]
    with torch.inference_mode():
        return torch.stack([(model(input_ids=ids).logits[0, -1] / temperature).softmax(0) for ids in prefixes])


@pytest.mark.parametrize("cells", [1, 64 * 20, 2**20])
def test_rows_are_those_of_one_forward_per_prefix_however_texts_are_batched(monkeypatch, cells):
    monkeypatch.setattr(module, "PASS_CELLS", cells)
    target, drafter = tiny_lm(), perturbed(tiny_lm(), 0.3)
    found = read_rows(TorchModel(target), TorchModel(drafter), texts(), SamplingParams(temperature=0.7), 64)
    assert [span.end - span.begin for span in found.spans] == [length - 2 for length in LENGTHS]
    for laws, model in ((found.p, target), (found.q, drafter)):
        wanted = torch.cat([literal(model, text, 0.7) for text in texts()])
        torch.testing.assert_close(laws, wanted, rtol=1e-4, atol=1e-6)
    assert found.tokens.tolist() == [token for text in texts() for token in text.tokens[2:]]
    assert found.text_of.tolist() == [0] * 7 + [1] * 3 + [2] * 5


@pytest.mark.parametrize("vocab", [60, 70])
def test_a_differently_padded_drafter_is_aligned(vocab):
    drafter = tiny_lm(vocab=vocab)
    found = read_rows(TorchModel(tiny_lm()), TorchModel(drafter), texts(), SamplingParams(temperature=1.0), 64)
    assert found.q.shape == found.p.shape == (15, 64)
    assert bool((found.q[:, 60:] == 0).all()) == (vocab == 60)
    torch.testing.assert_close(found.q.sum(1), torch.ones(15))


def test_greedy_targets_are_one_hot_and_drafters_are_ranked():
    found = read_rows(TorchModel(tiny_lm()), TorchModel(tiny_lm(seed=1)), texts(), SamplingParams(temperature=0.0), 64)
    assert found.greedy
    assert bool((found.p.max(1).values == 1).all())
    assert bool((found.q.max(1).values < 1).all())


def test_options_that_read_the_prefix_shape_both_laws():
    class Never(torch.nn.Module):
        """A processor that rules the last token of the prefix out."""

        def forward(self, ids, scores):
            return scores.scatter(1, ids[:, -1:], -torch.inf)

    params = SamplingParams(temperature=1.0, logits_processors=(Never(),))
    found = read_rows(TorchModel(tiny_lm()), TorchModel(tiny_lm(seed=1)), texts(), params, 64)
    last = torch.tensor([token for text in texts() for token in text.tokens[1:-1]])[:, None]
    assert float(found.p.gather(1, last).max()) == float(found.q.gather(1, last).max()) == 0.0


def test_texts_beyond_the_memory_are_left_out(monkeypatch):
    monkeypatch.setattr(module, "MAX_CELLS", 64 * 10)
    assert len(read_rows(TorchModel(tiny_lm()), TorchModel(tiny_lm()), texts(), SamplingParams(), 64).spans) == 2
    with pytest.raises(OptionError, match="no text to read"):
        read_rows(TorchModel(tiny_lm()), TorchModel(tiny_lm()), [], SamplingParams(), 64)


def test_own_texts_are_plain_decoding_and_know_whether_they_ended():
    target = tiny_lm()
    engine = Engine.from_pretrained(target, draft_model=tiny_lm(seed=1), budget=0)
    free = own_texts(engine, [[1], [1]], SamplingParams(max_new_tokens=20, temperature=1.0, seed=3))
    assert [(text.start, text.count, text.room) for text in free] == [(1, 20, 20)] * 2
    assert free[0].tokens != free[1].tokens  # one prompt, two samples
    end = free[0].tokens[6]
    stopped = own_texts(
        engine, [[1]], SamplingParams(max_new_tokens=20, temperature=1.0, seed=3, stop_token_ids=(end,))
    )
    assert stopped[0].tokens == free[0].tokens[: free[0].tokens.index(end, 1) + 1]
    assert stopped[0].room == 20


def test_natural_texts_are_cut_into_windows():
    long = list(range(100))
    found = natural_texts([long, [1, 2, 3]], 64)
    assert [text.tokens for text in found] == [tuple(long[:64]), tuple(long[64:])]
    assert all((text.start, text.room) == (WARM_UP, len(text.tokens) - WARM_UP) for text in found)
    with pytest.raises(OptionError, match=f"{WARM_UP + SHORTEST} tokens are needed .* longest has 3"):
        natural_texts([[1, 2, 3]], 64)


def test_rows_are_those_of_the_backend_that_runs_the_models():
    pytest.importorskip("openvino")
    from draftgraph.backends.openvino.load import from_loaded

    params = SamplingParams(temperature=0.7)
    models = tiny_lm(), perturbed(tiny_lm(), 0.3)
    expected = read_rows(*map(TorchModel, models), texts(), params, 64)
    found = read_rows(*(from_loaded(model, None, None)[0] for model in models), texts(), params, 64)
    torch.testing.assert_close(found.p, expected.p, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.q, expected.q, rtol=1e-4, atol=1e-6)
    assert found.spans == expected.spans
