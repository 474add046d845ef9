"""A run on a slice of two hosts, from the launcher to the bucket, with nothing played but the cloud itself.

gcloud is the stand-in, which runs what is meant for the hosts through bash, each in a home of its own; the packages are
this interpreter's, and what a TPU host's environment tells JAX of its neighbours is told by variables. Training, the
bucket's clients, the launcher and what it runs on the hosts are the real ones.
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
from launch.executor import Requirements
from launch.job import ROOT, Experiment, Job
from launch.local.executor import free_port
from launch.tpu_vm.executor import TpuVm
from tests.launch.stand_in import HOSTS, Cloud
from tests.object_store import object_store

ACTIVE, SUSPENDED = {"out": "ACTIVE\n"}, {"out": "SUSPENDED\n"}
TOY = ("Llama.dim=16", "Llama.heads=2", "Llama.kv_heads=1", "Llama.ffn_dim=16", "Llama.layers=1")
TOY += ("CODE_WARMUP=4", "CODE_LENGTH=64", "CODE_BATCH_TOKENS=512", "CODE_STEPS=120", "Checkpoints.every=100")
TOY += ("Evaluation.batches=1", "Evaluation.context_windows=0", "Evaluation.samples=0")


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    with object_store(tmp_path / "store") as found:
        yield found


@pytest.fixture
def cloud(tmp_path, monkeypatch, store):
    """With hosts on which `python3 -m uv venv` makes this interpreter's environment, whose processes know the bucket
    and each other."""
    made = Cloud(tmp_path / "cloud", run=True, state=[ACTIVE, SUSPENDED, ACTIVE])
    meet = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port(str(tmp_path))}", "JAX_NUM_PROCESSES": str(len(HOSTS))}
    told = (
        store.environment
        | meet
        | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    )
    host_bin = made.folder / "host_bin"
    host_bin.mkdir()
    (host_bin / "of_host").write_text(
        "#!/bin/bash\n"
        + "".join(f"export {name}={value!r}\n" for name, value in told.items())
        + f'export JAX_PROCESS_ID="${{HOME##*-}}" XDG_CACHE_HOME={os.environ["XDG_CACHE_HOME"]}\n'
        + f'exec {sys.executable} "$@"\n'
    )
    (host_bin / "python3").write_text(
        "#!/bin/bash\n"
        'case "$*" in\n'
        f'  *"uv --quiet venv"*) mkdir -p "${{!#}}/bin" && ln -sf {host_bin}/of_host "${{!#}}/bin/python";;\n'
        '  *"pip install"*) ;;\n'
        f'  *) exec {sys.executable} "$@";;\n'
        "esac\n"
    )
    for program in host_bin.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    yield made
    assert not made.running, "a slice is left"


def test_a_slice_that_is_preempted_and_then_loses_a_host_goes_on_from_the_bucket(cloud, store, capfd):
    files = ("gin/code.gin", "gin/models/local.gin")
    config = gin_files.load(files, TOY).resolve()
    paths = tuple(str(ROOT / file) for file in files)
    job = Job("code", paths, TOY, "gs://bucket/runs", "toy", (), config)
    harm = threading.Thread(target=harmed, args=(cloud, store))
    harm.start()
    needs = Requirements(topology=topology("v5p:2x2x2"), restarts=2)
    assert TpuVm(needs, "p", "z", ("--spot",), pace=0.02).run(Experiment("toy", "gs://bucket/runs", (job,))) == 0
    harm.join()
    once = ["create", "state", "scp", "install", "start", "watch", "result"]
    assert cloud.calls() == [*once, "state", "delete", *once, "delete", *once, "delete"]
    said = capfd.readouterr().out
    [saved] = re.findall(r"saved at step (\d+) of 120", said)
    assert said.count(f"going on from step {saved}\n") == 2 and "report in gs://bucket/runs/toy/report.html" in said
    lines = store.text("runs/toy/code/metrics.jsonl").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 121))
    assert store.names("runs/toy/code/checkpoints/120/checksums.json") and not store.names("runs/toy/code/.lock")
    assert store.names("runs/toy/code/tensorboard/events") and "<svg" in store.text("runs/toy/report.html")


def harmed(cloud, store):
    """Sends one host the signal that comes before a preemption, once it trains; the next time, kills it in a save."""
    of_host = cloud.folder / HOSTS[1] / "codellama_jax/jobs"
    log = cloud.folder / HOSTS[0] / "codellama_jax/jobs/code.0/log"
    until(lambda: log.exists() and "step" in log.read_text())
    os.kill(int((of_host / "code.0/process").read_text()), signal.SIGTERM)
    until(lambda: (of_host / "code.1/process").exists())
    store.refuse(("POST|PUT", "/checkpoints/100/.*params", 503))  # so this save does not end
    until(lambda: store.matched()[0])
    os.kill(int((of_host / "code.1/process").read_text()), signal.SIGKILL)
    until(lambda: (of_host / "code.2").exists())
    assert store.names("runs/toy/code/checkpoints/100/")
    store.refuse()


def until(so):
    deadline = time.monotonic() + 200
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
