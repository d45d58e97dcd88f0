"""The network of early exits (FREE, arXiv 2310.05424): the target's first layers, one block of its own, the target's head.

    h = layer k − 1(… layer 0(embedding of the tokens))     the target's own weights, which are not copied
    output = final norm(block(h));  logits = head(output), over a part of the vocabulary

A row of a drafted token is computed as that of a committed one, so that an accepted row stays, and deep drafts are as good as
short ones. Its keys in the first layers are those that a plain forward of the target would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import PretrainedConfig

from draftgraph.backends.ends import Ends
from draftgraph.backends.features import FeatureShape, TextNetwork, build_core, part_of_head, with_layers
from draftgraph.backends.taps import decoder_layers
from draftgraph.errors import ModelError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRIED_TOKENS = 5
CLOSE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""By type, how far hidden states of one text may be apart, as a share of the largest."""
CLOSE_NARROW = 0.05


@dataclass(frozen=True)
class ExitShape(FeatureShape):
    """layer  layers of the target that are run; their output is what its layer of that number reads."""

    layer: int = 1


class ExitNet(TextNetwork):
    """shape  its sizes. core  a causal LM of `shape.layer` layers of the target, one of its own, and a head of K entries."""

    shape: ExitShape

    def __init__(self, shape: ExitShape, config: PretrainedConfig) -> None:
        """Raises ModelError for a target that has no layer behind those."""
        super().__init__()
        layers = config.get_text_config(decoder=True).num_hidden_layers
        if not 1 <= shape.layer < layers:
            raise ModelError(
                f"the target has {layers} layers, so that an exit after {shape.layer} is not possible; write 1 to {layers - 1}"
            )
        self.shape = shape
        self.core = build_core(with_layers(config, [*range(shape.layer), layers - 1]), shape.tokens)

    @property
    def head(self) -> nn.Module:
        return cast(nn.Module, self.core.get_output_embeddings())

    @property
    def block(self) -> nn.Module:
        """What is trained."""
        return decoder_layers(self.core)[1][self.shape.layer]

    @property
    def borrowed(self) -> Sequence[nn.Module]:
        decoder, layers = decoder_layers(self.core)
        return (
            *super().borrowed,
            *layers[: self.shape.layer],
            *(part for part in decoder.children() if part is not layers),
        )

    def train(self, mode: bool = True) -> ExitNet:
        super().train(mode)
        for part in self.borrowed:
            part.eval()
        return self

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """What `steps` gives: logits f[…, K] after all that the target does to them, as drafts are drawn from."""
        return outputs

    def steps(self, tokens: torch.Tensor, embedded: torch.Tensor, count: int) -> list[torch.Tensor]:
        """All steps are rows of one pass: that of a drafted token is that of the same token once it is committed."""
        trained = next(self.block.parameters()).dtype  # wider than the target's while it is trained
        mixed = trained != self.core.get_input_embeddings().weight.dtype
        with torch.autocast(tokens.device.type, dtype=torch.bfloat16) if mixed else nullcontext():
            outputs = self.core(input_ids=tokens, use_cache=False).logits
        return [outputs.roll(-step, dims=1) for step in range(count)]  # rows beyond the end are never learnt

    @torch.no_grad()
    def start_from(self, target: PreTrainedModel, tokens: torch.Tensor) -> None:
        """Begin as the layer of the target that would come next. Raises ModelError for a target that cannot be cut."""
        self.borrow(target, tokens)
        self.block.load_state_dict(decoder_layers(target)[1][self.shape.layer].state_dict())

    @torch.no_grad()
    def borrow(self, target: Ends, tokens: torch.Tensor) -> None:
        """Take the target's weights, without copying them, and the rows of its head for `tokens` i64[K].

        Raises ModelError for a target whose first layers do not run alone as they run inside it.
        """
        decoder, layers = decoder_layers(target)
        own, own_layers = decoder_layers(self.core)
        pairs: list[tuple[Any, nn.Module]] = list(zip(own_layers[: self.shape.layer], layers, strict=False))
        embeddings = self.core.get_input_embeddings()
        others = [name for name, part in own.named_children() if part is not own_layers and part is not embeddings]
        pairs += [(getattr(own, name), cast(nn.Module, getattr(decoder, name, None))) for name in others]
        try:
            for mine, theirs in pairs:
                mine.load_state_dict(theirs.state_dict(), assign=True)
        except (AttributeError, RuntimeError) as error:
            raise ModelError(_uncut(self.core, first_line(error))) from error
        self.core.set_input_embeddings(target.get_input_embeddings())
        head = part_of_head(target.get_output_embeddings(), tokens)
        self.core.set_output_embeddings(head.to(target.device, target.dtype))
        self.to(target.device)
        for part in self.borrowed:
            part.requires_grad_(False).eval()
        self._refuse_other_rows(decoder, layers)

    def _refuse_other_rows(self, decoder: nn.Module, layers: nn.ModuleList) -> None:
        """Raise ModelError if the first layers give something else here than in the target."""
        own, own_layers = decoder_layers(self.core)
        embeddings = self.core.get_input_embeddings().weight
        text = torch.arange(TRIED_TOKENS, device=embeddings.device)[None] % len(embeddings)
        expected = _read_by(decoder, layers[self.shape.layer], text)
        found = _read_by(own, own_layers[self.shape.layer], text)
        bound = CLOSE.get(expected.dtype, CLOSE_NARROW) * float(expected.abs().max())
        if not float((found - expected).abs().max()) <= bound:
            raise ModelError(_uncut(self.core, "they give other hidden states alone"))


class _Reached(Exception):  # noqa: N818  # a way out of a forward, not an error
    """A forward has come to the layer that was asked about."""


def _read_by(decoder: nn.Module, layer: nn.Module, text: torch.Tensor) -> torch.Tensor:
    """What a layer reads, f[1, n, d], when the decoder reads a text i64[1, n]; later layers are not run."""
    seen: list[torch.Tensor] = []

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])
        raise _Reached

    hook = layer.register_forward_pre_hook(leave, with_kwargs=True)
    try:
        decoder(input_ids=text, use_cache=False)
    except _Reached:
        pass
    finally:
        hook.remove()
    return seen[0]


def _uncut(core: PreTrainedModel, cause: str) -> str:
    return (
        f"the first layers of this {type(core).__name__} do not run without the others ({cause}); train another network"
    )
