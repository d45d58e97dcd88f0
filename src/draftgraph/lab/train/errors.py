"""What can go wrong while the pair is trained."""

from draftgraph.errors import DraftgraphError


class PairTrainingError(DraftgraphError):
    """Training cannot go on; the message says why and what to do."""
