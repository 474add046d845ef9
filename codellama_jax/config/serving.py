"""Settings of the server, as a plain dataclass."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Server:
    """How the server listens, whom it answers, and its limits.

    Attributes:
        host, port: where it listens. The default host is reachable from this machine only.
        allowed_hosts: values of the Host header that are accepted besides the names of the loopback interface and
            `host`; "*": all. A web page of another site could otherwise reach the server by DNS rebinding.
        allowed_origins: values of the Origin header that are accepted besides the server's own.
        api_keys: keys, one of which every request must have; none: requests need no key.
        queue: number of choices that may wait for a slot, over all clients. Further requests are refused.
        timeout: seconds after which a request ends with the text that it has.
        shutdown: seconds that running requests have to finish after a signal.
        body: maximum size of a request's body, in bytes.
        connections: maximum number of connections.
        choices: maximum number of answers of one request.
        sentinels: whether the text of infilling markers in raw completions becomes ids (serving/sentinels.py).
        order: order of infilling prompts, "spm" or "psm".
        log_prompts: whether prompts and answers are logged.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    queue: int = 256
    timeout: float = 600.0
    shutdown: float = 20.0
    body: int = 8 * 2**20
    connections: int = 512
    choices: int = 16
    sentinels: bool = True
    order: Literal["spm", "psm"] = "spm"
    log_prompts: bool = False

    def __post_init__(self):
        if not 0 <= self.port < 65536:
            raise ValueError(f"port={self.port} must be 0 to 65535")
        if min(self.queue, self.body, self.connections, self.choices) < 1 or min(self.timeout, self.shutdown) <= 0:
            raise ValueError("queue, body, connections, choices, timeout and shutdown must be positive")
        if self.order not in ("spm", "psm"):
            raise ValueError(f"order={self.order!r} must be 'spm' or 'psm'")
        if any(len(key) < 8 for key in self.api_keys):
            raise ValueError("an API key has fewer than 8 characters")
