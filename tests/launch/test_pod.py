"""End-to-end test: a run on a slice of two hosts, from the launcher to the bucket. Only the cloud is fake.

The fake gcloud runs the remote commands with bash on this machine, with a home directory for each host. The hosts use
the packages of this interpreter, and environment variables replace the metadata of a TPU host, from which JAX reads the
addresses of the other hosts. Training, the clients of the bucket, the launcher and its agent on the hosts are real.
"""

import json
import os
import re
import signal
import sys
import threading
import time

import pytest

from codellama_jax.config import gin_files
from codellama_jax.planning.chips import topology
from codellama_jax.runtime import console
from launch.executor import Experiment, Job, Requirements
from launch.local.executor import free_port
from launch.source_archive import ROOT
from launch.tpu_vm.executor import TpuVm
from tests import fast_compilation
from tests.launch.clock import SimulatedClock
from tests.launch.fake_cloud import HOSTS, FakeCloud
from tests.object_store import object_store

ACTIVE, SUSPENDED = {"out": "ACTIVE\n"}, {"out": "SUSPENDED\n"}
TOY = ("Llama.dim=16", "Llama.heads=2", "Llama.kv_heads=1", "Llama.ffn_dim=16", "Llama.layers=1")
TOY += ("CODE_WARMUP=4", "CODE_LENGTH=64", "CODE_BATCH_TOKENS=512", "CODE_STEPS=120", "Checkpoints.every=100")
TOY += (
    "Evaluation.batches=1",
    "Evaluation.context_windows=0",
    "Evaluation.samples=0",
    "Evaluation.final_benchmarks=()",
)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    with object_store(tmp_path / "store") as server:
        yield server


@pytest.fixture
def cloud(tmp_path, monkeypatch, store):
    """A fake cloud. On its hosts, `python3 -m uv venv` installs a wrapper of this interpreter. The wrapper sets the
    variables with which processes reach the bucket and each other."""
    console.configure_logging()
    made = FakeCloud(tmp_path / "cloud", run=True, state=[ACTIVE, SUSPENDED, ACTIVE])
    connect = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port(str(tmp_path))}", "JAX_NUM_PROCESSES": str(len(HOSTS))}
    variables = (
        store.environment
        | connect
        | fast_compilation.ENVIRONMENT
        | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    )
    host_bin = made.folder / "host_bin"
    host_bin.mkdir()
    (host_bin / "host_python").write_text(
        "#!/bin/bash\n"
        + "".join(f"export {name}={value!r}\n" for name, value in variables.items())
        + f'export JAX_PROCESS_ID="${{HOME##*-}}" XDG_CACHE_HOME={os.environ["XDG_CACHE_HOME"]}\n'
        + f'exec {sys.executable} "$@"\n'
    )
    (host_bin / "python3").write_text(
        "#!/bin/bash\n"
        'case "$*" in\n'
        f'  *"uv --quiet venv"*) mkdir -p "${{!#}}/bin" && ln -sf {host_bin}/host_python "${{!#}}/bin/python";;\n'
        '  *"pip install"*) ;;\n'
        f'  *) exec {sys.executable} "$@";;\n'
        "esac\n"
    )
    for program in host_bin.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    yield made
    assert not made.running, "the slice was not deleted"


def test_resumes_after_a_preemption_and_after_the_loss_of_a_host(cloud, store, capfd):
    files = ("gin/code.gin", "gin/models/local.gin")
    config = gin_files.load(files, TOY).resolve()
    paths = tuple(str(ROOT / file) for file in files)
    job = Job("code", paths, TOY, "gs://bucket/runs", "toy", (), config)
    faults = threading.Thread(target=cause_faults, args=(cloud, store))
    faults.start()
    needs = Requirements(topology=topology("v5p:2x2x2"), restarts=2)
    assert (
        TpuVm(needs, "p", "z", ("--spot",), clock=SimulatedClock()).run(Experiment("toy", "gs://bucket/runs", (job,)))
        == 0
    )
    faults.join()
    once = ["create", "state", "scp", "install", "start", "watch", "result"]
    assert cloud.calls() == [*once, "state", "delete", *once, "delete", *once, "delete"]
    output = capfd.readouterr().out
    [saved] = re.findall(r"saved at step (\d+) of 120", output)
    assert output.count(f"resuming from step {saved}\n") == 2 and "report in gs://bucket/runs/toy/report.html" in output
    lines = store.text("runs/toy/code/metrics.jsonl").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 121))
    assert store.names("runs/toy/code/checkpoints/120/checksums.json") and not store.names("runs/toy/code/.lock")
    assert store.names("runs/toy/code/tensorboard/events") and "<svg" in store.text("runs/toy/report.html")


def cause_faults(cloud, store):
    """Sends one host the signal of a preemption while it trains; on the next slice, kills it while it saves."""
    jobs = cloud.folder / HOSTS[1] / "codellama_jax/jobs"
    log = cloud.folder / HOSTS[0] / "codellama_jax/jobs/code.0/log"
    wait_until(lambda: log.exists() and "step" in log.read_text())
    os.kill(int((jobs / "code.0/process").read_text()), signal.SIGTERM)
    wait_until(lambda: (jobs / "code.1/process").exists())
    store.refuse(("POST|PUT", "/checkpoints/100/.*params", 503))  # so that this save does not finish
    wait_until(lambda: store.matched()[0])
    os.kill(int((jobs / "code.1/process").read_text()), signal.SIGKILL)
    wait_until(lambda: (jobs / "code.2").exists())
    assert store.names("runs/toy/code/checkpoints/100/")
    store.refuse()


def wait_until(condition):
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
