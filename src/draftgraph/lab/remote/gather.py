"""Ask many requests at a time, keep every answer at once, and stop in good order when someone presses Ctrl-C."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO, TypeVar

from draftgraph.errors import OptionError, brief
from draftgraph.files import BrokenFileError
from draftgraph.lab.remote.answers import Answer
from draftgraph.lab.remote.plan import Plan, Task
from draftgraph.strictjson import build, parse

LOOK_SECONDS = 0.2
"""How often the waiting thread looks for Ctrl-C."""
LEAVE_SECONDS = 5.0
"""What threads get to end once nobody waits for them."""

Item = TypeVar("Item")
Value = TypeVar("Value")
Answers = dict[Task, Answer]
Ask = Callable[[Task], Answer]
Told = Callable[[int, int], object]
"""told(done, in all)."""


@dataclass
class Gathered:
    """answers  by task. interrupted  whether someone pressed Ctrl-C before all were there."""

    answers: Answers = field(default_factory=dict)
    interrupted: bool = False


def gather(plan: Plan, ask: Ask, concurrency: int, file: Path | None, told: Told, stop: Callable[[], None]) -> Gathered:
    """Answers to all tasks of a plan. file  keeps them; those that it holds already are not asked again.

    stop  ends what is under way. The first error of a request is raised once the others have stopped; with a file nothing
    that came before is lost. Raises OptionError for a file of another plan.
    """
    found = Gathered({} if file is None else kept_answers(file, plan))
    tasks = [task for task in plan.tasks if task not in found.answers]
    total = len(tasks) + len(found.answers)
    with _keeping(file, plan, found.answers) as keep:
        try:
            for task, answer in side_by_side(tasks, ask, concurrency, stop):
                found.answers[task] = answer
                keep(task, answer)
                told(len(found.answers), total)
        except KeyboardInterrupt:
            found.interrupted = True
    return found


def side_by_side(
    items: Sequence[Item], act: Callable[[Item], Value], width: int, stop: Callable[[], None]
) -> Iterator[tuple[Item, Value]]:
    """Items with what `act` makes of them, as they come, from `width` threads. The first error is raised."""
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Item, Value | None, BaseException | None]] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((item, act(item), None))
            except BaseException as error:  # it is raised where somebody waits
                done.put((item, None, error))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(width, len(items)))]
    for thread in threads:
        thread.start()
    complete = False
    try:
        for _ in items:
            item, value, error = _next(done)
            if error is not None:
                raise error
            yield item, value  # type: ignore[misc]
        complete = True
    finally:
        ended.set()
        if not complete:
            stop()
        for thread in threads:
            thread.join(LEAVE_SECONDS)


def _next(done: queue.SimpleQueue[Value]) -> Value:
    """The next entry. It looks up now and then, so that Ctrl-C is heard on every platform."""
    while True:
        try:
            return done.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            continue


def kept_answers(file: Path, plan: Plan) -> Answers:
    """The answers that a file holds; none if there is no file. Raises OptionError for a file of another plan."""
    if not file.exists():
        return {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        header = parse(lines[0]) if lines else None
        if header != plan.to_dict():
            raise OptionError(
                f"{str(file)!r} holds the answers of another audit; write --keep with another file, or the same options and "
                f"--seed {header.get('seed') if isinstance(header, dict) else plan.seed}"
            )
        whole = lines[1:] if _ends_well(lines[-1]) else lines[1:-1]
        return dict(_entry(parse(line)) for line in whole)
    except (OSError, UnicodeError, BrokenFileError, TypeError) as error:
        raise OptionError(f"--keep cannot read {str(file)!r}: {brief(str(error))}; write another file") from None


def _ends_well(line: str) -> bool:
    """Whether the last line was written to its end."""
    try:
        parse(line)
    except BrokenFileError:
        return False
    return True


def _entry(told: Any) -> tuple[Task, Answer]:
    if not isinstance(told, dict) or set(told) != {"task", "answer"}:
        raise BrokenFileError("a line is no answer")
    task: Task = build(Task, told["task"], "task")
    answer: Answer = build(Answer, told["answer"], "answer")
    return task, answer


@contextmanager
def _keeping(file: Path | None, plan: Plan, already: Mapping[Task, Answer]) -> Iterator[Callable[[Task, Answer], None]]:
    """Yields what keeps an answer: a line each, written at once."""
    if file is None:
        yield lambda task, answer: None
        return
    try:
        stream = file.open("w", encoding="utf-8")
    except OSError as error:
        raise OptionError(f"--keep cannot write {str(file)!r}: {error.strerror}; write another file") from None
    with stream:
        _write(stream, plan.to_dict())
        for task, answer in already.items():
            _write(stream, {"task": asdict(task), "answer": asdict(answer)})

        def keep(task: Task, answer: Answer) -> None:
            _write(stream, {"task": asdict(task), "answer": asdict(answer)})

        yield keep


def _write(stream: TextIO, value: Any) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()
