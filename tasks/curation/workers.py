"""Worker processes of Beam's embedded runner, forked from a server that has imported everything.

Beam starts new processes for every pipeline, each of which spends a second on imports, and a build runs a dozen
pipelines or more. Therefore Beam's worker command runs this file as a plain script, a client that imports almost
nothing. The client sends its environment to the server, which forks a worker, and ends when the worker ends. The server
ends when the process that started it closes the server's standard input or dies.
"""

import json
import os
import socket
import sys
from collections.abc import Sequence

# What Beam passes to a worker.
FORWARDED_VARIABLES = (
    "CONTROL_API_SERVICE_DESCRIPTOR",
    "LOGGING_API_SERVICE_DESCRIPTOR",
    "PIPELINE_OPTIONS",
    "WORKER_ID",
)
REAP_SECONDS = 0.2  # interval for reaping finished workers
EXIT_KILLED = 137  # what shells report for SIGKILL


class Workers:
    """The server process. It ends when this object is closed or this process ends.

    Attributes:
        command: the shell command by which Beam starts a worker.
    """

    def __init__(self, log: str | None = None, preload: Sequence[str] = ()):
        """Starts the server without waiting for it.

        Args:
            log: file to which workers' standard output and error are appended; None discards them.
            preload: modules that the server imports before it forks.
        """
        # imported here: the client runs this file too, and must start fast
        import shlex
        import subprocess
        import tempfile

        self._folder = tempfile.TemporaryDirectory(prefix="workers-")
        address = os.path.join(self._folder.name, "socket")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen(64)
        with open(log or os.devnull, "ab") as errors, listener:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tasks.curation.workers", str(listener.fileno()), *preload],
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                pass_fds=[listener.fileno()],
            )
        self.command = shlex.join([sys.executable, "-I", "-S", os.path.abspath(__file__), address])

    def close(self) -> None:
        """Ends the server. The workers end with their pipelines."""
        if self._server.stdin:
            self._server.stdin.close()
        self._server.wait()
        self._folder.cleanup()


def serve(listener: socket.socket, preload: Sequence[str]) -> None:
    """Imports the modules, then forks a worker for each client until standard input is closed."""
    import importlib
    import select

    from apache_beam.runners.worker import sdk_worker_main

    for name in preload:
        importlib.import_module(name)
    running = 0
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [], REAP_SECONDS if running else None)
        while running and os.waitpid(-1, 0 if sys.stdin in ready else os.WNOHANG)[0]:
            running -= 1
        if sys.stdin in ready:
            return
        if listener not in ready:
            continue
        client, _ = listener.accept()
        if os.fork():
            client.close()
            running += 1
            continue
        listener.close()
        code = 1
        try:
            with client.makefile("rb") as request:
                os.environ.update(json.loads(request.readline()))
            sdk_worker_main.main([])
            code = 0
        finally:
            client.send(bytes([code]))
            os._exit(code)


def start_worker(address: str) -> int:
    """The client: requests a worker from the server, waits until it ends, and returns its exit code."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        environment = {name: os.environ[name] for name in FORWARDED_VARIABLES if name in os.environ}
        server.sendall(json.dumps(environment).encode() + b"\n")
        code = server.recv(1)
    return code[0] if code else EXIT_KILLED


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
    else:
        sys.exit(start_worker(sys.argv[1]))
