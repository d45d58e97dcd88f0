"""The requests that are understood: OpenAI's fields, vLLM's additions, and draftgraph's own. All others are refused by name.

A field that is null is as good as absent. Fields that change no answer are accepted: `user`, `metadata`, `store` and the like.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

MOST_TOP_LOGPROBS = 20
MOST_TOOLS = 128
MOST_STOPS = 64
"""Stop strings: each is looked for behind every token."""
_NAME = r"^[a-zA-Z0-9_.-]{1,64}$"


def _without_nulls(value: Any) -> Any:
    return {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else value


Prompts = str | list[str] | list[int] | list[list[int]]


def _prompts(value: Any) -> Prompts:
    """A prompt, or several of one kind."""
    items = value if isinstance(value, list) else [value]
    if all(type(item) is str for item in items) or _are_ids(value):
        prompts: Prompts = value
        return prompts
    if all(_are_ids(item) for item in items):
        return items
    raise ValueError(
        "a prompt is a text, or a list of token ids; several are a list of texts, or of lists of token ids"
    )


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _budget(value: Any) -> int | str:
    """Nodes per round, or "auto"."""
    if value == "auto" or (type(value) is int and value >= 0):
        found: int | str = value
        return found
    raise ValueError('write an integer >= 0, or "auto"')


Budget = Annotated[int | str, PlainValidator(_budget)]


class Fields(BaseModel):
    """An object of a request: every field of its declared type, and no other field."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(Fields):
    type: Literal["text"]
    text: str


class CalledFunction(Fields):
    name: str
    arguments: str


class CalledTool(Fields):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Fields):
    """One message of a conversation. refusal, annotations and the like come back from our own answers, always empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: str | None = None
    refusal: Literal[""] | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class Function(Fields):
    name: Annotated[str, Field(pattern=_NAME)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Fields):
    type: Literal["function"]
    function: Function


class ChosenFunction(Fields):
    name: str


class ChosenTool(Fields):
    type: Literal["function"]
    function: ChosenFunction


class JsonSchema(Fields):
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Fields):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Fields):
    """vLLM's: exactly one of them."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class StreamOptions(Fields):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Literal[False] | None = None


class PredictedContent(Fields):
    type: Literal["content"]
    content: str | list[TextPart]


class DraftOptions(Fields):
    """How this request is drafted; the engine's own options where they are left out.

    trace  whether the answer tells of all rounds, as `draftgraph view` reads them.
    """

    budget: Budget | None = None
    num_speculative_tokens: Annotated[int, Field(ge=1)] | None = None
    rule: str | None = None
    structure: str | None = None
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    trace: bool | None = None


Probability = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Sampled(Fields):
    """What every request for text may say."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    prediction: PredictedContent | None = None
    budget: Budget | None = None
    draftgraph: DraftOptions | None = None
    return_token_ids: bool | None = None
    # these change no answer
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None


class ChatRequest(Sampled):
    messages: Annotated[list[Annotated[Message, BeforeValidator(_without_nulls)]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: Literal[True] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1)] | None = None


class CompletionRequest(Sampled):
    prompt: Annotated[Prompts, PlainValidator(_prompts)]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None


class TokenizeRequest(Fields):
    """vLLM's: a prompt, or the messages of a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Annotated[Message, BeforeValidator(_without_nulls)]] | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Fields):
    model: str | None = None
    tokens: list[int]
