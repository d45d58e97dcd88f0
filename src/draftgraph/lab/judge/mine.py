"""Which mismatches matter: the target answers, the drafter's token is put in, the target goes on, and the answer is checked.

Source: AutoJudge, arXiv 2504.20039, the search for important tokens. A border moves through the answer. The first token behind
it that the drafter would have written otherwise is exchanged. If the new answer is right it is kept, and the mismatch does not
matter; else the old one is. The answers of many questions are decoded together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors.torch
import torch

from draftgraph.backends.base import CausalLM
from draftgraph.engine.engine import Engine
from draftgraph.errors import OptionError
from draftgraph.lab.judge.journal import Journal, Progress
from draftgraph.lab.judge.questions import Check, Question
from draftgraph.lab.judge.states import first_mismatch, states_around
from draftgraph.lab.train.errors import TrainingError
from draftgraph.lab.train.whole_files import write_bytes

NOTED_SECONDS = 20.0
"""A killed run loses no more than that of an answer that is under way."""
STATES = "states"


def drafter_of(engine: Engine) -> CausalLM:
    """The draft model of an engine. Raises OptionError where there is none that reads text alone."""
    model = engine.drafter.model
    if model is None or engine.drafter.taps:
        raise OptionError(
            "mining asks a draft model what it would write after every token of an answer, which needs a model that reads text "
            "alone; give a small model with the target's tokenizer as the drafter"
        )
    return model


class Miner:
    """One mining run.

    engine  target and draft model, lossless: at temperature 0 it says what the target says.
    tap     name of the target's hidden state.
    folder  of the findings. most  tokens of an answer. batch  questions that are asked at once.
    tell    hears how many questions are done, and how many mismatches are known.
    """

    def __init__(
        self,
        engine: Engine,
        tap: str,
        questions: Sequence[Question],
        check: Check,
        folder: Path,
        most: int,
        batch: int,
        tell: Callable[[int, int], None] = lambda done, known: None,
    ) -> None:
        self.engine, self.tap, self.questions, self.check = engine, tap, questions, check
        self.folder, self.most, self.batch, self.tell = folder, most, batch, tell
        self.drafter = drafter_of(engine)
        self.journal = Journal(folder / "journal.jsonl", len(questions))

    def run(self) -> list[Progress]:
        """Mine all questions; what an earlier run has found is not asked again. Raises TrainingError."""
        try:
            asyncio.run(self._mine_all())
        finally:
            self.journal.close()
        return self.journal.found

    async def _mine_all(self) -> None:
        """Every question in turn, `batch` of them at a time. The first error ends all of them."""
        waiting = iter([number for number, known in enumerate(self.journal.found) if not known.done])

        async def work() -> None:
            for number in waiting:
                await self._mine(number)
                done = [known for known in self.journal.found if known.done]
                self.tell(len(done), sum(len(known.mismatches) for known in done))

        tasks = [asyncio.create_task(work()) for _ in range(self.batch)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _mine(self, number: int) -> None:
        """One question, from where it is."""
        prompt, known = self.questions[number].prompt, self.journal.found[number]
        if known.own is None:
            answer = await self._finished(number, [])
            self.journal.add(number, answer=answer, right=self._right(number, answer, answer))
        vocab = self.engine.target.vocab_size
        while known.right and (found := first_mismatch(self.drafter, vocab, prompt, known.answer, known.border)):
            place, token = found
            changed = await self._finished(number, [*known.answer[:place], token])
            right = self._right(number, known.own or (), changed)
            kept = {"answer": changed} if right else {}
            self.journal.add(number, at=place, token=token, important=not right, **kept)
        if known.mismatches:
            self._keep_states(number, known)
        self.journal.add(number, done=True)

    async def _finished(self, number: int, begun: list[int]) -> list[int]:
        """The answer that begins so, as the target ends it."""
        known = self.journal.found[number]
        if known.partial[: len(begun)] == begun:
            begun = list(known.partial) or begun
        if len(begun) >= self.most or (begun and begun[-1] in self.engine.eos):
            return begun
        prompt, noted = [*self.questions[number].prompt, *begun], time.monotonic()
        room = self.most - len(begun)
        async for event in self.engine.astream(prompt, max_new_tokens=room, temperature=0.0):
            begun = [*begun, *event.token_ids]
            if time.monotonic() - noted > NOTED_SECONDS:
                self.journal.add(number, partial=begun)
                noted = time.monotonic()
        return begun

    def _right(self, number: int, own: Sequence[int], answer: Sequence[int]) -> bool:
        reference = self.questions[number].reference
        reference = self._text(own) if reference is None else reference
        try:
            return bool(self.check(reference, self._text(answer)))
        except Exception as error:
            raise TrainingError(
                f"the checker failed on question {number} ({type(error).__name__}: {error}); mend it, then run the same command"
            ) from error

    def _text(self, answer: Sequence[int]) -> str:
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            raise OptionError("answers are checked as text, which needs a tokenizer; keep one beside the target")
        return str(tokenizer.decode(list(answer), skip_special_tokens=True))

    def _keep_states(self, number: int, known: Progress) -> None:
        """Write what a head learns from: the hidden states of the question's mismatches, and whether they matter."""
        prompt = self.questions[number].prompt
        before, behind = states_around(self.engine.target, self.tap, prompt, known.answer, known.mismatches)
        important = torch.tensor([mismatch.important for mismatch in known.mismatches], dtype=torch.uint8)
        content = safetensors.torch.save({"before": before, "behind": behind, "important": important})
        write_bytes(self.folder / STATES / f"{number:06}.safetensors", content)
