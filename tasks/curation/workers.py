"""Worker processes of Beam's embedded runner, forked from one that has imported everything.

Beam starts new processes for every pipeline, a second of imports each, and a build is a dozen pipelines or many more.
So the command that it starts is this file as a plain script, a client without imports: it hands its environment to the
server, which forks, and ends when the worker ends. The server ends with the process that began it.
"""

import json
import os
import socket
import sys

HANDED = ("CONTROL_API_SERVICE_DESCRIPTOR", "LOGGING_API_SERVICE_DESCRIPTOR", "PIPELINE_OPTIONS", "WORKER_ID")
REAPED = 0.2  # seconds after which those are waited for that have ended
KILLED = 137  # exit code of what a signal ended, as shells have it


class Workers:
    """Starts the server; ends it when it is closed, or this process ends.

    Attributes:
        command: for Beam to start a worker by.
    """

    def __init__(self, log: str | None = None):
        """Starts it, without waiting. `log`: a file that gets what workers write to standard error."""
        import shlex
        import subprocess
        import tempfile

        self._folder = tempfile.TemporaryDirectory(prefix="workers-")
        place = os.path.join(self._folder.name, "socket")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(place)
        listening.listen(64)
        with open(log or os.devnull, "ab") as errors, listening:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tasks.curation.workers", str(listening.fileno())],
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                pass_fds=[listening.fileno()],
            )
        self.command = shlex.join([sys.executable, "-I", "-S", os.path.abspath(__file__), place])

    def close(self) -> None:
        """Ends the server; workers end with their pipelines."""
        if self._server.stdin:
            self._server.stdin.close()
        self._server.wait()
        self._folder.cleanup()


def serve(listening: socket.socket) -> None:
    """Forks a worker for each client, until standard input ends."""
    import select

    # all that workers will want: what is imported before the fork is there in each, and shared
    from apache_beam.runners.worker import sdk_worker_main

    import tasks.curation.pipeline  # noqa: F401

    running = 0
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [], REAPED if running else None)
        while running and os.waitpid(-1, 0 if sys.stdin in ready else os.WNOHANG)[0]:
            running -= 1
        if sys.stdin in ready:
            return
        if listening not in ready:
            continue
        client, _ = listening.accept()
        if os.fork():
            client.close()
            running += 1
            continue
        listening.close()
        code = 1
        try:
            with client.makefile("rb") as request:
                os.environ.update(json.loads(request.readline()))
            sdk_worker_main.main([])
            code = 0
        finally:
            client.send(bytes([code]))
            os._exit(code)


def ask(place: str) -> int:
    """The client: starts a worker and waits for its end; returns its exit code."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(place)
        handed = {name: os.environ[name] for name in HANDED if name in os.environ}
        server.sendall(json.dumps(handed).encode() + b"\n")
        code = server.recv(1)
    return code[0] if code else KILLED


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        serve(socket.socket(fileno=int(sys.argv[1])))
    else:
        sys.exit(ask(sys.argv[1]))
