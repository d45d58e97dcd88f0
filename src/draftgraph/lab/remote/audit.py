"""An audit of a server: ask, test, and say what the tests are worth.

Nothing is known of the server but what it answers. So everything that could make the answers worthless as evidence is looked
for: a server that says it drafted nothing, a switch that does not switch, two servers that state different probabilities.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from draftgraph.errors import OptionError
from draftgraph.lab.remote.answers import Answer, read_answer
from draftgraph.lab.remote.client import Client, ServerError
from draftgraph.lab.remote.gather import Gathered, Told, gather, side_by_side
from draftgraph.lab.remote.greedy import Greedy, compare_greedy
from draftgraph.lab.remote.judge import Judged, Sight, Texts, by_prompt, expected_tv, judge
from draftgraph.lab.remote.plan import DRAFTED, PLAIN, Plan, Task, merged
from draftgraph.lab.remote.probe import Dialect, find_dialect, states_raw
from draftgraph.lab.remote.stated import FILTERS

COARSEST = 0.25
"""A test that sees only larger biases than this holds nothing."""
SAME_LAW = 0.02
"""Total variation of the laws that two ways state for a first token: more is another model, template or precision."""


@dataclass(frozen=True)
class Asking:
    """How to ask.

    kind         "auto", "completions" or "chat". logprobs  "auto"; "tokens": not as a yardstick; "never".
    keys         the API key of each way. concurrency  requests at a time. seconds  that one may take.
    file         keeps answers, and is read when an audit goes on.
    """

    kind: str = "auto"
    logprobs: str = "auto"
    keys: tuple[str | None, ...] = (None, None)
    concurrency: int = 8
    seconds: float = 120.0
    file: Path | None = None


@dataclass(frozen=True)
class ServerAudit:
    """What an audit of a server found.

    verdict   "holds", "biased" or "untested". reasons  why nothing could be tested, or what weakens the test.
    servers   the address and the model of each way, and how it was asked. answers  sampled texts of each way.
    drafted   tokens that each way says it drafted for them; None where it does not say.
    judged    the tests of sampled texts; None without any. greedy  temperature 0; None if it was not asked.
    expected_tv  the bias of one position that was expected to be found with probability 0.9, before anything was asked.
    detectable   per position, the one that would have been found whatever its direction; None where nothing would.
    detectable_by_rank  at any position, the one between ranks of stated probabilities that would have been found.
    """

    plan: Plan
    verdict: str
    reasons: tuple[str, ...]
    servers: tuple[str, ...]
    answers: tuple[int, ...]
    drafted: tuple[int | None, ...]
    sight: Sight
    judged: Judged | None
    greedy: Greedy | None
    expected_tv: float
    detectable: tuple[float | None, ...]
    detectable_by_rank: float | None
    alpha: float
    interrupted: bool

    @property
    def detectable_tv(self) -> float | None:
        """Where least is seen; None where nothing is seen anywhere."""
        return max((tv for tv in self.detectable if tv is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for `json.dumps`."""
        return asdict(self) | {"detectable_tv": self.detectable_tv}


@dataclass(frozen=True)
class _Way:
    """A server that has been found to answer, and how. own  fields of its requests."""

    client: Client
    dialect: Dialect
    own: Mapping[str, Any]

    def ask(self, prompt: str, tokens: int, **more: Any) -> Answer:
        body = self.dialect.body(prompt, tokens, merged(self.own, more))
        return read_answer(self.client.ask(self.dialect.path, body))

    def __str__(self) -> str:
        return f"{self.client.address} ({self.dialect.model}, {self.dialect.kind})"


def audit_server(
    plan: Plan, asking: Asking, alpha: float, told: Told, say: Callable[[str], object]
) -> tuple[ServerAudit, Texts]:
    """Ask and test. told  progress. say  hears what will be tested, once the servers have answered.

    Returns the audit, and the plain answers per prompt (those of the only way without one).
    Raises OptionError, and ServerError for a server that does not answer.
    """
    _refuse(plan, asking, alpha)
    rng = np.random.default_rng(plan.seed)
    with ExitStack() as stack:
        ways = [_way(stack, plan, asking, number) for number in range(len(plan.ways))]
        sight, reasons = _sight(plan, asking, ways)
        expected = expected_tv(plan, sight, alpha)
        say(_expectation(plan, ways, expected))
        gathered = _gathered(plan, asking, ways, told)
        greedy = _greedy(plan, asking, ways, gathered)
    drafted, plain = by_prompt(gathered.answers, plan)
    judged = judge(drafted, plain, sight, alpha, rng) if gathered.answers else None
    tokens = tuple(_drafted(texts) for texts in (drafted, plain) if texts is not None)
    reasons += [*_doubts(drafted, plain, tokens), *_weaknesses(judged, greedy)]
    audit = ServerAudit(
        plan=plan,
        verdict=_verdict(judged, greedy, sight, _doubts(drafted, plain, tokens)),
        reasons=tuple(reasons),
        servers=tuple(map(str, ways)),
        answers=tuple(sum(map(len, texts)) for texts in (drafted, plain) if texts is not None),
        drafted=tokens,
        sight=sight,
        judged=judged,
        greedy=greedy,
        expected_tv=expected,
        detectable=() if judged is None else judged.detectable(sight.positions),
        detectable_by_rank=None if judged is None else judged.seen_by_rank(sight.positions),
        alpha=alpha,
        interrupted=gathered.interrupted,
    )
    return audit, plain or drafted


def _refuse(plan: Plan, asking: Asking, alpha: float) -> None:
    if not plan.prompts or not all(plan.prompts):
        raise OptionError("an empty prompt says nothing; write --prompt with a text as your users write it")
    if not 0.0 < alpha < 1.0:
        raise OptionError(f"alpha={alpha!r} is not possible; write a number in (0, 1), e.g. 0.01")
    if plan.temperature == 0 and not plan.greedy_tokens:
        raise OptionError("--temperature 0 with --greedy-tokens 0 asks nothing; raise one of them")
    if len(plan.ways) == 1 and asking.logprobs != "auto":
        raise OptionError(
            "one way to ask can only be tested against the probabilities that the server states; write --off with the fields "
            "that switch its drafts off, --against with the address of a server that does not draft, or --logprobs auto"
        )


def _way(stack: ExitStack, plan: Plan, asking: Asking, number: int) -> _Way:
    way = plan.ways[number]
    client = stack.enter_context(closing(Client(way.url, asking.keys[number], asking.seconds)))
    wanted = asking.logprobs != "never"
    dialect = find_dialect(client, way, asking.kind, wanted, plan.prompts[0], plan.body)
    return _Way(client, dialect, merged(plan.body, way.body))


def _sight(plan: Plan, asking: Asking, ways: Sequence[_Way]) -> tuple[Sight, list[str]]:
    """What can be looked at, and why no more. Raises ServerError where nothing can."""
    listed = min(way.dialect.listed for way in ways)
    by_token = listed > 0
    if not by_token and len(ways) == 1:
        raise ServerError(
            f"{ways[0].client.address} states no probabilities, and without them one way to ask shows nothing; write --off or "
            "--against"
        )
    if not by_token:
        return Sight(plan.tokens, False), ["the server tells no tokens, so texts were compared as a whole"]
    if asking.logprobs == "tokens" or plan.temperature == 0:
        return Sight(plan.tokens, True), []
    filters = sorted(
        {name for way in ways for name, value in way.own.items() if name in FILTERS and value not in (0, 1)}
    )
    if filters:
        why = f"stated probabilities were not used: they do not say what {', '.join(filters)} leaves of them"
        if len(ways) == 1:
            raise OptionError(f"{why}; leave that out, or write --off or --against")
        return Sight(plan.tokens, True), [why]
    raw = plan.temperature == 1.0 or states_raw(ways[0].client, ways[0].dialect, plan.prompts[0], ways[0].own)
    return Sight(plan.tokens, True, listed, 1.0 / plan.temperature if raw else 1.0), []


def _expectation(plan: Plan, ways: Sequence[_Way], expected: float) -> str:
    where = " against ".join(dict.fromkeys(map(str, ways)))
    if plan.temperature == 0:
        return f"auditing {where}: {len(plan.prompts)} greedy texts of each way"
    count = len(plan.tasks)
    return (
        f"auditing {where}: {count} texts of {plan.tokens} tokens; about TV {expected:.2g} at one position will be found with "
        "probability 0.9"
    )


def _gathered(plan: Plan, asking: Asking, ways: Sequence[_Way], told: Told) -> Gathered:
    def ask(task: Task) -> Answer:
        way, prompt = ways[task.way], plan.prompts[task.prompt]
        return way.ask(prompt, plan.tokens, temperature=plan.temperature, seed=plan.seed_of(task))

    return gather(plan, ask, asking.concurrency, asking.file, told, lambda: _close(ways))


def _greedy(plan: Plan, asking: Asking, ways: Sequence[_Way], gathered: Gathered) -> Greedy | None:
    """Texts at temperature 0: of every way, and of the plain one a second time. None if someone presses Ctrl-C."""
    if not plan.greedy_tokens or gathered.interrupted:
        return None
    turns = [*range(len(ways)), len(ways) - 1]
    items = [(turn, prompt) for turn in range(len(turns)) for prompt in range(len(plan.prompts))]

    def ask(item: tuple[int, int]) -> Answer:
        turn, prompt = item
        way: _Way = ways[turns[turn]]
        return way.ask(plan.prompts[prompt], plan.greedy_tokens, temperature=0, seed=plan.seed)

    try:
        found = dict(side_by_side(items, ask, asking.concurrency, lambda: _close(ways)))
    except KeyboardInterrupt:
        gathered.interrupted = True
        return None
    texts = [[found[turn, prompt] for prompt in range(len(plan.prompts))] for turn in range(len(turns))]
    return compare_greedy(texts[DRAFTED], texts[PLAIN] if len(ways) > 1 else [], texts[-1])


def _close(ways: Sequence[_Way]) -> None:
    """End what is under way."""
    for way in ways:
        way.client.close()


def _drafted(texts: Texts) -> int | None:
    """Drafted tokens of one way, as the server says; None if it never says."""
    told = [answer.drafted for each in texts for answer in each if answer.drafted is not None]
    return sum(told) if told else None


def _doubts(drafted: Texts, plain: Texts | None, tokens: Sequence[int | None]) -> list[str]:
    """Why the answers say nothing about drafts at all."""
    doubts = []
    if tokens[DRAFTED] == 0:
        doubts.append(
            "the server says that it drafted nothing, so no draft was tested; switch its drafts on with --on, or ask for more "
            "--tokens"
        )
    if plain is not None and tokens[PLAIN]:
        doubts.append(f"--off does not switch drafts off: the server says that it drafted {tokens[PLAIN]} tokens there")
    apart = 0.0 if plain is None else max((_apart(*pair) for pair in zip(drafted, plain, strict=True)), default=0.0)
    if apart > SAME_LAW:
        doubts.append(
            f"the two ways state different probabilities for the first token (TV {apart:.2g}): they are not the same model, "
            "template or precision, so a difference would say nothing about drafts"
        )
    return doubts


def _apart(ours: Sequence[Answer], theirs: Sequence[Answer]) -> float:
    """Total variation between the mean laws that two ways state for the first token, over the tokens that both list."""
    one, other = _mean_law(ours), _mean_law(theirs)
    return sum(abs(one[text] - other[text]) for text in one.keys() & other.keys()) / 2.0


def _mean_law(answers: Sequence[Answer]) -> Mapping[str, float]:
    stated = [dict(answer.likeliest[0]) for answer in answers if answer.likeliest]
    total: dict[str, float] = defaultdict(float)
    times = Counter(text for law in stated for text in law)
    for law in stated:
        for text, logprob in law.items():
            total[text] += float(np.exp(logprob))
    return {text: total[text] / times[text] for text in total}


def _weaknesses(judged: Judged | None, greedy: Greedy | None) -> list[str]:
    """What weakens the test, in words."""
    found = []
    if judged is not None and judged.stated is not None and not judged.word_counts:
        found.append(
            "plain texts do not follow the probabilities that the server states either. So these are not the law that it samples "
            "from (a filter that is on unasked?), or --off switches nothing off; they were left out of the verdict"
        )
    if greedy is not None and greedy.unexplained:
        found.append(
            f"{greedy.unexplained} greedy texts part and no probabilities were stated there: rounding and mistakes look alike"
        )
    return found


def _verdict(judged: Judged | None, greedy: Greedy | None, sight: Sight, doubts: Sequence[str]) -> str:
    if doubts:
        return "untested"
    if (judged is not None and judged.refuted) or (greedy is not None and greedy.wrong):
        return "biased"
    if judged is not None:
        seen = [*judged.detectable(sight.positions), judged.seen_by_rank(sight.positions)]
        blind = all(tv is None or tv > COARSEST for tv in seen)
        hidden = judged.stated is not None and not judged.word_counts
        return "untested" if blind or hidden else "holds"
    return "untested" if greedy is None or greedy.unexplained or not greedy.texts else "holds"
