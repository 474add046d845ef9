"""Names of cloud resources: valid, within the limits, and different for different runs."""

import random
import re

import pytest

from launch.gke import jobset
from launch.resource_names import PREFIX, recorded, resource_name
from launch.source_archive import Archive
from launch.tpu_vm import commands

SHORT = ("7b", "seven", "lcft7b", "run-a", "a", "2024-run", "a--b", "long-but-not-too-long-name")
CHANGED = (
    *("Run_A", "run_a", "RUN-A", "run.a", "run a", "run-a-", "run-a--", "", "_", "-", "--", "run/a", "../run", "a\nb"),
    *("模型", "模型二", "Ärger", "Arger", "ärger", "a\u0308rger", "run\udce9", "🦙", "x" * 61, "x" * 300),
    *("a" * 100 + end for end in ("", "1", "2", "-1", "_1", "A", "模")),
    *("a" * 28 + end for end in ("b" * 30, "B" * 30)),
)
STAGES = ("code", "lcft", "instruct", "python_code", "python", "python_lcft", "Code", "étape")
TPU_VM = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
CONFIG_MAP = re.compile(r"[a-z0-9]([-a-z0-9]{0,251}[a-z0-9])?")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LARGEST = (999, 9999)  # slices, and hosts of a slice


def tpu_vm(run: str) -> str:
    return commands.TpuVmCommands(run, "p", "z").resource


def names(run: str) -> list[tuple[str, re.Pattern[str]]]:
    """All names of a run's resources, in a fixed order."""
    source = Archive("0" * 16, "0" * 16, b"")
    named = [(tpu_vm(run), TPU_VM), (jobset.run_label(run), LABEL), (jobset.source_name(run, source), CONFIG_MAP)]
    return [*named, *((jobset.jobset_name(run, stage), TPU_VM) for stage in STAGES)]


def random_runs(count: int) -> set[str]:
    """Names that are likely to collide: few characters, of which most are replaced or removed."""
    rng = random.Random(0)
    alphabet = "abAB01-_. é模"
    lengths = (1, 2, 3, 5, 28, 34, 41, 47, 60, 61, 100)
    runs = {"".join(rng.choices(alphabet, k=rng.choice(lengths))) for _ in range(count)}
    runs |= {run.lower() for run in runs} | {f"{run}-{stage}" for run in list(runs)[:200] for stage in STAGES}
    # names that look like those with a digest
    return runs | {name.removeprefix(f"{PREFIX}-") for run in list(runs)[:200] for name, _ in names(run)}


def test_different_runs_never_have_the_same_name():
    runs = {*SHORT, *CHANGED, *random_runs(2000)}
    for kind in (tpu_vm, jobset.run_label):
        assert len({kind(run) for run in runs}) == len(runs)
    pairs = [(run, stage) for run in runs for stage in STAGES]
    assert len({jobset.jobset_name(*pair) for pair in pairs}) == len(pairs), "stages do not collide with runs either"


def test_names_are_valid_and_within_the_limits():
    for run in (*SHORT, *CHANGED, *random_runs(100)):
        for name, pattern in names(run):
            assert pattern.fullmatch(name), (run, name)
        for stage in STAGES:
            slices, hosts = LARGEST
            pod = f"{jobset.jobset_name(run, stage)}-{jobset.REPLICATED_JOB}-{slices}-{hosts}-abcde"
            assert len(pod) <= 63 and TPU_VM.fullmatch(pod)
        assert recorded(run).isascii() and recorded(run).isprintable() and "," not in recorded(run)


@pytest.mark.parametrize("run", SHORT)
def test_short_valid_names_stay_as_they_are(run):
    """So that runs of earlier versions can be stopped."""
    assert tpu_vm(run) == jobset.run_label(run) == f"codellama-jax-{run}"
    assert jobset.jobset_name(run[:20].strip("-"), "lcft") == f"codellama-jax-{run[:20].strip('-')}-lcft"


def test_changed_names_stay_readable():
    assert re.fullmatch("codellama-jax-run-a--[0-9a-f]{12}", tpu_vm("Run_A"))
    assert re.fullmatch("codellama-jax--[0-9a-f]{12}", tpu_vm("模型"))
    assert re.fullmatch("codellama-jax-x-python-code--[0-9a-f]{12}", jobset.jobset_name("x", "python_code"))
    assert len(resource_name("x" * 99, 42)) == 42
