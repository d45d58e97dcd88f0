"""What can go wrong in training."""

from draftgraph.errors import DraftgraphError


class TrainingError(DraftgraphError):
    """Training cannot go on; the message says why and what to do."""


class PairTrainingError(TrainingError):
    """The bundled pair cannot be trained."""
