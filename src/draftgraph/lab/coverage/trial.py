"""One model type tried: a small model of it goes through real rounds, and every text is compared with `generate`.

The prompts are shorter and much longer than the windows of the layers, and texts grow over them. Drafts come from a model that
is near the target, from one of another architecture, and from the text itself; they are graphs, trees and chains.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from draftgraph.engine.engine import Engine
from draftgraph.errors import DraftgraphError, first_line
from draftgraph.lab.coverage.models import Reference, UnusableError, near, reference, stranger, target
from draftgraph.lab.coverage.small import VOCAB, named_types
from draftgraph.lab.coverage.table import CRASHED, EQUAL, REFUSED, TORCH, UNUSABLE, WRONG, Found, Row
from draftgraph.request.result import Result

SHORT, LONG = 12, 300
"""Tokens of the two prompts."""
TOKENS = {SHORT: 36, LONG: 20}
"""Tokens generated after each. The short text grows over the windows (`small.SPAN`)."""
BUDGET, SEED = 12, 7
NEAR_TIE = 1e-4
"""Two logits are as good as equal if they differ by less than this share of their row's standard deviation."""
Texts = dict[int, Reference]
"""What transformers says after the prompts, by their lengths."""


class WrongError(Exception):
    """A text is not that of `generate`."""


def examine(name: str, backends: list[str]) -> Row:
    """Try a model type on each backend. Never raises."""
    class_name = named_types()[name]
    try:
        model = target(name, prompt(SHORT), TOKENS[SHORT])
        texts = {length: reference(model, prompt(length), tokens) for length, tokens in TOKENS.items()}
    except UnusableError as error:
        return Row(name, class_name, {backend: Found(UNUSABLE, (), str(error)) for backend in backends})
    except Exception as error:
        why = f"its generate fails after {LONG} tokens: {first_line(error)}"
        return Row(name, class_name, {backend: Found(UNUSABLE, (), why) for backend in backends})
    return Row(name, type(model).__name__, {backend: _found(model, texts, backend) for backend in backends})


def prompt(length: int) -> list[int]:
    """Token ids that do not repeat soon; none is a special one of most configurations."""
    return [4 + (7 * i * i + 3 * i) % (VOCAB - 12) for i in range(length)]


def _found(model: PreTrainedModel, texts: Texts, backend: str) -> Found:
    drafts: tuple[str, ...] = ()
    try:
        drafts = _tried(model, texts, backend)
    except WrongError as error:
        return Found(WRONG, (), str(error))
    except DraftgraphError as error:
        return Found(REFUSED, (), str(error))
    except Exception as error:
        return Found(CRASHED, (), first_line(error)[:300])
    return Found(EQUAL, drafts)


def _tried(model: PreTrainedModel, texts: Texts, backend: str) -> tuple[str, ...]:
    """Structures whose drafts leave every text as it is. Raises WrongError, and what engines raise.

    Other backends than torch convert the models for every engine, which takes its time: fewer engines are made there.
    """
    common: dict[str, Any] = {"backend": backend, "budget": BUDGET}
    first = Engine.from_pretrained(model, draft_model=near(model), **common)
    drafts = [_compared(first, texts, length).stats.structure for length in TOKENS]
    others = ("tree", "chain") if backend == TORCH else ("chain",)
    for structure in others if first.target.branches else ():
        engine = Engine.from_pretrained(model, draft_model=near(model), structure=structure, **common)
        drafts += [_compared(engine, texts, length).stats.structure for length in TOKENS]
    if backend == TORCH:
        for drafter in (stranger(), None):
            _compared(Engine.from_pretrained(model, draft_model=drafter, **common), texts, LONG)
        _same_with_a_seed(model, common | {"rule": "agree"})
    return tuple(dict.fromkeys(drafts))


def _compared(engine: Engine, texts: Texts, length: int) -> Result:
    expected = texts[length]
    result = engine.generate(prompt(length), max_new_tokens=len(expected.text), ignore_eos=True)
    place = next(
        (i for i, pair in enumerate(zip(expected.text, result.token_ids, strict=False)) if len({*pair}) > 1), None
    )
    if place is None and len(result.token_ids) == len(expected.text):
        return result
    if place is None:
        raise WrongError(f"{result.stats.structure}: the text ends after {len(result.token_ids)} tokens")
    row = expected.rows[place]
    gap = float(row[expected.text[place]] - row[result.token_ids[place]])
    if gap > NEAR_TIE * float(row[torch.isfinite(row)].std()):
        raise WrongError(
            f"{result.stats.structure}: token {place} after a prompt of {length} differs by {gap:.2g} in its logits"
        )
    return result


def _same_with_a_seed(model: PreTrainedModel, options: dict[str, Any]) -> None:
    """With the rule "agree" a seed's text is that without drafts."""
    engines = (
        Engine.from_pretrained(model, draft_model=near(model), **options),
        Engine.from_pretrained(model, **options | {"budget": 0}),
    )
    asked: dict[str, Any] = {"max_new_tokens": TOKENS[SHORT], "temperature": 1.0, "seed": SEED, "ignore_eos": True}
    drafted, plain = (engine.generate(prompt(SHORT), **asked).token_ids for engine in engines)
    if drafted != plain:
        raise WrongError("a seed gives another text with drafts than without")
