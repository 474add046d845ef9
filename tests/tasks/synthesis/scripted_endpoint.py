"""An OpenAI-compatible server whose answers are written beforehand, and a script with known numbers of everything."""

import contextlib
import dataclasses
import http.server
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator

from codellama_jax.config.self_instruct import SelfInstruct
from tasks.synthesis import prompts

SETTINGS = SelfInstruct(prompts=3, solutions=4, cpu_seconds=0.25)

RIGHT, WRONG = "def {f}(n):\n    return n * 2 + 1", "def {f}(n):\n    return n * 2"
EXITS = "import sys\nsys.exit(0)"
LEAVES = "def {f}(n):\n    import os\n    os._exit(0)"
EQUAL = "class Equal:\n    def __eq__(self, other):\n        return True\n\n\ndef {f}(n):\n    return Equal()"
HANGS = "def {f}(n):\n    while True:\n        pass"
FORGES = "def {f}(n):\n    raise AssertionError('111')"
TESTS = "#Test case 1:\nassert {f}(0) == 1\n#Test case 2:\nassert {f}(1) == 3\n#Test case 3:\nassert {f}(5) == 11"


def tagged(code: str, tag: str = "PYTHON") -> str:
    return f"Sure!\n[{tag}]\n{code}\n"  # the endpoint stops before the closing tag


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question of the script.

    Attributes:
        text: the question; {f} is the name of its function.
        tests: the answer with its tests, or None if nobody may ask for them.
        solutions: the answers with its solutions.
        dropped: why it is dropped; "" if it is kept.
    """

    text: str
    dropped: str = ""
    tests: str | None = TESTS
    solutions: tuple[str, ...] = (WRONG, RIGHT, WRONG, RIGHT)


KEPT = "Write a function {f} that doubles a number and adds one, in variant {f}."
SCRIPT: tuple[tuple[Asked, ...], ...] = (
    (
        Asked("Write a function alpha that returns twice a number plus one."),
        Asked(
            "Define beta, which gives the odd number after the double of its argument.",
            solutions=(EXITS, EQUAL, RIGHT, HANGS),
        ),
        Asked("Write a function alpha that returns twice a number plus one.", "exact_duplicate", None),
        Asked(
            "Implement gamma: nobody has tests for it, however one asks.", "tests_no_test", "I cannot test this.", ()
        ),
        Asked(
            "Create delta, whose programs are all hostile or wrong here.",
            "unsolved",
            solutions=(EXITS, LEAVES, EQUAL, FORGES),
        ),
    ),
    (
        Asked(
            "Compute epsilon where nothing but None is ever expected.",
            "accepts_stub",
            "assert {f}(3) != 7\nassert {f}(2) != 9",
        ),
        Asked(
            "Compose zeta: its tests only look whether there is a result.",
            "rejects_nothing",
            "assert {f}(3) is not None\nassert isinstance({f}(1), int)",
        ),
        Asked(
            "Find eta with programs that are malformed or that never end.",
            "unsolved",
            solutions=(HANGS, "def {f}(n:", "", "x = 1"),
        ),
        Asked(
            "Program theta, whose tests are partly broken and partly good.",
            tests="#Test case 1:\nassert {f}(0) == 1\n#Test case 2:\nassert {f}(1 == 3\n"
            "#Test case 3:\nassert {f}(5) == 11\nexit()",
        ),
        Asked(
            "Develop iota with a test that ends the process of tests.",
            "unsolved",
            "assert __import__('os')._exit(0) or {f}(1) == 3",
        ),
    ),
    (
        Asked(
            "Write a function kappa that checks a benchmark problem of the evaluation set for us.", "contaminated", None
        ),
        Asked(
            "Write the function lambda_ that adds up all the digits of a number and returns the sum as an int, please"
        ),
        Asked(
            "Write the function lambda_ that adds up all the digits of a number and returns the sum as an int, please!",
            "near_duplicate",
            None,
        ),
    ),
)
PROBLEM = {"task_id": "x/1", "prompt": "checks a benchmark problem of the evaluation set for us"}
FUNNEL = {"questions": 13, "unique": 10, "with_tests": 9, "solved": 6, "kept": 4}
SOLUTIONS = {
    "passed": 13,  # alpha 2, beta 1, epsilon 2 (the wrong ones), zeta 4, theta 2, lambda_ 2
    "failed": 12,
    "error": 4,  # the test of iota ends its process, for all four
    "cpu_time": 2,
    "malformed_no_function": 3,
    "malformed_empty": 1,
    "malformed_syntax": 1,
}
REASONS = Counter(asked.dropped for asked_of in SCRIPT for asked in asked_of if asked.dropped)


def function_of(asked: Asked) -> str:
    names = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda_")
    return next(name for name in names if f"{name}" in asked.text.replace(":", " ").replace(",", " ").split())


def answers(settings: SelfInstruct = SETTINGS) -> dict[int, str]:
    """Seed of a request -> its answer."""
    found = dict[int, str]()
    for number, listed in enumerate(SCRIPT):
        text = "Here they are:\n\n" + "\n".join(f"{place}. {asked.text}" for place, asked in enumerate(listed, 1))
        found[prompts.seed(settings, "questions", "", number)] = text + "\n2.\n"  # an item without a question
        for place, asked in enumerate(listed):
            id = f"{number}.{place}"
            if asked.tests is not None:
                f = function_of(asked)
                test = asked.tests.replace("{f}", f)
                found[prompts.seed(settings, "tests", id, 0)] = tagged(test, "TESTS")
                for index, code in enumerate(asked.solutions):
                    found[prompts.seed(settings, "solution", id, index)] = tagged(code.replace("{f}", f))
    return found


class Script:
    """What a server answers, and what it was asked.

    Attributes:
        answers: seed -> text.
        seconds: what an answer takes.
        asked: seed -> number of requests.
        most: the most requests that it answered at a time.
    """

    def __init__(self, answers: dict[int, str], seconds: float = 0.0):
        self.answers, self.seconds = answers, seconds
        self.asked = Counter[int]()
        self.bodies = list[dict]()
        self._lock = threading.Lock()

    def answer(self, body: dict) -> dict:
        with self._lock:
            self.asked[body["seed"]] += 1
            self.bodies.append(body)
        time.sleep(self.seconds)
        text = self.answers.get(body["seed"], "nobody should ask this")
        for stop in body.get("stop", ()):
            text = text.partition(stop)[0]
        return {"choices": [{"text": text, "message": {"content": text}, "finish_reason": "stop"}]}


@contextlib.contextmanager
def serving(script: Script) -> Iterator[str]:
    """The URL of a server that answers with a script."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):
            self._send({"data": [{"id": "scripted"}]})

        def do_POST(self):
            self._send(script.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def _send(self, found):
            content = json.dumps(found).encode()
            with contextlib.suppress(OSError):
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
