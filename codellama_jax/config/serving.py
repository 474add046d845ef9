"""Settings of the server, as a plain dataclass."""

import dataclasses
import ipaddress
from typing import Literal

SHORTEST_KEY = 8  # characters


@dataclasses.dataclass(frozen=True)
class Server:
    """How the server listens, whom it answers, and its limits.

    Attributes:
        host, port: where it listens. The default host is reachable from this machine only. Another one needs API keys.
        without_keys: allows a host that other machines reach, without API keys.
        allowed_hosts: names in the Host header that are accepted besides addresses, localhost and `host`; "*": all. A
            web page of another site could otherwise reach the server by DNS rebinding.
        allowed_origins: values of the Origin header that are accepted besides the server's own; "*": all. Pages of
            these sites may read answers (CORS).
        api_keys: keys, one of which every request must have; none: requests need no key.
        queue: number of choices that may wait for a slot, over all clients. Further requests are refused. One client
            may have half of them.
        timeout: seconds after which a request ends with the text that it has.
        shutdown: seconds that running requests have to finish after a signal.
        body: maximum size of a request's body, in bytes.
        connections: maximum number of requests that are answered at a time.
        stalled: seconds after which a connection is closed whose client stops sending a request or reading an answer.
        choices: maximum number of answers of one request.
        sentinels: whether the text of infilling markers in raw completions becomes ids (serving/sentinels.py).
        order: order of infilling prompts, "spm" or "psm"; None: the one that models with the tokenizer's infilling
            ids prefer, "spm" for Code Llama.
        chat_format: format of dialogues, "inst", "source" or "template"; None: the model's own.
        log_prompts: whether prompts and answers are logged.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    without_keys: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    queue: int = 256
    timeout: float = 600.0
    shutdown: float = 20.0
    body: int = 4 * 2**20
    connections: int = 512
    stalled: float = 60.0
    choices: int = 64
    sentinels: bool = True
    order: Literal["spm", "psm"] | None = None
    chat_format: Literal["inst", "source", "template"] | None = None
    log_prompts: bool = False

    def __post_init__(self):
        if not 0 <= self.port < 65536:
            raise ValueError(f"port={self.port} must be 0 to 65535")
        for name in ("queue", "body", "connections", "choices"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("timeout", "shutdown", "stalled"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be a positive number of seconds")
        if self.order not in (None, "spm", "psm"):
            raise ValueError(f"order={self.order!r} must be 'spm' or 'psm'")
        if self.chat_format not in (None, "inst", "source", "template"):
            raise ValueError(f"chat_format={self.chat_format!r} must be 'inst', 'source' or 'template'")
        if any(len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() for key in self.api_keys):
            # the message must not contain a key
            raise ValueError(f"an API key has fewer than {SHORTEST_KEY} characters, or some that are not ASCII")
        for name in self.allowed_hosts:
            if not name or "/" in name or " " in name:
                raise ValueError(f"allowed_host={name} must be a name like models.example, or *")
        for origin in self.allowed_origins:
            if origin != "*" and ("://" not in origin or origin.endswith("/")):
                raise ValueError(f"allowed_origin={origin} must be like http://localhost:8888, or *")
        if not (self.is_local or self.api_keys or self.without_keys):
            raise ValueError(
                f"host={self.host} is reached from other machines: set API keys (--api_key_file), or allow everybody"
                " (--without_keys)"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def queue_of_client(self) -> int:
        """Number of choices of one client that may wait for a slot."""
        return max(1, self.queue // 2)
