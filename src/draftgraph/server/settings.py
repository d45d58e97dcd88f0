"""What the operator of a server has decided. Frozen and checked."""

from __future__ import annotations

from dataclasses import dataclass

from draftgraph.errors import OptionError, require

MEBIBYTE = 1 << 20
_LOOPBACK = ("localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """How a server answers.

    model            the name that clients ask for.
    api_key          what they must send as a bearer token; None lets everybody in who reaches the port.
    host, port       where it listens; port 0 takes a free one.
    max_body_bytes   of a request at most.
    max_requests     requests at a time, running and waiting; more are told to come back later.
    max_choices      answers of one request at most: its prompts times its n.
    request_timeout  of a request at most, from its first byte to its last.
    drain_timeout    that running requests get after SIGTERM.
    log_prompts      whether the log holds prompts and answers.
    metrics_prefix   what names of metrics begin with.

    Raises OptionError for a value that is not possible.
    """

    model: str
    api_key: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    max_body_bytes: int = 8 * MEBIBYTE
    max_requests: int = 256
    max_choices: int = 128
    request_timeout: float = 600.0
    drain_timeout: float = 30.0
    log_prompts: bool = False
    metrics_prefix: str = "draftgraph"

    def __post_init__(self) -> None:
        require(self.model != "", "model", self.model, "the name that clients ask for")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.strip() == self.api_key != ""):
            raise OptionError("the API key must be printable ASCII without spaces around it; write another one")
        require(0 <= self.port < 1 << 16, "port", self.port, "a number from 0 (any free one) to 65535")
        for name in ("max_body_bytes", "max_requests", "max_choices"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "an integer >= 1")
        require(self.request_timeout > 0, "request_timeout", self.request_timeout, "a number > 0")
        require(self.drain_timeout >= 0, "drain_timeout", self.drain_timeout, "a number >= 0")
        letters = self.metrics_prefix.replace("_", "a")
        plain = letters.isascii() and letters.isalnum() and not letters[0].isdigit()
        require(plain, "metrics_prefix", self.metrics_prefix, "letters, digits and _, such as draftgraph or vllm")

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine reach the server."""
        return self.host in _LOOPBACK or self.host.startswith("127.")
