"""`draftgraph train` as a project on disk: prompts, answers, training, drafter. Every part goes on where a killed run was.

Beside OUT, in .OUT-training, are settings.json, asked/ (what the target wrote, a file for some prompts), prompts.jsonl.gz,
answers/ (a file for some answers) and training.pt. OUT gets the drafter and its card.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import PreTrainedModel

from draftgraph.backends.features import FeatureShape, TrainedNetwork, part_of_head
from draftgraph.budget.cost_cache import machine
from draftgraph.errors import ModelError
from draftgraph.lab.train.errors import TrainingError
from draftgraph.lab.train.features.answering import Answering, answering
from draftgraph.lab.train.features.answers import (
    HELD_OUT_PERCENT,
    SUFFIX,
    Answer,
    Split,
    frequent_tokens,
    read_answers,
    read_prompts,
    split,
    write_answers,
)
from draftgraph.lab.train.features.batches import grouped
from draftgraph.lab.train.features.confidence import fit, labelled
from draftgraph.lab.train.features.loop import MEASURED_ROWS, Training
from draftgraph.lab.train.features.measure import Acceptance
from draftgraph.lab.train.features.names import OWN
from draftgraph.lab.train.features.networks import Sizes, network_of
from draftgraph.lab.train.features.own_prompts import Writing, distinct
from draftgraph.lab.train.features.reading import LiveReading
from draftgraph.lab.train.features.recipe import Recipe, Span
from draftgraph.lab.train.features.start import about, continued, go_on_from
from draftgraph.lab.train.features.stored import StoredReading
from draftgraph.lab.train.features.unroll import read_target
from draftgraph.lab.train.whole_files import write_bytes

TEMPERATURES = (0.0, 0.6, 0.8, 1.0)
TURNS = 4
"""A file of answers has so many times those that are decoded at once: only its last ones wait for each other."""
BARREN = 4
"""Files in a row without a new prompt, after which a target is taken to have no more."""
PROMPT_SEEDS = 1 << 20
"""Seeds of written prompts lie so far behind those of answers."""
PROMPTS, CARD = "prompts.jsonl.gz", "card.json"
WORTH = 1.05
"""Predicted tokens per target call below which a drafter is not worth its passes."""


@dataclass(frozen=True)
class Settings:
    """What a project was begun with; another value begins another project.

    network  "own", the network of docs/training.md, "eagle3", which other engines run as well, or one of a paper (`networks.py`).
    tokens  of new answers, about. most  tokens of one answer. batch  answers decoded at once. epochs  of training.
    layer, slots, passes  see `Sizes`. temperatures  of new answers, in turn; None: TEMPERATURES.
    own_prompts  that the target writes itself; None: none. start  folder of a drafter to go on from; None: none.
    """

    tokens: int = 500_000
    most: int = 192
    batch: int = 16
    head: int = 4096
    rows: int = 1024
    epochs: float = 6.0
    seed: int = 0
    network: str = OWN
    layer: int | None = None
    slots: int | None = None
    passes: int | None = None
    temperatures: tuple[float, ...] | None = None
    own_prompts: int | None = None
    start: str | None = None

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.layer, self.slots, self.passes)

    def to_json(self) -> str:
        """As it was written before there were several networks, where it is ours."""
        return json.dumps({name: value for name, value in asdict(self).items() if value not in (OWN, None)}, indent=1)


@dataclass
class Project:
    """out  folder of the drafter. tell  hears a line about what is done."""

    out: Path
    settings: Settings
    tell: Callable[[str], None] = lambda line: None

    @property
    def work(self) -> Path:
        out = self.out.resolve()
        return out.with_name(f".{out.name}-training")

    def begin(self) -> None:
        """Begin, or go on with the same settings. Raises TrainingError for others."""
        file, said = self.work / "settings.json", self.settings.to_json()
        if file.exists() and file.read_text() != said:
            raise TrainingError(
                f"the training in {self.work} was begun with other settings ({file}); write the same ones to go on, or delete "
                "the folder to begin anew"
            )
        write_bytes(file, said.encode())

    def refuse_unfit(self, target: PreTrainedModel) -> None:
        """Raise ModelError, before anything is decoded, for a target that the network has no place for."""
        net = self._network(target, 2).to(target.device)
        text = torch.zeros(1, 2, dtype=torch.long, device=target.device)
        found = read_target(target, text, net.shape.taps)[1].shape[-1]
        if found != net.features:
            raise ModelError(
                f"network {self.settings.network!r} reads {net.features} numbers of {', '.join(net.shape.taps)} per token, and "
                f"this target gives {found}; use another network"
            )
        self._begin_weights(net, target, torch.arange(2, device=target.device))

    def _begin_weights(self, net: TrainedNetwork, target: PreTrainedModel, tokens: torch.Tensor) -> None:
        """Fresh weights, or those of the drafter to go on from. Raises ModelError, PairError."""
        net.start_from(target, tokens)
        if self.settings.start is not None:
            go_on_from(self.settings.start, net, target)

    def _network(self, target: PreTrainedModel, tokens: int) -> TrainedNetwork:
        """A network of random weights with so many entries of the head."""
        size, network = (
            target.config.get_text_config(decoder=True),
            network_of(self.settings.network, self.settings.sizes),
        )
        shape = FeatureShape(size.hidden_size, network.taps(size.num_hidden_layers), tokens)
        return network.make(shape, target.config)

    @property
    def has_prompts(self) -> bool:
        """Whether an earlier run has made the prompts."""
        return (self.work / PROMPTS).exists()

    def prompts(self, make: Callable[[], list[list[int]]]) -> list[list[int]]:
        """The prompts as they were made in the first run."""
        file = self.work / PROMPTS
        if not self.has_prompts:
            lines = "".join(json.dumps({"p": ids}) + "\n" for ids in make())
            write_bytes(file, gzip.compress(lines.encode()))
        return read_prompts(file)

    def own_prompts(
        self,
        target: PreTrainedModel,
        writing: Writing,
        source: str | None = None,
        loading: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[list[int]]:
        """Prompts that the target writes, each once, as many as the settings say; source, loading  as for `answers`.

        Raises TrainingError for a target that writes the same ones again and again.
        """
        wanted, at_once = self.settings.own_prompts or 0, TURNS * self.settings.batch
        found: list[list[int]] = []
        answer: Answering | None = None
        number = barren = 0
        while len(found) < wanted and barren < BARREN:
            file = self.work / "asked" / f"{number:06}{SUFFIX}"
            first = number * at_once
            if not file.exists():
                answer = answer or answering(
                    target, source, writing.most, sorted(writing.ends), dict(loading), self.settings.batch
                )
                seed = PROMPT_SEEDS + self.settings.seed + number
                write_answers(file, answer(writing.asked(first, at_once), seed))
            before, found = found, distinct([*found, *writing.prompts(first, read_answers([file]))])
            barren = 0 if len(found) > len(before) else barren + 1
            number += 1
            self.tell(f"prompts: the target has written {min(len(found), wanted):,} of {wanted:,}")
        if len(found) < wanted:
            fewer = f"write --own-prompts {len(found)}, or give" if found else "give"
            raise TrainingError(
                f"the target has written {len(found)} different prompts, and {wanted} were asked for; {fewer} some with "
                "--prompts"
            )
        return found[:wanted]

    def answers(
        self,
        target: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        eos: Sequence[int],
        source: str | None = None,
        loading: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[Answer]:
        """The target's answers. Each file has a seed of its own, so that a killed run loses one file.

        source, loading  where an engine loads the target from, and how; see `answering`.
        """
        found: list[Answer] = []
        answer: Answering | None = None
        number = 0
        temperatures, at_once = self.settings.temperatures or TEMPERATURES, TURNS * self.settings.batch
        while sum(answer.num_answered for answer in found) < self.settings.tokens:
            file = self.work / "answers" / f"{number:06}{SUFFIX}"
            if not file.exists():
                answer = answer or answering(
                    target, source, self.settings.most, eos, dict(loading), self.settings.batch
                )
                first = number * at_once
                asked = [
                    (prompts[i % len(prompts)], temperatures[(i + i // len(prompts)) % len(temperatures)])
                    for i in range(first, first + at_once)
                ]
                write_answers(file, answer(asked, self.settings.seed + number))
            found += read_answers([file])
            number += 1
            self.tell(f"answers: {sum(answer.num_answered for answer in found):,} of {self.settings.tokens:,} tokens")
        return found

    def train(self, target: PreTrainedModel, answers: Sequence[Answer]) -> dict[str, Any]:
        """Train on answers, and write the drafter with its card, which is returned.

        Raises TrainingError for too few answers, and where the disk does not allow it.
        """
        parts = self._split(answers)
        if not parts.train or not parts.new_prompts:
            raise TrainingError(
                f"{len(answers)} answers leave {len(parts.train)} to train on and {len(parts.new_prompts)} held out; both are "
                "needed: give more prompts"
            )
        size = target.config.get_text_config(decoder=True)
        ids, covered = frequent_tokens(parts.train, size.vocab_size, min(self.settings.head, size.vocab_size))
        network = network_of(self.settings.network, self.settings.sizes)
        tokens = torch.tensor(network.ordered(ids), device=target.device)
        torch.manual_seed(self.settings.seed)
        net = self._network(target, len(ids)).to(target.device)
        self._begin_weights(net, target, tokens)
        recipe = Recipe(
            head=len(ids),
            rows=self.settings.rows,
            seed=self.settings.seed,
            stages=network.stages,
            objective=network.objective,
        )
        recipe = recipe if self.settings.start is None else continued(recipe)
        updates = max(2.0, self.settings.epochs * len(grouped(parts.train, recipe.rows)))
        live = LiveReading(target, part_of_head(target.get_output_embeddings(), tokens), net.shape.taps)
        held = [*parts.train, *parts.new_prompts]
        reading = StoredReading(self.work / "states", held, live, net.features, self.tell)
        training = Training(
            net, target, tokens, parts.train, parts.new_prompts, recipe, Span(updates=updates),
            self.work / "training.pt", self._told, reading=reading,
            trained_before=self.settings.start is not None,
        )  # fmt: skip
        training.run()
        if reading.folder.exists() and not (self.out / CARD).exists():
            reading.fill()  # a run that was killed after its last update measures what it would have measured
        net.eval()
        measured = training.measured.acceptance(net)
        card = self._card(training, parts, covered, measured)
        if network.trusted:
            fitted = fit(*labelled(net, target, tokens, parts.new_prompts, MEASURED_ROWS))
            card["confidence"] = None if fitted is None else {**asdict(fitted), "threshold": fitted.threshold}
        for name, content in network.packed(net, tokens, target, torch.bfloat16).items():
            write_bytes(self.out / name, content)
        self.keep_card(card)
        reading.forget()
        return card

    def held_out(self, answers: Sequence[Answer]) -> list[list[int]]:
        """The prompts of which nothing is learnt, each once."""
        prompts = [answer.ids[: answer.prompt].tolist() for answer in self._split(answers).new_prompts]
        return [list(prompt) for prompt in dict.fromkeys(map(tuple, prompts))]

    def keep_card(self, card: dict[str, Any]) -> None:
        """Write the card beside the weights. Raises TrainingError where the disk does not allow it."""
        write_bytes(self.out / CARD, json.dumps(card, indent=1).encode())

    def _split(self, answers: Sequence[Answer]) -> Split:
        prompts = {answer.ids[: answer.prompt].tobytes() for answer in answers}
        return split(answers, percent=max(HELD_OUT_PERCENT, min(30, 2000 // max(1, len(prompts)))))

    def _told(self, training: Training, loss: torch.Tensor) -> None:
        if training.position.updates % 20 == 0:
            last = f", {training.history[-1]['score']:.2f} tokens per call held out" if training.history else ""
            self.tell(f"training, {training.stage.name}: {training.progress:.0%}, loss {loss.item():.2f} nats{last}")

    def _card(
        self, training: Training, parts: Split, covered: dict[str, float], measured: dict[str, Acceptance]
    ) -> dict[str, Any]:
        """What the drafter was made from, how, and what it will be worth."""
        return {
            "target": training.target.name_or_path,
            "answer_tokens": {name: sum(a.num_answered for a in part) for name, part in vars(parts).items()},
            "settings": asdict(self.settings),
            **({} if self.settings.start is None else {"start": about(Path(self.settings.start))}),
            "recipe": asdict(training.recipe),
            "head_covers": covered,
            "held_out": {name: found.to_dict() for name, found in measured.items()},
            "seconds": {"training": round(training.position.spent, 1)},
            "machine": {**machine(training.tokens.device), "threads": str(torch.get_num_threads())},
            "worth_it": max(found.predicted for found in measured.values()) >= WORTH,
            "history": training.history,
        }
