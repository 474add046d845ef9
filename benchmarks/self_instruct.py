"""Measures how close self-instruct comes to the bound that an endpoint's latency sets.

    python benchmarks/self_instruct.py [--seconds=0.5] [--concurrency=8] [--prompts=2] [--rounds=3] [--out=FILE]

A server in a process of its own takes the same time for every answer and answers any number at a time. The command
asks it as it asks any endpoint, and runs every program that it gets. The bound is requests * seconds / concurrency:
with that many requests at a time, nobody can be faster.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from result_file import paragraph, processor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

QUESTIONS, SOLUTIONS = 50, 10
WORDS = [a + b for a in "bcdfghklmnprst" for b in ("ado", "ebi", "ilu", "ora", "ume")]
TESTS = "[TESTS]\n" + "".join(f"#Test case {n}:\nassert f({n}) == {2 * n + 1}\n" for n in range(5)) + "[/TESTS]"
RIGHT, WRONG = ("[PYTHON]\ndef f(n):\n    return n * 2" + more + "\n[/PYTHON]" for more in (" + 1", ""))


def answer(body: dict) -> str:
    """The answer to a request: different questions, the same tests, and two right solutions of three."""
    chosen = random.Random(body["seed"])
    if "interview questions" in body["prompt"]:
        lines = (" ".join(chosen.choices(WORDS, k=12)) for _ in range(QUESTIONS))
        return "\n".join(f"{number}. Write a function: {line}." for number, line in enumerate(lines, 1))
    if "write 5 tests" in body["prompt"]:
        return TESTS
    return chosen.choice((RIGHT, RIGHT, WRONG))


def serve(seconds: float, port: "multiprocessing.Queue[int]", requests: "multiprocessing.Value") -> None:  # type: ignore[valid-type]
    """Serves until the process is ended."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):
            self._send({"data": [{"id": "scripted"}]})

        def do_POST(self):
            until = time.monotonic() + seconds
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            choice = {"text": answer(body), "finish_reason": "stop"}
            with requests.get_lock():
                requests.value += 1
            time.sleep(max(until - time.monotonic(), 0))
            self._send({"choices": [choice]})

        def _send(self, found):
            content = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        port.put(server.server_port)
        server.serve_forever()


def measure(url: str, options: argparse.Namespace, folder: Path) -> float:
    """Seconds that a run takes, from the first request to the last file."""
    from tasks import self_instruct

    arguments = [f"--questions={url}", f"--solutions={url}", f"--out={folder}", f"--workers={os.cpu_count()}"]
    arguments += [f"--gin.SelfInstruct.prompts={options.prompts}", f"--gin.SelfInstruct.solutions={SOLUTIONS}"]
    arguments += [f"--gin.Endpoints.concurrency={options.concurrency}"]
    start = time.perf_counter()
    if self_instruct.main(arguments):
        raise SystemExit("the command failed")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures self-instruct with an endpoint of constant latency.")
    parser.add_argument("--seconds", type=float, default=0.5, help="what an answer takes")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time")
    parser.add_argument("--prompts", type=int, default=2, help="prompts for 50 questions each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    requests = multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=serve, args=(options.seconds, port, requests), daemon=True)
    server.start()
    load = os.getloadavg()[0]  # of others
    url, rows = f"http://127.0.0.1:{port.get()}", []
    try:
        for number in range(options.rounds):
            requests.value = 0
            with tempfile.TemporaryDirectory() as folder:
                seconds = measure(url, options, Path(folder))
                manifest = json.loads((Path(folder) / "manifest.json").read_text())
                runs = len((Path(folder) / "records" / "runs.jsonl").read_text().splitlines())
            bound = requests.value * options.seconds / options.concurrency
            rows.append((number + 1, requests.value, runs, manifest["funnel"]["kept"], bound, seconds))
    finally:
        server.terminate()
    text = result(options, rows, load)
    options.out.write_text(text) if options.out else print(text)


def result(options: argparse.Namespace, rows: list[tuple[int, int, int, int, float, float]], load: float) -> str:
    """The result as Markdown. `load`: the load average of the machine before the first round."""
    shares = [bound / seconds for *_, bound, seconds in rows]
    flags = f"--seconds={options.seconds} --concurrency={options.concurrency} --prompts={options.prompts}"
    lines = [
        f"# Self-instruct, {datetime.date.today()}",
        "",
        f"    python benchmarks/self_instruct.py {flags} --rounds={options.rounds}",
        "",
        *paragraph(
            f"{os.cpu_count()} cores of {processor()}, with a load average of {load:.1f} by others;"
            f" {platform.system()} {platform.release()}, Python {platform.python_version()}. Every answer"
            f" takes {options.seconds:g} s, and {options.concurrency} are asked for at a time; server, client and"
            " sandbox share the machine. The bound is the time of all answers, divided by that number. The measured"
            " time is that of the whole command, with the start of the sandbox."
        ),
        "| round | answers | programs run | dialogues | bound, s | measured, s | share of the bound |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {number} | {asked:,} | {runs:,} | {kept:,} | {bound:.1f} | {seconds:.1f} | {bound / seconds:.1%} |"
            for number, asked, runs, kept, bound, seconds in rows
        ),
        "",
        f"Median: **{statistics.median(shares):.1%}** of the bound's throughput.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
