"""Runs the same build of many small files on this machine's processes, on Dask and on Spark, and compares the bytes.

    python benchmarks/build_engines.py --tokenizer=/path/to/llama2/tokenizer.model [--files=100000]
                                       [--engines local dask spark] [--repeats=1] [--out=benchmarks/build_engines.md]

Dask is a scheduler and Spark a master, each with two workers of one thread, all in processes of their own on the
loopback interface. This program starts and stops them. Spark needs `pip install pyspark`, Java, and
`pip install --no-deps beam-pyspark-runner`. Each engine also runs a build in which a worker process is killed with
SIGKILL half way through the first step, judged by the time of an undisturbed build.

The files are generated: functions of a few lines in 200 repositories; one file in twenty is an exact duplicate, and one
in twenty differs from another in one line. Memory is the sum of proportional set sizes, sampled ten times per second.
"""

import argparse
import contextlib
import datetime
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from build import Peak, busy, descendants
from result_file import paragraph, processor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from codellama_jax.runtime import cli

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
REPOSITORIES = 200
PACKAGES = {
    "local": ("apache-beam",),
    "dask": ("apache-beam", "dask", "distributed"),
    "spark": ("apache-beam", "pyspark", "beam-pyspark-runner"),
}
COLUMNS = ("engine", "wall s", "CPU s of the machine", "peak memory of the command, MiB", "of the engine, MiB")


class Engine(NamedTuple):
    """A running engine.

    Attributes:
        flags: arguments of the build command that select it.
        environment: variables of the build command.
        processes: process ids of the engine.
        worker: part of the command line of its worker processes.
    """

    flags: list[str]
    environment: dict[str, str]
    processes: list[int]
    worker: str


class Cost(NamedTuple):
    """The cost of one build; memory in bytes."""

    wall: float
    cpu: float
    command: int
    engine: int
    steps: list[str]
    digest: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--engines", nargs="+", choices=list(PACKAGES), default=list(PACKAGES))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = "".join(line + "\n" for line in result(options, Path(folder)))
    print(text)
    if options.out:
        options.out.write_text(text)


def result(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of the result file."""
    source = corpus(folder / "corpus", options.files)
    size = sum(path.stat().st_size for path in source.rglob("*.py"))
    rows, digests = [], set()
    for repeat in range(options.repeats):
        for name in options.engines:
            undisturbed = measure(options, name, source, folder, None)
            rows.append((name, undisturbed))
            if name != "local" and not repeat:
                half = float(undisturbed.steps[0].rpartition(" ")[0].rpartition(" ")[2]) / 2
                rows.append((f"{name}, a worker killed", measure(options, name, source, folder, half)))
    digests = {cost.digest for _, cost in rows}

    yield f"# A build of many small files on several engines, {datetime.date.today()}"
    yield ""
    yield f"    python benchmarks/build_engines.py {' '.join(sys.argv[1:])}".replace(
        str(options.tokenizer), options.tokenizer.name
    )
    yield ""
    packages = dict.fromkeys(package for name in options.engines for package in PACKAGES[name])
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    yield from paragraph(
        f"{os.cpu_count()} cores of {processor()}, shared with other programs; Python {platform.python_version()},"
        f" codellama_jax {cli.code_version()}, {versions}. {options.files:,} files, {size / 1e6:.1f} MB. Each engine"
        f" has {WORKERS} workers of one thread. The reports, lists and shards of all rows are"
        f" {'identical, byte by byte' if len(digests) == 1 else 'NOT IDENTICAL'}."
    )
    yield from paragraph(
        "Each row is one run. The seconds of CPU include those of the other programs, which took most of the machine at"
        " times: the rows show that the builds complete, and in what memory, not which engine is faster."
    )
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---|---|---|---|---|"
    for name, cost in rows:
        engine = f"{cost.engine >> 20}" if cost.engine else "-"
        yield f"| {name} | {cost.wall:.1f} | {cost.cpu:.1f} | {cost.command >> 20} | {engine} |"
    yield ""
    yield "Seconds of each step:"
    yield ""
    yield f"| step | {' | '.join(name for name, _ in rows)} |"
    yield f"|---|{'---|' * len(rows)}"
    for steps in zip(*(cost.steps for _, cost in rows), strict=True):
        name = steps[0].partition("] ")[2].rpartition(": ")[0]
        yield f"| {name} | {' | '.join(step.rpartition(': ')[2].removesuffix(' s') for step in steps)} |"


def corpus(folder: Path, files: int) -> Path:
    """Writes small Python files in folders that represent repositories."""
    rng, texts = random.Random(0), []
    words = [f"{a}_{b}" for a in ("read", "merge", "count", "open", "sort", "split") for b in ["rows", "keys", "parts"]]
    for number in range(files):
        kind = number % 20
        if kind == 18 and texts:
            text = rng.choice(texts)
        elif kind == 19 and texts:
            text = rng.choice(texts).replace("    total = 0\n", f"    total = {number}\n", 1)
        else:
            lines = [f'"""Module {number}."""\n']
            for part in range(3):
                name, value = rng.choice(words), rng.randrange(1 << 30)
                lines.append(
                    f"\ndef {name}_{number}_{part}(items, limit={value}):\n    total = 0\n    for item in items:\n"
                    f"        total += item * {rng.randrange(1000)} + {rng.choice(words)}(limit, {part})\n"
                    f"    return {rng.choice(words)}(total, {rng.randrange(1 << 20)})\n"
                )
            text = "".join(lines)
            texts.append(text)
        path = folder / f"repository{number % REPOSITORIES}" / f"package{number // 5000}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def measure(options: argparse.Namespace, name: str, source: Path, folder: Path, kill_after: float | None) -> Cost:
    """Runs the build command on an engine, and optionally kills one of the engine's workers."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    with ENGINES[name](folder) as engine:
        command = [sys.executable, "-m", "tasks.build", f"--source={source}", f"--out={out}"]
        command += [f"--tokenizer={options.tokenizer}", *engine.flags]
        busy_before, start = busy(), time.monotonic()
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | engine.environment
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        peaks = [Peak(pid) for pid in (process.pid, *engine.processes)]
        if kill_after is not None:
            threading.Thread(target=kill, args=(out, kill_after, engine), daemon=True).start()
        output, _ = process.communicate()
        wall = time.monotonic() - start
        memory = [peak.stop() for peak in peaks]
    assert process.returncode == 0, output
    digest = hashlib.sha256()
    for path in sorted(path for path in out.rglob("*") if path.is_file() and ".steps" not in path.parts):
        if path.name != "manifest.json":
            digest.update(f"{path.relative_to(out)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    steps = re.findall(r"^\[.* s$", output, re.MULTILINE)
    return Cost(wall, busy() - busy_before, memory[0], sum(memory[1:]), steps, digest.hexdigest())


def kill(out: Path, seconds: float, engine: Engine) -> None:
    """Kills a worker process of the engine, some seconds after the first step has started."""
    while not (out / ".steps" / "read").exists():
        time.sleep(0.05)
    time.sleep(seconds)
    pids = [pid for root in engine.processes for pid in descendants(root)]
    workers = [pid for pid in pids if engine.worker.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
    print(f"killed {workers[0]} of {workers}", file=sys.stderr)


@contextlib.contextmanager
def processes(commands: list[list[str]], folder: Path, environment: dict[str, str]) -> Iterator[list[int]]:
    """Runs an engine's processes: the first is the scheduler, and the others start when it has started."""
    running = []
    try:
        for number, command in enumerate(commands):
            with (folder / f"process{number}.log").open("wb") as log:
                running.append(
                    subprocess.Popen(command, cwd=folder, env=os.environ | environment, stdout=log, stderr=log)
                )
            time.sleep(5 if number in (0, len(commands) - 1) else 0)
        yield [process.pid for process in running]
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(60)


@contextlib.contextmanager
def local(folder: Path) -> Iterator[Engine]:
    """The embedded runner."""
    yield Engine([f"--workers={WORKERS}"], {}, [], "")


@contextlib.contextmanager
def dask(folder: Path) -> Iterator[Engine]:
    """A Dask cluster."""
    address, command = "tcp://127.0.0.1:8786", [sys.executable, "-m", "dask"]
    worker = [*command, "worker", address, "--host=127.0.0.1", "--nthreads=1", "--no-dashboard"]
    commands = [[*command, "scheduler", "--host=127.0.0.1", "--port=8786", "--no-dashboard"]]
    commands += [[*worker, f"--local-directory={folder}/dask{number}"] for number in range(WORKERS)]
    flags = ["--", "--runner=DaskRunner", f"--dask_client_address={address}"]
    with processes(commands, folder, {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}) as pids:
        yield Engine(flags, {}, pids, "spawn_main")


@contextlib.contextmanager
def spark(folder: Path) -> Iterator[Engine]:
    """A Spark cluster in standalone mode."""
    specification = importlib.util.find_spec("pyspark")
    assert specification is not None and specification.origin is not None, "pip install pyspark"
    home, master = Path(specification.origin).parent, "spark://127.0.0.1:7077"
    java = [str(home / "bin/spark-class"), "org.apache.spark.deploy"]
    options = "--host 127.0.0.1 --port 7077 --webui-port 8180"
    commands = [[java[0], f"{java[1]}.master.Master", *options.split()]]
    for number in range(WORKERS):
        options = (
            f"--host 127.0.0.1 --cores 1 --memory 2g --webui-port {8181 + number} --work-dir {folder}/spark{number}"
        )
        commands.append([java[0], f"{java[1]}.worker.Worker", *options.split(), master])
    environment = {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    environment |= {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    settings = {"spark.driver.host": "127.0.0.1", "spark.default.parallelism": str(4 * WORKERS)}
    settings |= {"spark.ui.showConsoleProgress": "false"}
    arguments = " ".join(f"--conf {name}={value}" for name, value in settings.items())
    flags = ["--", "--runner=beam_pyspark_runner.pyspark_runner.PySparkRunner"]
    with processes(commands, folder, environment) as pids:
        submit = {"PYSPARK_SUBMIT_ARGS": f"--master {master} {arguments} pyspark-shell"}
        yield Engine(flags, environment | submit, pids, "CoarseGrainedExecutorBackend")


ENGINES = {"local": local, "dask": dask, "spark": spark}


if __name__ == "__main__":
    main()
