"""The error of a training that cannot go on as asked."""

from __future__ import annotations


class PairTrainingError(Exception):
    """Training cannot go on as asked; the message says what to change."""
