"""Which tokens end a text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from draftgraph.errors import ModelError, brief
from draftgraph.values import as_integer, as_list

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig


class Said(Protocol):
    """Who says what ends a text: a transformers model, or the files of one."""

    @property
    def config(self) -> PretrainedConfig: ...
    @property
    def generation_config(self) -> GenerationConfig: ...


def eos_ids(model: Said, tokenizer: Any | None, config: GenerationConfig | None = None) -> frozenset[int]:
    """Ids that end a text: those of `config`, else the model's generation config's, its config's, or the tokenizer's.

    Negative ids are what some configurations write for none. Raises ModelError for anything that is no token id.
    """
    for source in _sources(model, tokenizer, config):
        given = getattr(source, "eos_token_id", None)
        if given is not None:
            single = as_integer(given)
            ids = [single] if single is not None else [as_integer(each) for each in as_list(given) or [None]]
            if given != [] and None in ids:
                raise ModelError(
                    f"eos_token_id={brief(given)} of the {type(source).__name__} is no token id; write a whole number, or "
                    "a list of them, into the model's generation_config.json"
                )
            return frozenset(each for each in ids if each is not None and each >= 0)
    return frozenset()


def _sources(model: Said, tokenizer: Any | None, config: GenerationConfig | None) -> Iterator[Any]:
    """In order. The model's configuration is asked for only if nothing before it says anything: reading it takes time."""
    yield config
    yield model.generation_config
    yield model.config.get_text_config(decoder=True)
    yield tokenizer
