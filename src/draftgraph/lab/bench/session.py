"""A session: everybody at every temperature, and what came out, however it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from draftgraph.errors import ModelError, first_line
from draftgraph.lab.bench.agreement import Departure, compare
from draftgraph.lab.bench.contenders import PLAIN, Ours, Task
from draftgraph.lab.bench.encode import Prompt
from draftgraph.lab.bench.field import Spec, line_up
from draftgraph.lab.bench.models import Models
from draftgraph.lab.bench.peers import Absent
from draftgraph.lab.bench.peers.base import Peer
from draftgraph.lab.bench.summary import Run
from draftgraph.lab.turns import Contender, Turn, take_turns

Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """What everybody does. drafted  tokens of transformers' and the peers' constant drafts. seed  of the sampled texts."""

    max_new_tokens: int
    temperatures: Sequence[float]
    repeats: int
    seed: int
    specs: Sequence[Spec]
    drafted: Sequence[int]


@dataclass(frozen=True)
class Difference:
    """A greedy text that is not that of transformers plain. ours  whether a lossless rule of draftgraph wrote it."""

    contender: str
    prompt: int
    ours: bool
    departure: Departure


@dataclass
class Measured:
    """Everything that was measured so far.

    ran      contenders that took part, in order. absent  who could not, or failed later. complete  whether nothing is missing.
    """

    runs: list[Run] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    complete: bool = False

    def wrong(self, exact: bool) -> list[str]:
        """What makes the command fail, as sentences: greedy differences of ours beyond near ties, and failures of ours.

        exact  whether the models' arithmetic is fine enough (float32 or better) for differences to count.
        """
        wide = [one for one in self.differences if exact and one.ours and not one.departure.near_tie]
        names = dict.fromkeys(one.contender for one in wide)
        found = [
            f"{name}: {sum(one.contender == name for one in wide)} greedy texts are not those of the target, beyond near ties"
            for name in names
        ]
        return [*found, *self.failed]


def measure(
    models: Models,
    prompts: Sequence[Prompt],
    settings: Settings,
    peers: Sequence[Peer],
    done: Measured,
    told: Told = lambda now, total: None,
) -> None:
    """Fill `done`, turn by turn; whatever ends this early (Ctrl-C), `done` holds every whole turn before it.

    told  hears how many runs are done, and of how many.
    Raises ModelError if transformers plain, the measure of all, fails.
    """
    fields = []
    for temperature in settings.temperatures:
        task = Task(temperature, settings.max_new_tokens)
        fields.append(line_up(models, task, settings.specs, peers, settings.drafted))
    done.absent += list({one.name: one for _, absent in fields for one in absent}.values())
    total = sum(len(contenders) for contenders, _ in fields) * (1 + len(prompts) * settings.repeats)
    count = iter(range(1, total + 1))
    for temperature, (contenders, _) in zip(settings.temperatures, fields, strict=True):
        done.ran += [one.name for one in contenders if one.name not in done.ran]
        for turn in _turns(contenders, prompts, settings, lambda _: told(next(count, total), total)):
            _enter(models, prompts, contenders, temperature, turn, done)
    done.complete = True


def _turns(
    contenders: Sequence[Contender], prompts: Sequence[Prompt], settings: Settings, tell: Callable[[str], None]
) -> Iterator[Turn]:
    try:
        yield from take_turns(
            contenders,
            [prompt.ids for prompt in prompts],
            len(prompts) * settings.repeats,
            seed=settings.seed,
            tell=tell,
            forgive=lambda one: one.name != PLAIN,
        )
    except Exception as error:
        raise ModelError(f"{PLAIN} fails, so nobody can be compared with it: {first_line(error)}") from error


def _enter(
    models: Models,
    prompts: Sequence[Prompt],
    contenders: Sequence[Contender],
    temperature: float,
    turn: Turn,
    done: Measured,
) -> None:
    by_name = {one.name: one for one in contenders}
    for name, error in turn.failed.items():
        done.absent.append(Absent(name, f"failed at temperature {temperature:g}: {first_line(error)}"))
        if isinstance(by_name[name], Ours):
            done.failed.append(f"{name} failed at temperature {temperature:g}: {first_line(error)}")
    expected = turn.timed[PLAIN].answer.ids
    for name, timed in turn.timed.items():
        answer = timed.answer
        if not answer.ids:
            done.absent.append(Absent(name, f"generated nothing for {prompts[turn.prompt].name}"))
            continue
        same = None
        if temperature == 0:
            same = answer.ids == expected
            if not same:
                _note(models, prompts, by_name[name], turn.prompt, expected, answer.ids, done)
        done.runs.append(
            Run(
                temperature, name, turn.prompt, turn.repeat, timed.place, timed.seconds, timed.on_core, len(answer.ids),
                answer.rounds, answer.nodes, same,
            )
        )  # fmt: skip


def _note(
    models: Models,
    prompts: Sequence[Prompt],
    contender: Contender,
    prompt: int,
    expected: list[int],
    got: list[int],
    done: Measured,
) -> None:
    """A difference, once per prompt."""
    if any((one.contender, one.prompt) == (contender.name, prompt) for one in done.differences):
        return
    departure = compare(models.target, prompts[prompt].ids, expected, got)
    assert departure is not None
    ours = isinstance(contender, Ours) and contender.lossless
    done.differences.append(Difference(contender.name, prompt, ours, departure))
