"""The text: the files of a Python standard library, split into what is trained on and what is held out, as tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from draftgraph.lab.train.errors import PairTrainingError
from draftgraph.lab.train.tokenizer import encode_texts, train_tokenizer, wrap_tokenizer

# Tests repeat the same assertions, and the rest is machine-written tables: neither teaches how code reads.
SKIPPED_FOLDERS = frozenset(
    {
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idle_test",
        "encodings",
        "pydoc_data",
        "__pycache__",
    }
)
HELD_OUT_PERCENT = 3


def collect_sources(root: Path) -> list[Path]:
    """The .py files of a standard library at `root`, without tests, installed packages and generated tables."""
    if not root.is_dir():
        raise PairTrainingError(
            f"The text was to come from {root}, which is not a folder. Pass a folder that holds Python files."
        )
    return sorted(path for path in root.rglob("*.py") if not _is_skipped(path.relative_to(root)))


def _is_skipped(relative: Path) -> bool:
    return not SKIPPED_FOLDERS.isdisjoint(relative.parts[:-1]) or relative.name.startswith("_sysconfigdata")


def split_sources(paths: list[Path], root: Path) -> tuple[list[Path], list[Path]]:
    """Training files and held-out files.

    The choice hangs on a hash of the file's name, so that it is the same on every machine and does not depend on which
    other files exist.
    """
    held_out = [path for path in paths if _hash_percent(path.relative_to(root)) < HELD_OUT_PERCENT]
    chosen = set(held_out)
    return [path for path in paths if path not in chosen], held_out


def _hash_percent(relative: Path) -> int:
    return int(hashlib.sha256(relative.as_posix().encode()).hexdigest(), 16) % 100


def read_texts(paths: list[Path]) -> list[str]:
    """The files' contents; bytes that are not UTF-8 are dropped, as a handful of old files are Latin-1."""
    return [path.read_text(encoding="utf-8", errors="ignore") for path in paths]


@dataclass(frozen=True)
class Text:
    """The tokenizer and the two halves of the text it has encoded."""

    tokenizer: PreTrainedTokenizerFast
    train: Tensor
    held_out: Tensor
    held_out_bytes_per_token: float


def prepare_text(root: Path, checkpoints: Path, vocab: int) -> Text:
    """Collects and encodes the text; a tokenizer that an earlier run left is used again."""
    train, held_out = (read_texts(paths) for paths in split_sources(collect_sources(root), root))
    if not train or not held_out:
        raise PairTrainingError(
            f"{root} gave {len(train)} training and {len(held_out)} held-out files; "
            "both are needed. "
            "Train on a folder with more Python files."
        )
    saved = checkpoints / "tokenizer.json"
    if saved.exists():
        tokenizer = wrap_tokenizer(Tokenizer.from_file(str(saved)))
    else:
        tokenizer = train_tokenizer(train, vocab)
        tokenizer.backend_tokenizer.save(str(saved))
    held_out_tokens = encode_texts(tokenizer, held_out)
    held_out_bytes = sum(len(text.encode()) for text in held_out)
    return Text(
        tokenizer,
        encode_texts(tokenizer, train),
        held_out_tokens,
        held_out_bytes / held_out_tokens.numel(),
    )
