"""The network of a feature drafter: one block of the target's own kind over the target's hidden states.

Row t of a text reads the token at t, and the hidden states ("taps") that the target had at t − 1:

    g = F · concat(norm(tap))                        committed rows; row 0 has no taps, so that g = 0
    g = B · norm(own output of the row above)        drafted rows
    r = g + W (l ⊙ norm(embedding of the token))
    output = final norm(block(r));  logits = head(output), over a part of the vocabulary

Training it in stages: docs/training.md.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from draftgraph.backends.ends import Ends
from draftgraph.backends.taps import PREFIX, decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CARRIED, TOKEN = 10.0, 20.0
"""Root mean squares in the residual at the start: of fused features and own outputs, and of tokens. Tokens that start with 1
beside 20 learn three times as slowly; 10 for what is carried was worth .2 tokens per call in a short training (docs/training.md).
"""


@dataclass(frozen=True)
class FeatureShape:
    """width   of the target's hidden states, d.
    taps    names of the hidden states that are read.
    tokens  entries of the head, K.
    """

    width: int
    taps: tuple[str, ...]
    tokens: int

    @property
    def features(self) -> int:
        """Numbers that the target gives per token."""
        return self.width * len(self.taps)


class TrainedNetwork(nn.Module):
    """A network that is trained for one target, and borrows parts of it.

    shape  its sizes, and the hidden states that it reads. core  its blocks, as a causal LM.
    """

    shape: FeatureShape
    core: PreTrainedModel

    @property
    def features(self) -> int:
        """Numbers that the target gives per token."""
        return self.shape.features

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """The target's rows of its head, K of them, which are not trained; without weights where all are trained."""

    @property
    def borrowed(self) -> Sequence[nn.Module]:
        """Parts that are the target's, or are not used: they are not trained, nor kept in files."""
        return self.head, self.core.get_input_embeddings()

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """Logits f[…, K] of outputs f[…, d]."""
        return cast(torch.Tensor, self.head(outputs))

    @abstractmethod
    def start_from(self, target: PreTrainedModel, tokens: torch.Tensor) -> None:
        """Begin as much of the target as fits, with its head over `tokens` i64[K]."""


class TextNetwork(TrainedNetwork):
    """A network that reads the text alone, and gives outputs of several steps at once."""

    @abstractmethod
    def steps(self, tokens: torch.Tensor, embedded: torch.Tensor, count: int) -> list[torch.Tensor]:
        """Outputs f[b, T, …], for `logits`, of `count` steps at most.

        Row t of step j speaks of the token t + j, as in a draft behind token t.

        tokens i64[b, T] of whole texts. embedded  f[b, T, d], the target's embeddings of them.
        """


class FeatureNetwork(TrainedNetwork):
    """What a `FeatureModel` runs: its core reads what `committed` and `drafted` put together, and has a head of K entries.

    reads_first  whether a text's first token, which has no features above it, has a row.
    """

    reads_first: ClassVar[bool] = True

    @property
    def window(self) -> int:
        """Tokens whose embeddings a row reads: its own, and those before it."""
        return 1

    @property
    def output(self) -> str:
        """The name of the core's hidden state that the row below reads."""
        return f"{PREFIX}{self.core.config.num_hidden_layers}"

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """Logits f[…, K] of outputs f[…, d]."""
        return cast(torch.Tensor, self.core.get_output_embeddings()(outputs))

    def carried(self, outputs: torch.Tensor) -> torch.Tensor:
        """The part of outputs that stands for the target's features in the row below."""
        return outputs

    @abstractmethod
    def committed(self, features: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """What rows read, f[…, w], if the tokens above them have features f[…, features]; embedded  f[…, window · d]."""

    @abstractmethod
    def drafted(self, outputs: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """What rows read, f[…, w], if the rows above them put out `outputs` f[…, d]; embedded  f[…, window · d]."""


class OwnNetwork(FeatureNetwork):
    """A network that lies in folders of our own layout (`feature_files.py`)."""

    @property
    def form(self) -> tuple[str, str] | None:
        """How it joins token and feature, and its heads, by their names; None: as this file says."""
        return None

    @abstractmethod
    def share_head(self, target: Ends, tokens: torch.Tensor) -> None:
        """Copy the rows of the target's head for `tokens` i64[K], and freeze them."""


class FeatureNet(OwnNetwork):
    """shape  its sizes. core  a causal LM of one block with a head of K entries; its own embeddings are not used."""

    def __init__(self, shape: FeatureShape, config: PretrainedConfig) -> None:
        super().__init__()
        self.shape = shape
        d = shape.width
        self.tap_norms = nn.ModuleList(nn.RMSNorm(d, eps=1e-6) for _ in shape.taps)
        self.fuse = nn.Linear(shape.features, d, bias=False)
        self.token_norm = nn.RMSNorm(d, eps=1e-6)
        self.token = nn.Linear(d, d, bias=False)
        self.back_norm = nn.RMSNorm(d, eps=1e-6)
        self.back = nn.Linear(d, d, bias=False)
        self.core = _one_block(config, shape.tokens)

    @property
    def head(self) -> nn.Module:
        return cast(nn.Module, self.core.get_output_embeddings())

    def committed(self, features: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Residuals f[…, d] of rows whose token above has features f[…, features]; embedded  f[…, d]."""
        taps = torch.split(features.to(self.back.weight.dtype), self.shape.width, dim=-1)
        normed = [norm(tap) for norm, tap in zip(self.tap_norms, taps, strict=True)]
        return self._with_token(self.fuse(torch.cat(normed, dim=-1)), embedded)

    def drafted(self, outputs: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Residuals f[…, d] of rows whose row above put out `outputs` f[…, d]."""
        return self._with_token(self.back(self.back_norm(outputs)), embedded)

    def _with_token(self, carried: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, carried + self.token(self.token_norm(embedded.to(self.back.weight.dtype))))

    @torch.no_grad()
    def start_from(self, target: PreTrainedModel, tokens: torch.Tensor) -> None:
        """Begin as the target's last layer with its final norm, and its head over `tokens` i64[K]."""
        decoder, layers = decoder_layers(target)
        own, own_layers = decoder_layers(self.core)
        own_layers[0].load_state_dict(layers[-1].state_dict())
        embeddings = {id(module) for model in (target, self.core) for module in [model.get_input_embeddings()]}
        for name, module in decoder.named_children():
            if module is not layers and id(module) not in embeddings:  # the final norm
                getattr(own, name).load_state_dict(module.state_dict())
        nn.init.normal_(self.fuse.weight, std=0.02)
        nn.init.normal_(self.token.weight, std=TOKEN * self.shape.width**-0.5)
        self.fuse.weight[:, -self.shape.width :] += CARRIED * torch.eye(
            self.shape.width, device=self.fuse.weight.device
        )
        nn.init.eye_(self.back.weight).mul_(CARRIED)
        self.share_head(target, tokens)

    @torch.no_grad()
    def share_head(self, target: Ends, tokens: torch.Tensor) -> None:
        """Copy the rows of the target's head for `tokens` i64[K], and freeze them."""
        whole = target.get_output_embeddings()
        self.core.set_output_embeddings(part_of_head(whole, tokens).to(self.back.weight.device, self.back.weight.dtype))
        self.head.requires_grad_(False).train(self.training)


def part_of_head(head: nn.Module, tokens: torch.Tensor) -> nn.Linear:
    """The rows of a head for `tokens` i64[K], copied."""
    weight, bias = cast(torch.Tensor, head.weight), cast("torch.Tensor | None", getattr(head, "bias", None))
    rows = tokens.to(weight.device)
    part = nn.Linear(weight.shape[1], len(rows), bias is not None, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        part.weight.copy_(weight[rows])
        if bias is not None:
            part.bias.copy_(bias[rows])
    return part


def over_vocabulary(logits: torch.Tensor, tokens: torch.Tensor, size: int) -> torch.Tensor:
    """Logits over a vocabulary f[n, size], from those of a head f[n, K]; what has no entry, tokens i64[K] aside, has -inf."""
    whole = logits.new_full((len(logits), size), -torch.inf)
    whole[:, tokens] = logits
    return whole


def default_taps(layers: int) -> tuple[str, ...]:
    """What blocks 2, n // 2 and n − 3 of n read: an early, a middle and a late hidden state."""
    numbers = sorted({min(2, layers - 1), layers // 2, max(layers - 3, 0)})
    return tuple(f"{PREFIX}{number}" for number in numbers)


def _one_block(config: PretrainedConfig, tokens: int) -> PreTrainedModel:
    """A causal LM of one layer as the config says, with random weights, a head of `tokens` entries and no embeddings."""
    return build_core(with_layers(config, [-1]), tokens)


PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "layers_block_type")
"""Lists of a configuration with one entry per layer."""


def with_layers(config: PretrainedConfig, numbers: Sequence[int]) -> PretrainedConfig:
    """The configuration of a model that has these layers of a decoder, in this order."""
    own = copy.deepcopy(config.get_text_config(decoder=True))
    whole, own.num_hidden_layers = own.num_hidden_layers, len(numbers)
    for name in PER_LAYER:
        entries = getattr(own, name, None)
        if isinstance(entries, list) and len(entries) == whole:
            setattr(own, name, [entries[number] for number in numbers])
    if hasattr(own, "quantization_config"):
        del own.quantization_config
    return own


def build_core(config: PretrainedConfig, tokens: int) -> PreTrainedModel:
    """A causal LM as the config says, with random weights, a head of `tokens` entries and no embeddings."""
    own = copy.deepcopy(config)
    whole = own.vocab_size
    own.vocab_size, own.tie_word_embeddings = tokens, False
    own.pad_token_id = own.bos_token_id = own.eos_token_id = None
    core = _made(own, "sdpa")
    core.set_input_embeddings(nn.Embedding(1, core.get_input_embeddings().embedding_dim))
    core.config.vocab_size = whole  # its laws are over the target's vocabulary
    return core


def _made(config: PretrainedConfig, attention: str) -> PreTrainedModel:
    """A causal LM with random weights, and with that attention where its class has it."""
    try:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    except ValueError:  # some classes have no other than "eager"
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    return cast("PreTrainedModel", model)


def parameters_of(net: TrainedNetwork) -> Sequence[tuple[str, nn.Parameter]]:
    """What is trained and kept in a file: everything that is not borrowed."""
    shared = {id(part) for module in net.borrowed for part in module.parameters()}
    return [(name, weight) for name, weight in net.named_parameters() if id(weight) not in shared]
