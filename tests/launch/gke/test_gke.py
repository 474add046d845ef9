"""The GKE executor: its manifest is validated against the published schema, and its commands run a fake kubectl."""

import copy
import dataclasses
import json
import os
import signal

import pytest
import yaml

from codellama_jax.errors import UserError
from codellama_jax.planning.chips import topology
from codellama_jax.planning.libtpu_flags import FLAGS
from codellama_jax.runtime import console
from codellama_jax.runtime.distributed import PEER_LOST
from launch import capacity, source_archive
from launch.executor import Requirements
from launch.gke import jobset
from launch.gke.executor import Gke
from launch.resource_names import recorded
from tests.launch.clock import SimulatedClock
from tests.launch.fake_cloud import FakeCloud
from tests.launch.jobs import experiment, job

IMAGE = "us-docker.pkg.dev/p/r/codellama_jax:1"
READY, DONE = ["create", "create"], ["delete", "delete"]


def executor() -> Gke:
    return Gke(Requirements(topology=topology("v5p-128"), restarts=3), IMAGE, clock=SimulatedClock())


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    console.configure_logging()
    made = FakeCloud(tmp_path / "cloud", get=[{"out": "Completed,0"}])
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/local/sbin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield made
    assert not made.running, "the JobSet was not deleted"


def run(*jobs) -> int:
    return executor().run(experiment(*jobs))


def manifest(name, spot=False, slices=1):
    slice_ = topology(name, slices)
    needs = Requirements(topology=slice_, restarts=3)
    return yaml.safe_load(jobset.manifest(job(), needs, source_archive.source(), IMAGE, spot=spot))


def strict(schema):
    """The schema without permission for unknown properties, which Kubernetes itself ignores."""
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
    found = strict(version["schema"]["openAPIV3Schema"])
    found["properties"]["metadata"] = {"type": "object"}
    return found


@pytest.mark.parametrize("name", ["v4-128", "v5litepod-256", "v5p-128", "v6e-256", "tpu7x-128", "v5p:2x4x8", "v6e:1x1"])
def test_manifest_conforms_to_the_published_schema(schema, name):
    jsonschema = pytest.importorskip("jsonschema")
    for spot in (False, True):
        jsonschema.Draft202012Validator(schema).validate(manifest(name, spot))
    jsonschema.Draft202012Validator(schema).validate(manifest(name, slices=2))
    broken = manifest(name)
    broken["spec"]["failurePolicy"]["maxRestart"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(broken)


def test_manifest_describes_the_slice(monkeypatch):
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    spec = manifest("v5p:2x4x8", spot=True)["spec"]
    [replicated] = spec["replicatedJobs"]
    job_spec = replicated["template"]["spec"]
    assert (replicated["replicas"], job_spec["parallelism"], job_spec["completions"]) == (1, 16, 16)
    assert job_spec["backoffLimit"] == 0 and spec["failurePolicy"]["maxRestarts"] == 3
    pod = job_spec["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "2x4x8",
        "cloud.google.com/gke-spot": "true",
    }
    [container] = pod["containers"]
    assert container["command"] == ["python", "-m", "codellama_jax.train", *job().shipped_arguments]
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert {"name": "LIBTPU_INIT_ARGS", "value": " ".join(FLAGS["v5p"])} in container["env"]
    assert pod["terminationGracePeriodSeconds"] > job().config.checkpoints.grace_seconds
    [rule] = job_spec["podFailurePolicy"]["rules"]
    assert 75 not in rule["onExitCodes"]["values"] and 0 not in rule["onExitCodes"]["values"]


def test_slices_are_replicated_jobs_of_one_jobset(cloud, monkeypatch):
    """Only the number of replicas differs: GKE sets the variables with which pods connect the slices."""
    monkeypatch.setattr(capacity, "check_slice", lambda jobs, slice_, estimator: [])
    one, three = manifest("v5p:4x4x4"), manifest("v5p:4x4x4", slices=3)
    assert three["spec"]["replicatedJobs"][0].pop("replicas") == 3 * one["spec"]["replicatedJobs"][0].pop("replicas")
    assert one == three
    assert (
        one["metadata"]["annotations"]["alpha.jobset.sigs.k8s.io/exclusive-topology"] == "cloud.google.com/gke-nodepool"
    )
    slices = dataclasses.replace(executor(), requirements=Requirements(topology=topology("v5p:4x4x4", 3)))
    shown = "\n".join(slices.show(experiment()))
    assert "job-index=0,batch.kubernetes.io/job-completion-index=0" in shown, "one host of all slices is followed"
    cloud.script(get=[{"out": "Failed,0"}])
    assert slices.run(experiment()) == 1
    [last] = [argv for kind, argv in cloud.commands() if kind == "logs" and "--prefix" in argv]
    assert "--max-log-requests=48" in last


def test_dry_run_prints_the_commands_that_run(cloud):
    both = experiment(job("code"), job())
    shown = list(executor().show(both))
    assert cloud.calls() == []
    cloud.script(get=[{"out": ",0"}, {"out": "Completed,0"}] * 2)
    assert executor().run(both) == 0
    executed = [argv for kind, argv in cloud.commands() if kind != "get"]
    for line in shown:
        if "gcloud storage" not in line:
            os.system(line)
    assert [argv for kind, argv in cloud.commands() if kind != "get"][len(executed) :] == executed
    manifests = [line for line in shown if "kubectl create --filename=-" in line]
    text = manifests[1].partition("<<'EOF'\n")[2].removesuffix("\nEOF")
    assert yaml.safe_load(text)["metadata"]["name"] == "codellama-jax-seven-lcft"


def test_follows_the_job_through_restarts(cloud, capfd):
    running = [
        {"out": ",0"},
        {"out": ",0"},
        {"out": ",1"},
        {"code": 1, "err": "Unable to connect"},
        {"out": "Completed,1"},
    ]
    cloud.script(get=running, logs=[{"code": 1, "err": "ContainerCreating"}, {"out": "step 1\n"}, {"out": "step 2\n"}])
    assert run() == 0
    assert cloud.calls() == [*READY, *["get", "logs"] * 3, "get", "get", *DONE]
    output = capfd.readouterr().out
    assert "step 1\n" in output and "it starts again (restart 1)" in output


def test_error_of_a_failed_job_is_logged(cloud, capfd):
    output = f"[pod/x-0/train] error: gs://b/c d: no such file\n[pod/x-1/train] error: {PEER_LOST}\n"
    cloud.script(get=[{"out": "Failed,0"}], logs=[{"out": output}])
    assert run(job("code"), job()) == 1
    assert cloud.calls() == [*READY, "get", "logs", *DONE]
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert errors == ["error: gs://b/c d: no such file"]


def test_signal_deletes_the_jobset(cloud):
    """The pods get SIGTERM, save and exit: kubectl delete waits for them."""
    cloud.script(get=[{"out": ",0"}], logs=[{"signal": "SIGINT", "hangs": True}])
    assert run() == 75
    assert cloud.calls() == [*READY, "get", "logs", *DONE]


def test_externally_deleted_jobset_is_not_recreated(cloud):
    cloud.script(get=[{"code": 1, "err": 'Error from server (NotFound): jobsets "x" not found'}])
    assert run() == 75
    assert cloud.calls() == [*READY, "get", *DONE]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ({"definition": [{"code": 1, "err": "Error from server (NotFound): not found"}]}, "install JobSet in it"),
        ({"definition": [{"code": 1, "err": "Unable to connect to the server"}]}, "get-credentials"),
        ({"get": [{}]}, "exists already"),
        ({"get": [{"code": 1, "err": "Error from server (Forbidden): x"}]}, "--namespace=default cannot be read"),
        (
            {
                "get": [{"code": 1}],
                "storage_cp": [{"code": 1, "err": "ERROR: 403 caller lacks storage.objects.create"}],
            },
            r"gs://b/runs cannot be written \(403 caller",
        ),
    ],
)
def test_refused_before_anything_is_created(cloud, script, message):
    cloud.script(**script)
    with pytest.raises(UserError, match=message) as caught:
        executor().check(experiment())
    assert "\n" not in str(caught.value) and "create" not in cloud.calls()


WEBHOOK = 'Error from server (InternalError): failed calling webhook "mjobset.kb.io": context deadline exceeded'
FAILURES = {
    "webhook": WEBHOOK,
    "unavailable": "Error from server (ServiceUnavailable): the server is currently unable to handle the request",
    "too many requests": "Error from server (TooManyRequests): the server has received too many requests",
    "network": "Unable to connect to the server: dial tcp 1.2.3.4:443: i/o timeout",
}
EXISTS = {"code": 1, "err": 'Error from server (AlreadyExists): jobsets "x" already exists'}
COMPLETED, DELETING = {"out": "Completed,0,"}, {"out": ",0,2026-11-28T12:00:00Z"}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_of_the_cluster_that_can_pass_are_retried(cloud, capfd, name):
    """At the upload of the source, at the creation of the JobSet, and while it runs."""
    failure = {"code": 1, "err": FAILURES[name]}
    cloud.script(create=[failure, failure, {}, failure, failure, {}], get=[failure] * 3 + [COMPLETED])
    assert run() == 0
    assert cloud.calls() == [*["create"] * 6, *["get"] * 4, *DONE]
    lines = [line for line in capfd.readouterr().out.splitlines() if "; next try in " in line]
    assert len(lines) == 7


@pytest.mark.parametrize(
    "error",
    [
        'admission webhook "vjobset.kb.io" denied the request: pod name is too long',
        'Error from server (Forbidden): jobsets is forbidden: User "me" cannot create resource',
        'Error from server (NotFound): namespaces "x" not found',
        "error: You must be logged in to the server (Unauthorized)",
    ],
)
def test_permanent_failures_of_the_cluster_end_at_once(cloud, error):
    for answers in ([{"code": 1, "err": error}], [{}, {"code": 1, "err": error}]):
        cloud.script(create=answers)
        made = dataclasses.replace(executor(), clock=SimulatedClock())
        with pytest.raises(UserError, match="could not kubectl create"):
            made.run(experiment())
        assert made.clock.waits == []
        (cloud.folder / "calls.jsonl").unlink()


def test_jobset_that_is_being_deleted_is_waited_for(cloud):
    """After `stop`, whose deletion lets the pods save; also in the check before the run."""
    cloud.script(create=[{}, EXISTS, EXISTS, {}], get=[DELETING, DELETING, DELETING, COMPLETED])
    executor().check(experiment())
    assert run() == 0
    calls = [call for call in cloud.calls() if call in ("create", "get", "delete")]
    assert calls == ["get", "create", "create", "get", "create", "get", "create", "get", *DONE]


def test_jobset_of_another_launcher_is_not_deleted(cloud):
    cloud.script(create=[{}, EXISTS], get=[{"out": ",0,"}])
    with pytest.raises(UserError, match="exists already"):
        run()
    assert cloud.calls() == [*READY, "get", "delete"], "only the source"


def test_jobset_that_an_answer_did_not_report_is_used(cloud):
    cloud.script(create=[{}, {"code": 1, "err": WEBHOOK}, EXISTS], get=[{"out": ",0,"}, COMPLETED])
    assert run() == 0
    assert cloud.calls() == ["create", "create", "create", "get", "get", *DONE]


def test_signal_during_a_wait_deletes_what_may_exist(cloud):
    cloud.script(create=[{}, {"code": 1, "err": WEBHOOK}])
    clock = SimulatedClock(lambda clock: os.kill(os.getpid(), signal.SIGINT) if len(clock.waits) == 2 else None)
    assert dataclasses.replace(executor(), clock=clock).run(experiment()) == 75
    assert cloud.calls() == ["create", "create", "create", *DONE]


def listing(*runs: str | None) -> dict:
    items = [
        {"metadata": {"name": f"jobset-{number}", "annotations": {jobset.RUN_ANNOTATION: recorded(run)} if run else {}}}
        for number, run in enumerate(runs)
    ]
    return {"out": json.dumps({"items": items})}


def test_signal_ends_the_tries_of_stop(cloud):
    label = jobset.run_label("seven")
    cloud.script(
        list=[{"out": json.dumps({"items": [{"metadata": {"name": f"{label}-lcft"}}]})}],
        delete=[{"code": 1, "err": "Error from server (ServiceUnavailable): x"}],
    )
    clock = SimulatedClock(lambda clock: os.kill(os.getpid(), signal.SIGINT) if len(clock.waits) == 2 else None)
    with pytest.raises(UserError, match="seven is not deleted and may cost money: stopped by a signal"):
        Gke(Requirements(), IMAGE, clock=clock).stop("gs://b/runs", "seven")


def test_stop_deletes_only_the_jobsets_of_the_run(cloud):
    for run, jobsets, deleted in (
        ("Run_A", listing("Run_A", "run-a"), ["jobset-0"]),
        ("run-a", listing(None, "run-a"), ["jobset-0", "jobset-1"]),  # the first one is of an earlier version
        ("模型", listing("模型"), ["jobset-0"]),
    ):
        cloud.script(list=[jobsets])
        assert executor().stop("gs://b/runs", run) == 0
        kind, argv = cloud.commands()[-1]
        assert kind == "delete" and [word for word in argv if word.startswith("jobset-")] == deleted


@pytest.mark.parametrize("jobsets", [listing(), listing("run-a"), listing(None)])
def test_stop_and_logs_do_not_touch_other_runs(cloud, jobsets):
    cloud.script(list=[jobsets])
    for command in (executor().stop, executor().logs):
        with pytest.raises(UserError, match="Run_A is not running"):
            command("gs://b/runs", "Run_A")
    assert cloud.calls() == ["list", "list"]


def test_imported_module_is_passed_to_the_pods(cloud):
    with pytest.raises(UserError, match="--import=my_tasks: other machines get a copy of"):
        list(executor().show(experiment(job(imports=("my_tasks",)))))
    shown = "\n".join(executor().show(experiment(job(imports=("tasks.inspect",)))))
    assert "- --import=tasks.inspect\n" in shown
