"""Masked blocks as a backend: one pass gives the laws of γ tokens, further passes give guesses that know of each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch

from draftgraph.backends.base import Feed
from draftgraph.backends.blocks import BlockHandle, BlocksModel, handle_of
from draftgraph.backends.cell_rows import entering
from draftgraph.backends.fingerprint import fingerprint
from draftgraph.backends.masked_net import MaskedNet
from draftgraph.backends.ragged import named
from draftgraph.backends.taps import PREFIX, tapped

MASKED = -1
"""Stands for the token of a slot that is not filled."""
Fill = Callable[[torch.Tensor], torch.Tensor]
"""fill(logits f[n, K]) -> entries of the head i64[n] that fill n slots."""


def best(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest entries: what fills a slot is no draw, so that a draft is a function of the text."""
    return logits.argmax(dim=-1)


class MaskedModel(BlocksModel):
    """Committed tokens are read as text. With them go γ slots, which read them and each other.

    After one pass, slots are independent given the text, and the law of each is exact. With more passes, each fills the slots
    that are surest, and the others are computed anew. What then stands beside a token is no law that it was drawn from: `draws`
    allows FIXED slots only.

    net  the network. tokens  i64[K], the target's id of every entry of the head. embeddings  those of the target.
    fill  how slots are filled between passes.
    """

    taps: ClassVar[Sequence[str]] = ()

    def __init__(self, net: MaskedNet, tokens: torch.Tensor, embeddings: torch.nn.Module, fill: Fill = best) -> None:
        super().__init__(net.core, tokens)
        self.net, self.embeddings, self.fill = net, embeddings, fill
        self.draws = ("fixed", "sampled") if net.shape.passes == 1 else ("fixed",)

    @property
    def depths(self) -> int:
        return self.net.shape.slots

    @property
    def model_name(self) -> str:
        return "masked block drafter"

    @property
    def fingerprint(self) -> str:
        return f"{fingerprint(self.net)} {self.dtype} {self.net.shape} {named(self.model.config._attn_implementation)}"

    def open(self, capacity: int) -> BlockHandle:
        return BlockHandle(capacity + self.depths)

    def enter(self, feeds: Sequence[Feed], slots: Sequence[int]) -> list[int]:
        """Slots beyond the window, of which no draft speaks, stand at its last position: a table of positions has no more."""
        return [min(position, self.net.last) for position in super().enter(feeds, slots)]

    def inputs(self, feeds: Sequence[Feed]) -> dict[str, torch.Tensor]:
        parts: list[torch.Tensor] = []
        for feed in feeds:
            read = torch.tensor([*feed.committed, *feed.tokens], device=self.device)
            embedded = self.embeddings(read.clamp(min=0))
            count = len(feed.committed)
            parts += [self.net.read(embedded[:count]), self.net.filled(embedded[count:], read[count:] != MASKED)]
        return {"inputs_embeds": torch.cat(parts)[None]}

    def call(self, **inputs: Any) -> torch.Tensor:
        """Outputs f[1, rows, d] in the place of logits, before anything that the model does to logits."""
        kept, output = inputs["logits_to_keep"], f"{PREFIX}{self.net.shape.blocks}"
        with tapped(self.model, [output]) as states:
            super().call(**inputs)
        return states[output][:, -kept:] if isinstance(kept, int) else states[output][:, kept]

    def read_blocks(self, feeds: Sequence[Feed]) -> None:
        """One pass over the committed tokens of these feeds and their slots, and the further passes over slots alone."""
        slots = [[MASKED] * self.depths for _ in feeds]
        with entering(feeds):
            for number in range(self.net.shape.passes):
                asked = [
                    Feed(feed.text, () if number else feed.committed, filled, range(-1, self.depths - 1))
                    for feed, filled in zip(feeds, slots, strict=True)
                ]
                for feed, filled, scored in zip(feeds, slots, self.pass_over(asked), strict=True):
                    self._take(feed, filled, scored.logits[-self.depths :], self.net.shape.passes - number)

    def _take(self, feed: Feed, filled: list[int], outputs: torch.Tensor, passes: int) -> None:
        """Keep the outputs f[γ, d] of slots that were open, and fill the surest of them. passes  that are left, with this one."""
        text, masked = handle_of(feed), [slot for slot, token in enumerate(filled) if token == MASKED]
        rows = outputs.clone() if len(masked) == self.depths else text.rows
        rows[masked] = outputs[masked]
        text.rows, text.anchor, text.nodes = rows, feed.committed[-1], []
        if passes > 1:
            self._fill(filled, masked, rows[masked], -(-len(masked) // passes))

    def _fill(self, filled: list[int], masked: Sequence[int], outputs: torch.Tensor, count: int) -> None:
        """Fill the `count` surest of the slots `masked`, whose outputs are f[n, d]."""
        logits = self.net.logits(outputs)
        surest = logits.softmax(dim=-1).amax(dim=-1).argsort(descending=True, stable=True)[:count]
        for place, entry in zip(surest.tolist(), self.fill(logits[surest]).tolist(), strict=True):
            filled[masked[place]] = int(self.tokens[entry])

    def head(self, outputs: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        return self.net.logits(outputs)
