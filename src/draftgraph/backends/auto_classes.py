"""Which auto class of transformers knows a configuration: models of text, or of more, which are used for text alone."""

from __future__ import annotations

import logging
from typing import Any

import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig

OTHERS = (AutoModelForImageTextToText, getattr(transformers, "AutoModelForMultimodalLM", None))
"""Where models are that read pictures or sounds beside text. Older versions have only the first."""


def auto_class(config: PretrainedConfig) -> Any:
    """The auto class that loads a model as a language model; that of causal language models where none knows it."""
    if _knows(AutoModelForCausalLM, config) or "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return AutoModelForCausalLM
    other = next((each for each in OTHERS if each is not None and _knows(each, config)), None)
    if other is None:
        return AutoModelForCausalLM
    logging.getLogger(__name__).warning(
        "%s is a model of more than text (%s); draftgraph reads and writes text alone",
        config.name_or_path or config.model_type,
        config.model_type,
    )
    return other


def _knows(each: Any, config: PretrainedConfig) -> bool:
    return type(config) in each._model_mapping
