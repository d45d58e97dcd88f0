"""Trains the bundled pair: a one-layer drafter and a twelve-layer target grown from it.

A ten-million-parameter model trained from scratch for an hour on one core stays worse than a one-
layer model, and a pair whose target is worse than its drafter shows nothing. So the layers are
appended to the trained drafter in a way that leaves its function unchanged, and the grown model is
trained on: the target starts where the drafter ended. The drafter is then distilled from the
finished target.

    python -m draftgraph.train.pair --out DIR --minutes 50

Every stage writes checkpoints under DIR/checkpoints; the same command run again goes on from the
last one.
"""

from __future__ import annotations

import hashlib
import json
import math
import sysconfig
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
MAX_POSITION = 1024
# Tests repeat the same assertions, and the rest is machine-written tables: neither teaches how code
# reads.
SKIPPED_FOLDERS = frozenset(
    {
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idle_test",
        "encodings",
        "pydoc_data",
        "__pycache__",
    }
)
HELD_OUT_PERCENT = 3


class PairTrainingError(Exception):
    """Training cannot go on as asked; the message says what to change."""


@dataclass(frozen=True)
class Shape:
    """The width the two models share; only the number of layers differs between them."""

    vocab: int = 2048
    hidden: int = 256
    intermediate: int = 704
    heads: int = 4
    drafter_layers: int = 1
    middle_layers: int = 4
    target_layers: int = 12


@dataclass(frozen=True)
class Stage:
    """One stretch of training with its own learning-rate cycle.

    `share` is its part of the minutes, `cooldown` the part of the stage in which the rate falls to
    zero, and `long_from` the part after which windows have `long_context` tokens instead of
    `context`.
    """

    name: str
    layers: int
    share: float
    cooldown: float
    tokens_per_step: int
    context: int = 256
    long_context: int = 512
    long_from: float = 1.0
    muon_rate: float = 0.005
    adam_rate: float = 0.015
    warmup: float = 0.03


@dataclass(frozen=True)
class Run:
    """What every stage needs besides its own numbers."""

    work: Path
    minutes: float
    train: Tensor
    held_out: Tensor
    compiled: bool
    seed: int
    checkpoint_seconds: float = 90.0
    max_steps: int | None = None


def standard_stages(shape: Shape) -> list[Stage]:
    """The drafter, a half-way model and the target.

    A token costs the half-way model a third of what it costs the target, so the first part of the
    growth is cheaper there.
    """
    return [
        Stage("drafter", shape.drafter_layers, 0.18, cooldown=0.4, tokens_per_step=2048),
        Stage("middle", shape.middle_layers, 0.24, cooldown=0.0, tokens_per_step=4096),
        Stage(
            "target",
            shape.target_layers,
            0.46,
            cooldown=0.7,
            tokens_per_step=4096,
            long_from=0.6,
            muon_rate=0.004,
            adam_rate=0.008,
        ),
    ]


def distil_stage(shape: Shape) -> Stage:
    """The last stage: the drafter learns the target's probabilities instead of the text."""
    return Stage(
        "distilled",
        shape.drafter_layers,
        0.12,
        cooldown=0.8,
        tokens_per_step=2048,
        context=512,
        muon_rate=0.002,
        adam_rate=0.005,
    )


# --- the text ------------------------------------------------------------------------------------


def collect_sources(root: Path) -> list[Path]:
    """The .py files of a standard library at `root`, without tests, installed packages and
    generated tables.
    """
    if not root.is_dir():
        raise PairTrainingError(
            f"The text was to come from {root}, which is not a folder. Pass a folder that holds Python files."
        )
    return sorted(path for path in root.rglob("*.py") if not _is_skipped(path.relative_to(root)))


def _is_skipped(relative: Path) -> bool:
    return not SKIPPED_FOLDERS.isdisjoint(relative.parts[:-1]) or relative.name.startswith("_sysconfigdata")


def split_sources(paths: list[Path], root: Path) -> tuple[list[Path], list[Path]]:
    """Training files and held-out files.

    The choice hangs on a hash of the file's name, so that it is the same on every machine and does
    not depend on which other files exist.
    """
    held_out = [path for path in paths if _hash_percent(path.relative_to(root)) < HELD_OUT_PERCENT]
    chosen = set(held_out)
    return [path for path in paths if path not in chosen], held_out


def _hash_percent(relative: Path) -> int:
    return int(hashlib.sha256(relative.as_posix().encode()).hexdigest(), 16) % 100


def read_texts(paths: list[Path]) -> list[str]:
    """The files' contents; bytes that are not UTF-8 are dropped, as a handful of old files are
    Latin-1.
    """
    return [path.read_text(encoding="utf-8", errors="ignore") for path in paths]


def train_tokenizer(texts: list[str], vocab: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which no text is out of vocabulary, with one special token for beginning
    and end.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return wrap_tokenizer(tokenizer)


def wrap_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The form in which transformers saves and loads a tokenizer."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=MAX_POSITION,
        clean_up_tokenization_spaces=False,
    )


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """All texts as one row of token ids, i64[T], the end-of-text token before each and after the
    last.
    """
    end: int = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    ids = [end]
    for encoding in tokenizer.backend_tokenizer.encode_batch(texts):
        ids.extend(encoding.ids)
        ids.append(end)
    return torch.tensor(ids, dtype=torch.long)


# --- the models ----------------------------------------------------------------------------------


def model_config(shape: Shape, layers: int) -> LlamaConfig:
    """A small Llama whose only special token has id 0."""
    return LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=MAX_POSITION,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


def grow(model: LlamaForCausalLM, shape: Shape, layers: int) -> LlamaForCausalLM:
    """A deeper model that computes the same function.

    The trained layers are copied and new ones appended. The projections a new layer adds to the
    residual stream start at zero, so it adds nothing until it is trained; its other weights are
    random, because copies of one layer would all receive the same first gradients.
    """
    have = model.config.num_hidden_layers
    if layers < have:
        raise PairTrainingError(
            f"A model of {have} layers was to be grown to {layers}. Growing only adds layers: ask for {have} or more."
        )
    deeper = LlamaForCausalLM(model_config(shape, layers))
    deeper.load_state_dict(model.state_dict(), strict=False)
    for layer in deeper.model.layers[have:]:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return deeper


def make_optimizers(model: LlamaForCausalLM, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, where it needs far fewer tokens than AdamW; AdamW for
    embeddings and norms.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices,
            lr=stage.muon_rate,
            weight_decay=0.05,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(rest, lr=stage.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


# --- training ------------------------------------------------------------------------------------


def rate_factor(progress: float, warmup: float, cooldown: float) -> float:
    """The trapezoid: up over `warmup`, flat, down to zero over `cooldown`; all are fractions of the
    stage.
    """
    rise = min(1.0, (progress + 1e-3) / warmup)
    fall = min(1.0, (1.0 - progress) / cooldown) if cooldown else 1.0
    return max(0.0, min(rise, fall))


class Windows:
    """Batches of windows that cover the whole text, in random order, before any part repeats."""

    def __init__(self, tokens: Tensor, seed: int) -> None:
        self._tokens = tokens
        self._random = torch.Generator().manual_seed(seed)
        self._length = 0
        self._starts: list[int] = []

    def take(self, count: int, length: int) -> Tensor:
        """i64[count, length + 1]: inputs and, shifted by one, what they should predict."""
        if self._tokens.numel() <= 2 * length + 1:
            raise PairTrainingError(
                f"Windows of {length} tokens were asked for, but the text has only "
                f"{self._tokens.numel()} tokens. "
                "Train on a folder with more Python files."
            )
        if length != self._length:
            self._length, self._starts = length, []
        rows: list[Tensor] = []
        while len(rows) < count:
            if not self._starts:
                self._refill()
            start = self._starts.pop()
            rows.append(self._tokens[start : start + length + 1])
        return torch.stack(rows)

    def _refill(self) -> None:
        """A new pass begins at a random offset, so that the windows' borders do not fall in the
        same places.
        """
        offset = int(torch.randint(self._length, (1,), generator=self._random))
        starts = torch.arange(offset, self._tokens.numel() - self._length - 1, self._length)
        self._starts = starts[torch.randperm(len(starts), generator=self._random)].tolist()


Forward = Callable[..., Any]
Objective = Callable[[Forward, Tensor], Tensor]


def forward_of(model: LlamaForCausalLM, compiled: bool) -> Forward:
    """The model, compiled if asked for; shapes are fixed, so dynamic ones would gain nothing."""
    return torch.compile(model, dynamic=False) if compiled else model


def logits_of(forward: Forward, batch: Tensor) -> Tensor:
    """f32[rows, length, V], logits over the vocabulary (last axis), for a batch of windows."""
    return cast(Tensor, forward(input_ids=batch[:, :-1], use_cache=False).logits).float()


def next_token_loss(forward: Forward, batch: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats per token."""
    logits = logits_of(forward, batch)
    return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def distillation_loss(teacher: Forward) -> Objective:
    """The objective that moves the drafter's law q towards the target's law p: KL(p, q), less the
    entropy of p, which training cannot change.
    """

    def loss(forward: Forward, batch: Tensor) -> Tensor:
        with torch.no_grad():
            p = logits_of(teacher, batch).softmax(-1)
        return -(p * logits_of(forward, batch).log_softmax(-1)).sum(-1).mean()

    return loss


@dataclass
class Position:
    """How far a stage has come; stored in its checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    finished: bool = False


class StageRun:
    """One stage being trained: the model, its optimizers and how far it has come."""

    def __init__(self, run: Run, stage: Stage, model: LlamaForCausalLM, objective: Objective) -> None:
        self.run, self.stage, self.model, self.objective = run, stage, model, objective
        self.optimizers = make_optimizers(model, stage)
        self.position = Position()
        self.seconds = run.minutes * 60.0 * stage.share
        self.log: list[tuple[float, int, float]] = []
        self._load()

    @property
    def path(self) -> Path:
        return self.run.work / f"{self.stage.name}.pt"

    def _load(self) -> None:
        if not self.path.exists():
            return
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.position = Position(**state["position"])
        self.log = state["log"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def save(self) -> None:
        """Written beside the old checkpoint and then moved over it, so that a crash leaves one of
        the two whole.
        """
        fresh = self.path.with_suffix(".new")
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "position": asdict(self.position),
            "log": self.log,
        }
        torch.save(state, fresh)
        fresh.replace(self.path)

    @property
    def progress(self) -> float:
        """0 to 1: by steps when they are limited, else by time."""
        if self.run.max_steps is not None:
            return self.position.step / self.run.max_steps
        return self.position.seconds / self.seconds

    def train(self, report: Callable[[StageRun, float], None]) -> LlamaForCausalLM:
        """Trains until the stage's time is used up, with a checkpoint now and then."""
        forward = forward_of(self.model, self.run.compiled)
        # The seed moves with the step, so that a run that goes on after a crash does not see the
        # same windows again.
        batches = Windows(self.run.train, self.run.seed + self.position.step)
        saved = time.monotonic()
        started = saved - self.position.seconds
        while not self.position.finished:
            loss = self._step(forward, batches)
            self.position.seconds = time.monotonic() - started
            self.position.finished = self.progress >= 1.0
            report(self, loss)
            if self.position.finished or time.monotonic() - saved > self.run.checkpoint_seconds:
                self.log.append((self.position.seconds, self.position.tokens, quick_loss(self.model, self.run)))
                self.save()
                saved = time.monotonic()
        return self.model

    def _step(self, forward: Forward, batches: Windows) -> float:
        progress = self.progress
        factor = rate_factor(progress, self.stage.warmup, self.stage.cooldown)
        for optimizer, rate in zip(self.optimizers, (self.stage.muon_rate, self.stage.adam_rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        length = self.stage.long_context if progress >= self.stage.long_from else self.stage.context
        batch = batches.take(max(1, self.stage.tokens_per_step // length), length)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.objective(forward, batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.position.step += 1
        self.position.tokens += batch.numel()
        return loss.item()


# --- measuring -----------------------------------------------------------------------------------


def held_out_batches(tokens: Tensor, length: int = 512, rows: int = 8) -> Iterator[Tensor]:
    """The held-out text cut into windows that follow each other, i64[<=rows, length + 1]."""
    length = min(length, tokens.numel() - 1)
    count = (tokens.numel() - 1) // length
    cut = torch.stack([tokens[i * length : (i + 1) * length + 1] for i in range(count)])
    yield from torch.split(cut, rows)


@torch.no_grad()
def quick_loss(model: LlamaForCausalLM, run: Run) -> float:
    """Loss on an eighth of the held-out text, cheap enough to watch while training."""
    batches = list(held_out_batches(run.held_out, length=256))[::8]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [next_token_loss(model, batch).item() * len(batch) for batch in batches]
    return sum(losses) / sum(len(batch) for batch in batches)


@dataclass(frozen=True)
class PairReport:
    """Held-out figures; agreement and overlap are at temperature 1 on held-out text."""

    target_nats_per_token: float
    target_bits_per_byte: float
    drafter_nats_per_token: float
    drafter_bits_per_byte: float
    greedy_agreement: float
    overlap: float


@torch.no_grad()
def measure_pair(
    target: LlamaForCausalLM, drafter: LlamaForCausalLM, held_out: Tensor, bytes_per_token: float
) -> PairReport:
    """Both models on all of the held-out text, every token predicted from the text before it in its
    window.

    Overlap is the mean over positions of the sum over tokens of min(p, q): the chance that a
    sampled draft token is accepted. Agreement is how often both models find the same token most
    likely.
    """
    totals = torch.zeros(4, dtype=torch.float64)
    count = 0
    for batch in held_out_batches(held_out):
        p = logits_of(target, batch).log_softmax(-1)
        q = logits_of(drafter, batch).log_softmax(-1)
        gold = batch[:, 1:, None]
        totals += torch.stack(
            [
                -p.gather(-1, gold).double().sum(),
                -q.gather(-1, gold).double().sum(),
                (p.argmax(-1) == q.argmax(-1)).double().sum(),
                torch.minimum(p, q).exp().double().sum(),
            ]
        )
        count += gold.numel()
    target_nats, drafter_nats, agreement, overlap = (totals / count).tolist()
    per_byte = 1.0 / (bytes_per_token * math.log(2.0))
    return PairReport(
        target_nats,
        target_nats * per_byte,
        drafter_nats,
        drafter_nats * per_byte,
        agreement,
        overlap,
    )


# --- the whole run -------------------------------------------------------------------------------


def save_folder(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A folder that AutoModelForCausalLM and AutoTokenizer load without a network; weights in
    bfloat16.
    """
    # A copy is saved, because converting in place would also round the model that the caller goes
    # on with.
    copy = deepcopy(model).to(torch.bfloat16)
    copy.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0)
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class Text:
    """The tokenizer and the two halves of the text it has encoded."""

    tokenizer: PreTrainedTokenizerFast
    train: Tensor
    held_out: Tensor
    held_out_bytes_per_token: float


def prepare_text(root: Path, work: Path, vocab: int) -> Text:
    """Collects and encodes the text; a tokenizer that an earlier run left is used again."""
    train, held_out = (read_texts(paths) for paths in split_sources(collect_sources(root), root))
    if not train or not held_out:
        raise PairTrainingError(
            f"{root} gave {len(train)} training and {len(held_out)} held-out files; "
            "both are needed. "
            "Train on a folder with more Python files."
        )
    saved = work / "tokenizer.json"
    if saved.exists():
        tokenizer = wrap_tokenizer(Tokenizer.from_file(str(saved)))
    else:
        tokenizer = train_tokenizer(train, vocab)
        tokenizer.backend_tokenizer.save(str(saved))
    held_out_tokens = encode_texts(tokenizer, held_out)
    held_out_bytes = sum(len(text.encode()) for text in held_out)
    return Text(
        tokenizer,
        encode_texts(tokenizer, train),
        held_out_tokens,
        held_out_bytes / held_out_tokens.numel(),
    )


def train_pair(
    run: Run,
    shape: Shape,
    stages: list[Stage],
    distil: Stage,
    report: Callable[[StageRun, float], None],
) -> tuple[LlamaForCausalLM, list[LlamaForCausalLM]]:
    """The target, and the drafter before and after it was distilled from that target."""
    torch.manual_seed(run.seed)
    model = LlamaForCausalLM(model_config(shape, stages[0].layers))
    trained = []
    for stage in stages:
        model = StageRun(run, stage, grow(model, shape, stage.layers), next_token_loss).train(report)
        trained.append(model)
    target, drafter = trained[-1].eval(), trained[0]
    objective = distillation_loss(forward_of(target, run.compiled))
    distilled = StageRun(run, distil, deepcopy(drafter), objective).train(report)
    return target, [drafter.eval(), distilled.eval()]


def export_pair(target: LlamaForCausalLM, drafters: list[LlamaForCausalLM], text: Text, out: Path) -> list[PairReport]:
    """Measures every drafter against the target and saves the pair that accepts most; the reports,
    best first.
    """
    measured = [
        (measure_pair(target, drafter, text.held_out, text.held_out_bytes_per_token), drafter) for drafter in drafters
    ]
    measured.sort(key=lambda pair: pair[0].overlap, reverse=True)
    save_folder(target, text.tokenizer, out / "target")
    save_folder(measured[0][1], text.tokenizer, out / "drafter")
    reports = [report for report, _ in measured]
    (out / "report.json").write_text(json.dumps([asdict(report) for report in reports], indent=2) + "\n")
    return reports


def main(
    out: Annotated[Path, typer.Option(help="Folder for the two models and the checkpoints.")],
    minutes: Annotated[float, typer.Option(min=0.1, help="Wall-clock minutes for all stages together.")] = 50.0,
    threads: Annotated[int, typer.Option(min=1, help="Threads for the arithmetic.")] = 1,
    source: Annotated[Path | None, typer.Option(help="Folder of Python files [standard library].")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile (a third faster; needs C++).")] = False,
    seed: Annotated[int, typer.Option(help="Seed of weights and of the order of the text.")] = 0,
) -> None:
    """Train the bundled pair; run again with the same --out to go on after an interruption."""
    torch.set_num_threads(threads)
    console = Console()
    work, shape = out / "checkpoints", Shape()
    work.mkdir(parents=True, exist_ok=True)
    try:
        text = prepare_text(source or Path(sysconfig.get_path("stdlib")), work, shape.vocab)
        run = Run(work, minutes, text.train, text.held_out, compiled, seed)
        console.print(f"{text.train.numel():,} tokens to train on, {text.held_out.numel():,} held out")
        with progress_bar(console) as bar:
            target, drafters = train_pair(run, shape, standard_stages(shape), distil_stage(shape), reporter(bar))
        for report in export_pair(target, drafters, text, out):
            console.print(asdict(report))
    except PairTrainingError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from error


def progress_bar(console: Console) -> Progress:
    """One line per stage with its loss and the time it has left."""
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.fields[loss]} nats, {task.fields[tokens]} tokens"),
        TimeRemainingColumn(),
        console=console,
    )


def reporter(bar: Progress) -> Callable[[StageRun, float], None]:
    """Shows each training step in the stage's own line."""
    lines: dict[str, TaskID] = {}

    def report(stage: StageRun, loss: float) -> None:
        name = stage.stage.name
        if name not in lines:
            lines[name] = bar.add_task(name, total=1.0, loss="", tokens="")
        bar.update(
            lines[name],
            completed=min(1.0, stage.progress),
            loss=f"{loss:.3f}",
            tokens=f"{stage.position.tokens:,}",
        )

    return report


if __name__ == "__main__":
    typer.run(main)
