"""The GKE executor: its manifest against the published schema, its commands against a kubectl that plays a script."""

import copy
import dataclasses
import os

import pytest
import yaml

from codellama_jax.errors import UserError
from codellama_jax.planning.chips import topology
from codellama_jax.runtime.distributed import PEER_LOST
from launch import capacity, source_archive
from launch.executor import Requirements
from launch.gke import jobset
from launch.gke.executor import Gke
from launch.job import Experiment
from launch.libtpu_flags import BUNDLES, NONE
from tests.launch.stand_in import Cloud
from tests.launch.tpu_vm.test_tpu_vm import job

IMAGE = "us-docker.pkg.dev/p/r/codellama_jax:1"
READY, DONE = ["create", "create"], ["delete", "delete"]


def executor(name="v5p-128", **more) -> Gke:
    return Gke(Requirements(topology=topology(name), restarts=3), IMAGE, pace=0.001, **more)


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    made = Cloud(tmp_path / "cloud", get=[{"out": "Completed,0"}])
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/local/sbin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield made
    assert not made.running, "a JobSet is left"


def run(*jobs, **more) -> int:
    return executor(**more).run(Experiment("seven", "gs://b/runs", jobs or (job(),)))


def manifest(name, spot=False, slices=1):
    slice_ = topology(name, slices)
    needs = Requirements(topology=slice_, restarts=3, libtpu_bundle=next(iter(BUNDLES[slice_.chip.name]), NONE))
    return yaml.safe_load(jobset.manifest(job(), needs, source_archive.source(), IMAGE, spot=spot))


def closed(schema):
    """The schema with nothing allowed that it does not name: Kubernetes itself drops what it does not know."""
    schema = copy.deepcopy(schema)
    stack = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
                node["additionalProperties"] = False
            stack += node.values()
        elif isinstance(node, list):
            stack += node
    return schema


@pytest.fixture(scope="module")
def schema(shared_data):
    text = (shared_data / "schemas/jobset.x-k8s.io_jobsets.crd.yaml").read_text()
    resource = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    [version] = [one for one in resource["spec"]["versions"] if one["name"] == "v1alpha2"]
    found = closed(version["schema"]["openAPIV3Schema"])
    found["properties"]["metadata"] = {"type": "object"}
    return found


@pytest.mark.parametrize("name", ["v4-128", "v5litepod-256", "v5p-128", "v6e-256", "tpu7x-128", "v5p:2x4x8", "v6e:1x1"])
def test_the_manifest_is_of_the_published_schema(schema, name):
    jsonschema = pytest.importorskip("jsonschema")
    for spot in (False, True):
        jsonschema.Draft202012Validator(schema).validate(manifest(name, spot))
    jsonschema.Draft202012Validator(schema).validate(manifest(name, slices=2))
    broken = manifest(name)
    broken["spec"]["failurePolicy"]["maxRestart"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(broken)


def test_what_the_manifest_asks_for(monkeypatch):
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    found = manifest("v5p:2x4x8", spot=True)
    [replicated] = found["spec"]["replicatedJobs"]
    of_slice = replicated["template"]["spec"]
    assert (replicated["replicas"], of_slice["parallelism"], of_slice["completions"]) == (1, 16, 16)
    assert of_slice["backoffLimit"] == 0 and found["spec"]["failurePolicy"]["maxRestarts"] == 3
    pod = of_slice["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "2x4x8",
        "cloud.google.com/gke-spot": "true",
    }
    [container] = pod["containers"]
    assert container["command"] == ["python", "-m", "codellama_jax.train", *job().shipped_arguments]
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert {"name": "LIBTPU_INIT_ARGS", "value": " ".join(BUNDLES["v5p"]["overlap"])} in container["env"]
    assert pod["terminationGracePeriodSeconds"] > job().config.checkpoints.grace_seconds
    [rule] = of_slice["podFailurePolicy"]["rules"]
    assert 75 not in rule["onExitCodes"]["values"] and 0 not in rule["onExitCodes"]["values"]


def test_several_slices_are_several_jobs_of_one_jobset(cloud, monkeypatch):
    """GKE tells the pods of a JobSet how their slices meet: nothing else differs from one slice."""
    monkeypatch.setattr(capacity, "check", lambda jobs, slice_: [])
    one, three = manifest("v5p:4x4x4"), manifest("v5p:4x4x4", slices=3)
    assert three["spec"]["replicatedJobs"][0].pop("replicas") == 3 * one["spec"]["replicatedJobs"][0].pop("replicas")
    assert one == three
    assert (
        one["metadata"]["annotations"]["alpha.jobset.sigs.k8s.io/exclusive-topology"] == "cloud.google.com/gke-nodepool"
    )
    slices = dataclasses.replace(executor(), requirements=Requirements(topology=topology("v5p:4x4x4", 3)))
    shown = "\n".join(slices.show(Experiment("seven", "gs://b/runs", (job(),))))
    assert "job-index=0,batch.kubernetes.io/job-completion-index=0" in shown, "one host of all is followed"
    cloud.script(get=[{"out": "Failed,0"}])
    assert slices.run(Experiment("seven", "gs://b/runs", (job(),))) == 1
    [last] = [argv for what, argv in cloud.commands() if what == "logs" and "--prefix" in argv]
    assert "--max-log-requests=48" in last


def test_what_is_shown_is_what_runs(cloud):
    experiment = Experiment("seven", "gs://b/runs", (job("code"), job()))
    shown = list(executor().show(experiment))
    assert cloud.calls() == []
    cloud.script(get=[{"out": ",0"}, {"out": "Completed,0"}] * 2)
    assert executor().run(experiment) == 0
    ran = [argv for what, argv in cloud.commands() if what != "get"]
    for line in shown:
        if "gcloud storage" not in line:
            os.system(line)
    assert [argv for what, argv in cloud.commands() if what != "get"][len(ran) :] == ran
    manifests = [line for line in shown if "kubectl create --filename=-" in line]
    text = manifests[1].partition("<<'EOF'\n")[2].removesuffix("\nEOF")
    assert yaml.safe_load(text)["metadata"]["name"] == "codellama-jax-seven-lcft"


def test_it_is_followed_through_restarts(cloud, capfd):
    running = [
        {"out": ",0"},
        {"out": ",0"},
        {"out": ",1"},
        {"code": 1, "err": "Unable to connect"},
        {"out": "Completed,1"},
    ]
    cloud.script(get=running, logs=[{"code": 1, "err": "ContainerCreating"}, {"out": "step 1\n"}, {"out": "step 2\n"}])
    assert run() == 0
    assert cloud.calls() == [*READY, *["get", "logs"] * 4, "get", *DONE]
    seen = capfd.readouterr().out
    assert "step 1\n" in seen and "it starts again (restart 1)" in seen


def test_a_job_that_fails(cloud, capfd):
    said = f"[pod/x-0/train] error: gs://b/c d: no such file\n[pod/x-1/train] error: {PEER_LOST}\n"
    cloud.script(get=[{"out": "Failed,0"}], logs=[{"out": said}])
    assert run(job("code"), job()) == 1
    assert cloud.calls() == [*READY, "get", "logs", *DONE]
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert errors == ["error: gs://b/c d: no such file"]


def test_a_signal_deletes_it(cloud):
    """The pods get SIGTERM, save, and end: kubectl delete waits for them."""
    cloud.script(get=[{"out": ",0"}], logs=[{"signal": "SIGINT", "hangs": True}])
    assert run() == 75
    assert cloud.calls() == [*READY, "get", "logs", *DONE]


def test_one_that_somebody_deleted(cloud):
    cloud.script(get=[{"code": 1, "err": 'Error from server (NotFound): jobsets "x" not found'}])
    assert run() == 75
    assert cloud.calls() == [*READY, "get", *DONE]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"definition": [{"code": 1, "err": "Error from server (NotFound): not found"}]}, "install JobSet in it"),
        ({"definition": [{"code": 1, "err": "Unable to connect to the server"}]}, "get-credentials"),
        ({"get": [{}]}, "exists already"),
        (
            {
                "get": [{"code": 1}],
                "storage_cp": [{"code": 1, "err": "ERROR: 403 caller lacks storage.objects.create"}],
            },
            r"gs://b/runs cannot be written \(403 caller",
        ),
    ],
)
def test_what_is_refused_before_anything_is_created(cloud, script, words):
    cloud.script(**script)
    with pytest.raises(UserError, match=words) as caught:
        executor().check(Experiment("seven", "gs://b/runs", (job(),)))
    assert "\n" not in str(caught.value) and "create" not in cloud.calls()


def test_what_does_not_fit_is_refused_with_what_does(monkeypatch):
    """By arithmetic, as where libtpu is not installed."""
    monkeypatch.setattr(capacity.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        capacity.check([job("code")], topology("v5p:2x2x2"))
    assert "does not fit v5p:2x2x2" in str(caught.value) and "--topology=v5p:4x4x4 (v5p-128)" in str(caught.value)
    with pytest.raises(UserError, match="no slice of v6e fits as the gin files have it"):
        small = job("code")
        llama = dataclasses.replace(small.config.llama, layers=4096)
        large = dataclasses.replace(small, config=dataclasses.replace(small.config, llama=llama))
        capacity.check([large], topology("v6e-64"))
    [answer] = capacity.check([job()], topology("v5p-128"))
    assert answer.fits and 225 < answer.chip_hours < 400, "the compiler's bound is 225"
