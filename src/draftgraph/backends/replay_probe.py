"""Whether a model whose layers read one path goes on from copied states as if nothing had been rejected.

As nasty as rounds are: drafts rejected at every depth, several rounds in a row, kept tokens read again, a long text in pieces,
passes of a drafter (one node each), and two texts in turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from draftgraph.backends.base import CacheHandle, Feed
from draftgraph.backends.check import Check
from draftgraph.backends.recurrent_model import RecurrentModel
from draftgraph.backends.support import evaluating
from draftgraph.errors import LogitsError, ModelError

LATE, AFFORDABLE = 272, 5e10
"""Tokens of the text, beyond the chunks that recurrent layers compute in; and rows × parameters that are affordable."""
LONG, SHORT = (2, 0, 4, 1, 4, 0), (1, 3, 0, 4)
"""Drafted tokens that are kept, round by round, of drafts of MOST."""
MOST = 4
ADVICE = "use another architecture"


@torch.inference_mode()
def replays(model: RecurrentModel, rule: str) -> Check:
    """Check that rows after rejected drafts are those of plain forwards over what was kept.

    A model that fails with several rows at once is tried with one row at a time, and stays so if that is right.
    """
    ways = [] if model.one_by_one else [None]
    check = None
    for way in [*ways, model.go_one_by_one]:
        if way is not None:
            way()
        tried = _replays(model, rule)
        if not tried.failed:
            return tried
        check = check or tried
    assert check is not None
    return check


def _replays(model: RecurrentModel, rule: str) -> Check:
    name = model.class_name
    try:
        with evaluating(model.called):
            seen, expected = _both(model)
    except (LogitsError, ModelError):
        raise
    except Exception as error:
        found = f"{name} cannot run with states that are copied ({type(error).__name__}: {error})"
        return Check(rule, "fail", found, ADVICE)
    scale = float((expected - expected.mean(dim=1, keepdim=True)).abs().max()) + 1e-6
    whole = model.dtype in (torch.float32, torch.float64) and model.rounding is None
    change = float((seen - expected).abs().max())
    if not change <= (1e-3 if whole else 0.1) * scale:
        found = f"{name} does not go on from states that were put back (its logits change by {change:.2g})"
        return Check(rule, "fail", f"{found}: it keeps states outside of its cache, or reads them in part", ADVICE)
    how = ", one row at a time" if model.one_by_one else ""
    return Check(rule, "pass", f"rejected drafts leave the logits of plain forwards to {change:.1g}{how}")


@dataclass
class _Text:
    """One request of the probe: what it will have committed, and the logits that passes gave along that way.

    rows  f[V] each, by the position of the token that they follow.
    """

    model: RecurrentModel
    handle: CacheHandle
    ids: Sequence[int]
    end: int
    rows: dict[int, torch.Tensor] = field(default_factory=dict)

    def draft(self, keep: int) -> Feed:
        """What is not cached yet, and a draft of which `keep` tokens are right."""
        right = self.ids[self.end : self.end + MOST]
        tokens = [token if i < keep else (token + 1) % self.model.vocab_size for i, token in enumerate(right)]
        return Feed(self.handle, self.ids[len(self.handle) : self.end], tokens, range(-1, MOST - 1))

    def take(self, logits: torch.Tensor, keep: int) -> None:
        self.rows.update({self.end - 1 + i: row for i, row in enumerate(logits[-MOST - 1 :][: keep + 1].float())})
        self.model.keep(self.handle, range(keep))
        self.end += keep + 1

    def node_by_node(self, keep: int) -> None:
        """As a drafter does: what is not cached yet in one pass, then a pass for every node."""
        feed = self.draft(keep)
        parts = [self.model.forward([Feed(self.handle, feed.committed)])[0].logits]
        for i, token in enumerate(feed.tokens):
            parts.append(self.model.forward([Feed(self.handle, [], [token], [i - 1])])[0].logits)
        self.take(torch.cat(parts), keep)

    def expected(self) -> torch.Tensor:
        first = min(self.rows)
        plain = self.model.plain(torch.tensor([self.ids[: self.end]]), self.end - first)[0].float()
        return plain[[position - first for position in self.rows]]


def _both(model: RecurrentModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits f[n, V] of rows of two texts: by passes over drafts, and by plain forwards."""
    size = sum(weight.numel() for weight in model.model.parameters())
    room = (len(LONG) + 2) * (MOST + 1)
    length = max(8, min(LATE, int(AFFORDABLE / max(size, 1)), (model.context_window or LATE + room) - room))
    ids = [(7 * i * i + 3 * i + 1) % model.vocab_size for i in range(length + room)]
    texts = [_Text(model, model.open(0), ids, length), _Text(model, model.open(0), ids[3:], 6)]
    try:
        if not model.one_by_one:
            model.forward([Feed(texts[0].handle, ids[: length // 2])])
        for kept in zip(LONG, SHORT, strict=False):
            feeds = [text.draft(keep) for text, keep in zip(texts, kept, strict=True)]
            for text, keep, scored in zip(texts, kept, model.forward(feeds), strict=True):
                text.take(scored.logits, keep)
        for keep in LONG[len(SHORT) :]:
            texts[0].node_by_node(keep)
        seen = torch.stack([row for text in texts for row in text.rows.values()])
        return seen, torch.cat([text.expected() for text in texts]).to(seen.device)
    finally:
        for text in texts:
            model.close(text.handle)
