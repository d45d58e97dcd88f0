"""A round of beams: the drafter drafts layers, the target reads them in one pass, and they are chosen one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from draftgraph.budget.limits import Windows
from draftgraph.engine.beams.beam import Beam, Finished
from draftgraph.engine.beams.choice import Choice, Pair
from draftgraph.engine.beams.forest import DraftedLayer, Forest
from draftgraph.engine.beams.texts import BeamTexts
from draftgraph.sampling.warp import Prefixes
from draftgraph.verification.beams import Chance


@dataclass
class Tally:
    """Counts of a request. layers  by target call. nodes  that were drafted."""

    layers: list[int] = field(default_factory=list)
    nodes: int = 0


@dataclass
class Run:
    """One request for beams while it runs.

    prompt   its token ids. depth  layers that are drafted per round at most. windows  how far the models read.
    choice   how layers are chosen. chances  chances(committed length) -> the random decisions of a round.
    target, drafter  what the models have cached; no drafter: nothing is drafted.
    beams    those that go on.
    """

    prompt: Sequence[int]
    depth: int
    windows: Windows
    choice: Choice
    chances: Callable[[int], Chance]
    target: BeamTexts
    drafter: BeamTexts | None
    finished: Finished
    beams: list[Beam] = field(default_factory=lambda: [Beam((), 0.0)])
    tally: Tally = field(default_factory=Tally)

    def reach(self) -> int:
        """Layers that the next round may draft."""
        length = len(self.prompt) + len(self.beams[0].tokens)
        left = self.finished.ending.limit - len(self.beams[0].tokens) - 1  # the last layer needs no draft
        if self.drafter is None or self.windows.unable(length):
            return 0
        bound = self.windows.reach(length)
        return min(self.depth, left, left if bound is None else bound)

    def rows(self, logits: torch.Tensor, beams: Sequence[Beam]) -> torch.Tensor:
        """What logits f[B, V] behind beams of one length say."""
        return self.choice.rows(logits, Prefixes(self.prompt, lambda row: beams[row].tokens))


@torch.inference_mode()
def decode_layers(run: Run) -> bool:
    """One round. It chooses one layer at least, and one more for each drafted layer of which all beams that go on were drafted.

    Returns whether the request is over.
    """
    chance = run.chances(len(run.prompt) + len(run.beams[0].tokens))
    forest = _draft(run, chance, run.reach())
    places = list(range(len(run.beams)))
    logits = run.target.read(forest, [*places, *forest.nodes])
    number = {place: row for row, place in enumerate([*places, *forest.nodes])}
    run.tally.layers.append(0)
    for depth in range(1, len(forest.layers) + 2):
        drafted = forest.layers[depth - 1] if depth <= len(forest.layers) else None
        rows = run.rows(logits[[number[place] for place in places]], run.beams)
        pairs = run.choice.pairs(run.beams, rows, drafted, places, depth, chance)
        above, over = _commit(run, pairs)
        run.tally.layers[-1] += 1
        children = [forest.child(places[pair.above], pair.token) for pair in above]
        if over or drafted is None or None in children:
            break
        places = [child for child in children if child is not None]
    if not over:
        behind = [places[pair.above] for pair in above]
        for texts in (run.target, run.drafter):
            if texts is not None:
                texts.follow(forest, behind)
    return over


def _draft(run: Run, chance: Chance, depth: int) -> Forest:
    """What the drafter expects of the next `depth` layers."""
    forest = Forest([[*run.prompt, *beam.tokens] for beam in run.beams])
    places, beams = list(range(len(run.beams))), run.beams
    for number in range(1, depth + 1):
        assert run.drafter is not None, "nothing is drafted without one"
        rows = run.rows(run.drafter.read(forest, places), beams)
        law, entries, pairs = run.choice.draft(beams, rows, number, chance)
        forest.layers.append(DraftedLayer(places, law, entries))
        going = [pair for pair in pairs if run.finished.ending.reason(pair.beam.tokens) is None]
        places = [forest.add(places[pair.above], pair.token) for pair in going]
        beams = [pair.beam for pair in going]
        if not places:
            break
    run.tally.nodes += len(forest.nodes)
    return forest


def _commit(run: Run, pairs: Sequence[Pair]) -> tuple[list[Pair], bool]:
    """Take over a layer: beams that end are finished, others go on. Returns these, and whether the request is over."""
    ending = run.finished.ending
    ended = [ending.reason(pair.beam.tokens) is not None for pair in pairs]
    most = ending.num_beams
    run.finished.add([pair.beam for pair, ends in zip(pairs[:most], ended, strict=False) if ends])
    going = [pair for pair, ends in zip(pairs, ended, strict=True) if not ends][:most]
    run.beams = [pair.beam for pair in going]
    return going, run.finished.closed(run.beams)
