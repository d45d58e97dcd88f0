"""Do the drafters of the papers, as rows of one machinery, keep the papers' order?

    python -m experiments.rows [--rows eagle fspad ...] [--seeds 0 1 2] [--updates 401] [--threads 1] [--quick]

Target: the 260K-parameter story model. Every drafter is trained on the same texts that it has said, for as many updates. Then it
drafts chains of five tokens, greedily, on the same held-out prompts. What was measured is kept in rows.json row by row: the same
command goes on where it was killed, and other rows join what is there. Writes rows.json and rows.md into --out.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import draftgraph as dg
from draftgraph.backends.cross import TOKENS
from draftgraph.backends.features import FeatureShape, parameters_of
from draftgraph.backends.load import load_model, load_tokenizer
from draftgraph.lab.bench.prompts import read_prompts
from draftgraph.lab.train.features.answers import Answer, read_answers, write_answers
from draftgraph.lab.train.features.generate import answer_all
from draftgraph.lab.train.features.loop import Training
from draftgraph.lab.train.features.networks import NETWORKS, Network, last_keys, published
from draftgraph.lab.train.features.recipe import Objective, Recipe, Span, Stage
from draftgraph.view.sheet import Sheet
from experiments.experiment import ROOT, Experiment, at_least, table

DEPTH = 5
"""Tokens of a chain."""
LENGTH, BATCH, RATE = 128, 8, 4e-3
"""Tokens of a text that is learnt, texts of an update, and the learning rate at its highest."""


@dataclass(frozen=True)
class Story:
    """What all rows share. texts  of the target, to learn from; held_out  to measure on while training.

    prompts  token ids of beginnings that nobody learns from. tokens  that are decoded of each. updates  of a training.
    """

    target: PreTrainedModel
    texts: Sequence[Answer]
    held_out: Sequence[Answer]
    prompts: Sequence[Sequence[int]]
    tokens: int
    updates: int


@dataclass(frozen=True)
class Ready:
    """A drafter that can be measured. options  of `Engine.from_pretrained` beside the target.

    parameters  that were trained. seconds  of CPU time that it took.
    """

    options: Mapping[str, Any]
    parameters: int
    seconds: float


@dataclass(frozen=True)
class Row:
    """about    in words. known  τ that a prototype had here, in `related_systems` of the lab book; None: not measured.

    train    story, seed and a folder that is its own and is kept: gives the drafter, at once if it has been trained there.
    against  the row that the paper improves on.
    drafts   options of the engine: how it drafts.
    """

    about: str
    train: Callable[[Story, int, Path], Ready]
    known: float | None = None
    against: str = ""
    drafts: Mapping[str, Any] = field(
        default_factory=lambda: {"structure": dg.structures.Chain(DEPTH), "budget": DEPTH}
    )


def learnt(network: Network, story: Story, seed: int, folder: Path) -> Ready:
    """Train a network of the feature machinery, or go on."""
    done, size = folder / "done.json", story.target.config
    if not done.exists():
        torch.manual_seed(seed)
        shape = FeatureShape(size.hidden_size, network.taps(size.num_hidden_layers), size.vocab_size)
        net, tokens = network.make(shape, size), torch.arange(size.vocab_size)
        net.start_from(story.target, tokens)
        recipe = Recipe(
            head=len(tokens), rows=BATCH * LENGTH, measured=4, patience=1000, peak=RATE, seed=seed,
            stages=network.stages, objective=network.objective,
        )  # fmt: skip
        training = Training(
            net,
            story.target,
            tokens,
            story.texts,
            story.held_out,
            recipe,
            Span(updates=story.updates),
            folder / "state.pt",
        )
        began = time.process_time()
        training.run()
        seconds = time.process_time() - began
        for name, content in network.packed(net, tokens, story.target, torch.float32).items():
            (folder / name).write_bytes(content)
        count = sum(weight.numel() for _, weight in parameters_of(net))
        done.write_text(json.dumps({"parameters": count, "seconds": seconds}))
    return Ready({"draft_model": folder}, **json.loads(done.read_text()))


def network(name: str) -> Callable[[Story, int, Path], Ready]:
    return partial(learnt, NETWORKS[name])


def changed(name: str, **changes: Any) -> Callable[[Story, int, Path], Ready]:
    """A network with another objective."""
    given = NETWORKS[name]
    return partial(learnt, replace(given, objective=replace(given.objective, **changes)))


PLAIN = published(TOKENS, "one", Objective(blocks=True), (Stage("texts", DEPTH, 1.0),), last_keys)
COMB = {"structure": dg.structures.Comb(), "budget": 30, "num_speculative_tokens": DEPTH}

ROWS: Mapping[str, Row] = {
    "plain": Row("one block, tokens alone", partial(learnt, PLAIN), 2.33),
    "glide": Row("GliDe: reads the target's last keys and values", network("glide"), 2.39, "plain"),
    "glide-comb": Row("the same, drafting CaPE's combs of 30", network("glide"), None, "glide", COMB),
    "eagle": Row("EAGLE: linear fusion, one head, one step", network("eagle"), 2.08),
    "fspad": Row("FSPAD: token-gated fusion, two heads", network("fspad"), 2.41, "eagle"),
    "hass": Row("HASS: EAGLE, three unrolled steps", network("hass"), 2.27, "eagle"),
    "griffin": Row("GRIFFIN: token-guided MLP, two heads, unrolled, masked", network("griffin"), 2.48, "fspad"),
    "griffin-unmasked": Row("the same without its mask", changed("griffin", agree=0), 2.54, "fspad"),
    "chimera": Row("Chimera: tri-grams, a head for every depth", network("chimera"), 2.20, "eagle"),
    "eagle3": Row("EAGLE-3 block, our staged recipe", network("eagle3")),
    "own": Row("our block, three hidden states, staged recipe", network("own"), None, "eagle"),
    "exit": Row("FREE: exit after two layers, and one block", network("exit"), 2.60, "plain"),
    "specdec": Row("SpecDec: masked blocks of five in one pass", network("specdec"), 1.58),
    "specdiff": Row("SpecDiff: the same, filled in two passes", network("specdiff")),
}
"""Rows by name, in the order of the report. Another row is another entry."""
SHARED = {"glide-comb": "glide"}
"""Rows that measure the drafter of another one."""


@dataclass(frozen=True)
class Result:
    """One row with one seed. exact  texts that are the plain ones.

    kept  by prompt, the accepted tokens of every drafting round, in digits.
    """

    row: str
    seed: int
    parameters: int
    seconds: float
    kept: list[str]
    exact: int

    @property
    def lengths(self) -> list[float]:
        """Tokens per target call, by prompt."""
        return [1 + statistics.fmean(map(int, rounds.split())) for rounds in self.kept]

    def by_position(self) -> list[float]:
        flat = [int(kept) for rounds in self.kept for kept in rounds.split()]
        counts = [sum(kept >= depth for kept in flat) for depth in range(DEPTH + 1)]
        return [after / max(1, before) for before, after in pairwise(counts)]


def measure(name: str, seed: int, story: Story, work: Path, plain: Sequence[Sequence[int]]) -> Result:
    """Train a row and let it draft. plain  the target's own texts."""
    row = ROWS[name]
    folder = work / f"{SHARED.get(name, name)}-{seed}-{story.updates}"
    folder.mkdir(parents=True, exist_ok=True)
    ready = row.train(story, seed, folder)
    engine = dg.Engine.from_pretrained(story.target, **ready.options, **row.drafts)
    kept, exact = [], 0
    for prompt, text in zip(story.prompts, plain, strict=True):
        result = engine.generate(list(prompt), dg.SamplingParams(max_new_tokens=story.tokens, ignore_eos=True))
        whole = [record for record in result.rounds if len(record.tokens) >= DEPTH]  # the first and the last draft less
        kept.append(" ".join(str(len(record.path)) for record in whole))
        exact += list(result.token_ids) == list(text)
    return Result(name, seed, ready.parameters, ready.seconds, kept, exact)


def with_error(by_seed: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean of values by seed and prompt, and its standard error: of prompts and of seeds, added as if they were independent."""
    prompts = [statistics.fmean(values) for values in zip(*by_seed, strict=True)]
    seeds = [statistics.fmean(values) for values in by_seed]
    parts = [statistics.variance(each) / len(each) if len(each) > 1 else 0.0 for each in (prompts, seeds)]
    return statistics.fmean(seeds), sum(parts) ** 0.5


def blocks(story: Story, results: Sequence[Result]) -> list[str | Sheet]:
    by_row = {name: [each for each in results if each.row == name] for name in ROWS}
    by_row = {name: each for name, each in by_row.items() if each}
    return [
        f"{len(story.texts)} texts of {LENGTH} tokens, {story.updates} updates of {BATCH} texts for every drafter. Measured on "
        f"{len(story.prompts)} held-out prompts, {story.tokens} tokens each, greedy, rounds that drafted {DEPTH} tokens or more.",
        "τ: tokens per target call, mean over seeds, with the standard error of prompts and seeds. Known: what a prototype had, "
        "one seed, standard error 0.05. CPU: seconds of training, mean. Exact: texts that are those of plain decoding.",
        table(
            ["row", "about", "trained", "CPU s", "seeds", "τ", "known", "accepted at 1, 2, …", "exact"],
            [_cells(name, each) for name, each in by_row.items()],
        ),
        "Differences are paired: of the same prompts and the same seeds.",
        table(
            ["row", "beside", "difference of τ", "standard errors", "known"],
            [
                _compared(name, by_row[name], by_row[ROWS[name].against])
                for name in by_row if ROWS[name].against in by_row
            ],
        ),
    ]  # fmt: skip


def _cells(name: str, results: Sequence[Result]) -> list[str]:
    mean, error = with_error([each.lengths for each in results])
    rates = [statistics.fmean(rates) for rates in zip(*(each.by_position() for each in results), strict=True)]
    exact, texts = sum(each.exact for each in results), sum(len(each.kept) for each in results)
    known = ROWS[name].known
    return [
        name, ROWS[name].about, f"{results[0].parameters / 1000:.0f}k", f"{statistics.fmean(e.seconds for e in results):.0f}",
        str(len(results)), f"{mean:.2f} ± {error:.2f}", "" if known is None else f"{known:.2f}",
        " ".join(f"{rate:.2f}" for rate in rates), f"{exact} of {texts}",
    ]  # fmt: skip


def _compared(name: str, results: Sequence[Result], others: Sequence[Result]) -> list[str]:
    other_by_seed = {each.seed: each for each in others}
    pairs = [(each, other_by_seed[each.seed]) for each in results if each.seed in other_by_seed]
    apart = [[a - b for a, b in zip(one.lengths, other.lengths, strict=True)] for one, other in pairs]
    mean, error = with_error(apart) if apart else (0.0, 0.0)
    known, theirs = ROWS[name].known, ROWS[ROWS[name].against].known
    said = "" if known is None or theirs is None else f"{known - theirs:+.2f}"
    return [name, ROWS[name].against, f"{mean:+.2f} ± {error:.2f}", f"{mean / error:.1f}" if error else "", said]


def story_of(options: Any, work: Path) -> Story:
    """The story model with its texts, which are made once."""
    if options.quick:
        return _small_story(options)
    folder = options.data / "models" / "stories260K"
    if not folder.is_dir():
        raise SystemExit(f"nothing to measure: there is no {folder}; write --data FOLDER")
    target = load_model(folder, torch.float32, "cpu").requires_grad_(False)
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    file = work / "texts.jsonl.gz"
    if not file.exists():
        torch.manual_seed(12345)
        asked = [([1], 1.0)] * (1024 + 32)
        write_answers(file, [each for i in range(0, len(asked), 64)
                             for each in answer_all(target, asked[i : i + 64], LENGTH - 1, [], captured=False)])  # fmt: skip
    texts = read_answers([file])
    stories = read_prompts(options.data / "prompts" / "stories_dev90.jsonl").texts[: options.prompts]
    prompts = [tokenizer(story)["input_ids"][:32] for story in stories]
    return Story(target, texts[:1024], texts[1024:], prompts, options.tokens, options.updates)


def _small_story(options: Any) -> Story:
    """A random target that says what nobody can learn, in seconds."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=24, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    target = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    texts = answer_all(target, [([1], 1.0)] * 40, LENGTH - 1, [], captured=False)
    return Story(target, texts[:32], texts[32:], [[1, 5], [1, 9, 3]], 24, min(4, options.updates))


def kept_results(experiment: Experiment, settings: Mapping[str, Any]) -> list[Result]:
    """What the file says already, of the same settings; nothing otherwise."""
    file = experiment.file.with_suffix(".json")
    said = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return [Result(**each) for each in said["results"]] if said.get("settings") == dict(settings) else []


def main(arguments: Sequence[str] | None = None) -> None:
    experiment = Experiment("rows", "Drafters of papers on the story model", __doc__, "a random target, 4 updates")
    add = experiment.parser.add_argument
    add("--rows", nargs="+", choices=[*ROWS], default=[*ROWS], help="to measure")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights and order")
    add("--updates", type=at_least(2), default=401, help="of a training")
    add("--prompts", type=at_least(2), default=24, help="held out")
    add("--tokens", type=at_least(12), default=96, help="per answer")
    add("--work", type=Path, default=ROOT / "build" / "rows", help="folder of texts and trained drafters")
    options = experiment.start(arguments)
    work = options.work / ("quick" if options.quick else "story")
    work.mkdir(parents=True, exist_ok=True)
    story = story_of(options, work)
    settings = {name: getattr(options, name) for name in ("updates", "prompts", "tokens", "threads")}
    results = kept_results(experiment, settings)
    engine = dg.Engine.from_pretrained(story.target, budget=0)
    params = dg.SamplingParams(max_new_tokens=story.tokens, ignore_eos=True)
    plain = [engine.generate(list(prompt), params).token_ids for prompt in story.prompts]
    for seed in options.seeds:
        for name in options.rows:
            if not any((each.row, each.seed) == (name, seed) for each in results):
                results.append(measure(name, seed, story, work, plain))
                print(name, seed, _cells(name, results[-1:]), flush=True)
                saved = [asdict(each) for each in results]
                experiment.save(blocks(story, results), settings=settings, results=saved)
    print(experiment.save(blocks(story, results), settings=settings, results=[asdict(each) for each in results]))


if __name__ == "__main__":
    main()
