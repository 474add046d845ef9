"""A build on a Dask cluster: a scheduler and two workers, in processes of their own on the loopback interface."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from planted import contents

pytest.importorskip("apache_beam", reason="the extra `build` is not installed")
distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.build import main
from tasks.curation.counters import Counters, merge
from tasks.curation.engine import Engine, Mapper

ROOT = Path(__file__).parents[3]
FEW_PARTITIONS = "--dask_npartitions=4"  # the number of tasks grows with their square


class Cluster:
    """A scheduler, a worker of two threads and one of one. Their working folder is not that of the tests."""

    def __init__(self, folder: Path):
        self._folder, self._running = folder, list[subprocess.Popen]()
        scheduler = ["scheduler", "--host=127.0.0.1", "--port=0", f"--scheduler-file={folder}/scheduler.json"]
        self._start(*scheduler, "--no-show", "--dashboard-address=127.0.0.1:0")
        file = folder / "scheduler.json"
        while not file.exists():
            assert self._running[0].poll() is None, (folder / "log").read_text()
            time.sleep(0.02)
        self.address = json.loads(file.read_text())["address"]
        self.workers = [self._start_worker(threads) for threads in (2, 1)]

    def _start_worker(self, threads: int) -> subprocess.Popen:
        options = ("--host=127.0.0.1", f"--nthreads={threads}", "--no-nanny", "--no-dashboard", "--local-directory=.")
        return self._start("worker", self.address, *options)

    def _start(self, *arguments: str) -> subprocess.Popen:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-m", "dask", *arguments]
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=self._folder, env=environment, stdout=log, stderr=log)
        self._running.append(process)
        return process

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = Cluster(tmp_path_factory.mktemp("dask"))
    yield running
    running.close()


@pytest.fixture
def flags(cluster: Cluster) -> list[str]:
    return ["--", "--runner=DaskRunner", f"--dask_client_address={cluster.address}"]


def test_the_bytes_are_those_of_the_embedded_runner(
    built: Path, inputs: list[str], flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # relative paths are resolved here, not in the workers' folder
    monkeypatch.chdir(tmp_path)
    source = os.path.relpath(inputs[0].partition("=")[2])
    assert main([f"--source={source}", *inputs[1:], "--out=set", *flags, FEW_PARTITIONS]) == 0
    assert contents(tmp_path / "set") == contents(built)


def test_a_build_survives_the_death_of_a_worker(
    cluster: Cluster, built: Path, inputs: list[str], flags: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "set"
    files, finished_before = out / ".steps/read", list[bool]()

    def kill() -> None:
        end = time.monotonic() + 60
        while len(list(files.glob("unit-*.parquet"))) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        cluster.workers[1].kill()
        finished_before.append((files / "done.json").exists())

    thread = threading.Thread(target=kill)
    thread.start()
    assert main([*inputs, f"--out={out}", *flags, FEW_PARTITIONS]) == 0
    thread.join()
    assert cluster.workers[1].wait() == -signal.SIGKILL and finished_before == [False]
    assert contents(out) == contents(built)


@pytest.mark.parametrize(
    ("mapper", "argument", "message", "code"),
    [
        (open, "/no/file", "No such file or directory: /no/file: fix this", 1),
        (filesystem.check_scheme, "ftp://host/file", "ftp://host/file", 2),
    ],
)
def test_an_error_in_a_worker_is_one_line(
    flags: list[str], tmp_path: Path, mapper: Mapper, argument: str, message: str, code: int
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Engine(1, flags[1:], 1 << 20).run("one", str(tmp_path), [argument], mapper, size=1)
    assert caught.value.exit_code == code and "\n" not in str(caught.value)


def test_a_folder_that_the_workers_do_not_share_is_reported(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"steps/one.json, but it is not here: --out must be"):
        Engine(1, flags[1:], 1 << 20).run("one", "steps", [[Counters()]], iter, size=1)


def test_a_package_that_the_workers_lack_is_named(flags: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"No module named '{__name__}'.: install this package where"):
        Engine(1, flags[1:], 1 << 20).run("one", str(tmp_path), [1], _missing_on_workers, size=1)


def test_counters_of_all_steps_reach_the_result(flags: list[str], tmp_path: Path) -> None:
    counters = [Counters(Counter({"read": number, f"of {number}": 1})) for number in range(40)]
    total = Engine(1, flags[1:], 1 << 20).run("one", str(tmp_path), [counters[:13], counters[13:], []], iter, size=1)
    assert total.counts == merge(counters).counts


def _missing_on_workers(_: int) -> Iterator[Counters]:
    yield Counters()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dask_client_address=tcp://127.0.0.1:1"], "--dask_client_address needs --runner=DaskRunner"),
        (
            ["--runner=DaskRunner", "--dask_client_address=tcp://127.0.0.1:1", "--dask_connection_timeout=1"],
            "127.0.0.1:1 does not answer",
        ),
        (["--runner=DaskRunner", "--flink_master=localhost:8081"], "--flink_master needs --runner=FlinkRunner"),
        (["--runner=DaskRunner", "--dask_scheduler_file=/no.json"], "/no.json"),
        (["--runner=DaskRunner", "--dask_npartitions=2", "--dask_partition_size=2"], "not allowed with"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_one_line(
    flags: list[str], message: str, inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*inputs, f"--out={tmp_path}/set", "--", *flags]) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
