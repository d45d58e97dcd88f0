"""What a server understands: which endpoint, whether it states probabilities, and of which law they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from draftgraph.errors import brief
from draftgraph.lab.remote.answers import Answer, read_answer
from draftgraph.lab.remote.client import Client, ServerError
from draftgraph.lab.remote.plan import Way, merged

PATHS = {"completions": "/completions", "chat": "/chat/completions"}
NEUTRAL = {"top_k": -1, "min_p": 0, "repetition_penalty": 1}
"""Switch off what a server may do unasked (vLLM follows generation_config.json, llama.cpp has top_k 40 and min_p 0.05)."""
LISTED = (20, 5, 0)
"""How many alternatives are asked for; the first number that a server grants. 0: none, and no probabilities."""
NOT_HERE, NOT_UNDERSTOOD = frozenset({404, 405, 501}), frozenset({400, 422})
SAME = 1e-3
"""Log-probabilities that differ by less are the same."""


@dataclass(frozen=True)
class Dialect:
    """How a server is asked.

    kind    "completions" or "chat". model  the name that it is asked for.
    listed  alternatives per token that it lists; 0 where it states no probabilities.
    neutral whether it takes the fields of NEUTRAL.
    """

    kind: str
    model: str
    listed: int
    neutral: bool

    @property
    def path(self) -> str:
        return PATHS[self.kind]

    def body(self, prompt: str, tokens: int, own: Mapping[str, Any]) -> dict[str, Any]:
        """The body of one request. own  fields that win over everything else."""
        text: dict[str, Any] = (
            {"prompt": prompt} if self.kind == "completions" else {"messages": [{"role": "user", "content": prompt}]}
        )
        listed: dict[str, Any] = {}
        if self.listed:
            chat = self.kind == "chat"
            listed = {"logprobs": True, "top_logprobs": self.listed} if chat else {"logprobs": self.listed}
        neutral = NEUTRAL if self.neutral else {}
        return merged(text, {"model": self.model, "max_tokens": tokens, "top_p": 1}, neutral, listed, own)


def find_dialect(client: Client, way: Way, kind: str, listed: bool, prompt: str, own: Mapping[str, Any]) -> Dialect:
    """Ask for one token in every form, the most telling first; the first form that is answered.

    kind    "auto", "completions" or "chat". listed  whether probabilities are wanted.
    Raises ServerError with the server's own words if none is.
    """
    name = way.model or _first_model(client)
    kinds = tuple(PATHS) if kind == "auto" else (kind,)
    refusal: ServerError | None = None
    missing: set[str] = set()
    for dialect in _forms(kinds, name, listed):
        if dialect.kind in missing:
            continue
        try:
            answer = _asked(client, dialect, prompt, merged(own, way.body))
        except ServerError as error:
            if error.status not in NOT_HERE | NOT_UNDERSTOOD:
                raise
            refusal = error
            missing |= {dialect.kind} if error.status in NOT_HERE else set()
            continue
        if dialect.listed and not any(answer.likeliest):
            continue  # it takes the field, and states nothing
        return dialect
    assert refusal is not None
    raise refusal


def states_raw(client: Client, dialect: Dialect, prompt: str, own: Mapping[str, Any]) -> bool:
    """Whether stated probabilities are the model's own, before temperature: whether they are the same at 1 and at 0.5."""
    hot, cold = (
        _asked(client, dialect, prompt, merged(own, {"temperature": temperature})).likeliest[0]
        for temperature in (1.0, 0.5)
    )
    return abs(hot[-1][1] - cold[-1][1]) < SAME


def _forms(kinds: tuple[str, ...], name: str, listed: bool) -> Iterator[Dialect]:
    for kind in kinds:
        for count in LISTED if listed else (0,):
            for neutral in (True, False):
                yield Dialect(kind, name, count, neutral)


def _asked(client: Client, dialect: Dialect, prompt: str, own: Mapping[str, Any]) -> Answer:
    return read_answer(client.ask(dialect.path, dialect.body(prompt, 1, own)))


def _first_model(client: Client) -> str:
    told = client.get("/models")
    try:
        return str(told["data"][0]["id"])
    except (LookupError, TypeError):
        raise ServerError(f"{client.address} does not list its models but {brief(told)}; write --model NAME") from None
