"""A tiny target and drafter in folders, as users have them."""

from __future__ import annotations

from pathlib import Path

from models import byte_tokenizer, perturbed, tiny_lm


def save_pair(folder: Path, family: str = "llama", noise: float = 0.05) -> tuple[Path, Path]:
    """Write a random target with a byte-level tokenizer, and a drafter that agrees with it in part; their folders."""
    target = tiny_lm(family, vocab=256, window=256)
    for name, model in (("target", target), ("drafter", perturbed(target, noise))):
        model.save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)
    return folder / "target", folder / "drafter"
