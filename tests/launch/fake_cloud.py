"""A fake gcloud and kubectl that give scripted answers and record their calls.

As a module, it has FakeCloud, which creates both programs. They call `main` with FOLDER gcloud ARGUMENTS..., hundreds
of times in a test file, so only what they need is imported at the top.
FOLDER/script.json maps each kind of call (see `kind`) to the answers for its first, second, ... call; the last one is
repeated. An answer has the keys "code", "out", "err", "signal" (sent to the launcher meanwhile), "hangs" (after the
signal) and "gone" (the slice is deleted). A call without an answer in the script gets the one of DEFAULTS, or succeeds.
The file FOLDER/exists is present while the slice or the JobSet exists; it has the arguments that created it.
"""

import json
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("host-0", "host-1")


def result(*codes, stop_requested=False, last=("step 3",)):
    """The output of agent.result on all hosts."""
    lines = [
        json.dumps(
            {
                "host": host,
                "code": code,
                "stop_requested": stop_requested,
                "last_lines": last[number % len(last) :][:1],
            }
        )
        for number, (host, code) in enumerate(zip(HOSTS, codes, strict=True))
    ]
    return {"out": "".join(f"\n{line}\n" for line in lines)}


def kind(program, argv):
    """The kind of a call, as one word."""
    words = [word for word in argv if not word.startswith("-")]
    if program == "kubectl" and words[:2] == ["get", "jobsets"]:
        return "list"
    if program == "kubectl":
        return words[0] if words[:2] != ["get", "customresourcedefinition"] else "definition"
    if words[0] in ("config", "storage"):
        return f"{words[0]} {words[1]}"
    if words[3] == "ssh":
        [remote] = [word for word in argv if word.startswith("--command=")]
        for action in ("start", "watch", "result", "stop"):
            if f"launch.tpu_vm.agent {action} " in remote:
                return action
        return "install" if "tar -xzf" in remote else "logs"
    if words[3] == "describe":
        return "describe" if "--format=json" in argv else "state"
    return words[3]


def description(argv, create):
    """The answer to `describe`, from the command that created the slice; {} for a slice of an earlier version."""
    flags = dict(word.removeprefix("--").split("=", 1) for word in create if word.startswith("--") and "=" in word)
    name = next(word for word in argv if word.startswith("codellama-jax"))
    node = {field: dict([flags[field].split("=", 1)]) if field in flags else {} for field in ("labels", "metadata")}
    node["labels"] = node["labels"] or {"codellama-jax": name}
    return {"out": json.dumps({"tpu": {"nodeSpec": [{"node": node}]}})}


DEFAULTS = {
    "state": {"out": "ACTIVE\n"},
    "config get-value": {"out": "(unset)\n"},
    "watch": {"out": "\x1e@@0\x1estep 1\nstep 2\nstep 3\n"},
    "result": result(0, 0),
    "list": {"out": '{"items": []}'},
    "storage ls": {"code": 1, "err": "ERROR: (gcloud.storage.ls) One or more URLs matched no objects."},
}
NOT_FOUND = {"code": 1, "err": "ERROR: NOT_FOUND: Resource was not found"}


def answer_call(folder, program, argv):
    """Records a call and prints its answer; returns the exit code."""
    call, exists = kind(program, argv), folder / "exists"
    with (folder / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps([call, [program, *argv]]) + "\n")
    script = json.loads((folder / "script.json").read_text())
    number = sum(line.startswith(f'["{call}"') for line in (folder / "calls.jsonl").read_text().splitlines()) - 1
    answers = script.get(call, [DEFAULTS.get(call, {})])
    answer = answers[min(number, len(answers) - 1)]
    about_slice = argv[:2] not in (["create", "configmap"], ["delete", "configmap"])
    if call in ("state", "describe", "delete") and about_slice and not exists.exists() and not answer.get("code"):
        answer = {} if "--ignore-not-found" in argv else NOT_FOUND
    elif call == "describe" and "describe" not in script:
        answer = description(argv, json.loads(exists.read_text() or "[]"))
    if "signal" in answer:
        os.kill(os.getppid(), getattr(signal, answer["signal"]))
        signal.pause() if answer.get("hangs") else None
    if script.get("run") and call in ("install", "start", "watch", "result", "stop", "scp"):
        return run_on_hosts(folder, call, argv)
    sys.stdout.write(answer.get("out", ""))
    sys.stderr.write(answer.get("err", ""))
    if answer.get("code", 0) == 0 and call == "create" and about_slice:
        exists.write_text(json.dumps(argv))
    if answer.get("gone") or (answer.get("code", 0) == 0 and call == "delete" and about_slice):
        exists.unlink(missing_ok=True)
    return answer.get("code", 0)


def run_on_hosts(folder, call, argv):
    """Runs the remote command on this machine, once for each host in its own home directory."""
    import subprocess

    homes = [folder / host for host in HOSTS]
    if call == "scp":
        source, target = [word for word in argv if not word.startswith("-")][4:]
        for home in homes:
            home.mkdir(exist_ok=True)
            (home / target.partition(":")[2]).write_bytes(Path(source).read_bytes())
        return 0
    [remote] = [word.removeprefix("--command=") for word in argv if word.startswith("--command=")]
    homes = homes if "--worker=all" in argv else homes[:1]
    path = f"{folder / 'host_bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "LANG": "C.UTF-8", "FAKE_CLOUD": str(folder)}
    ran = [subprocess.Popen(["bash", "-c", remote], cwd=home, env={**environment, "HOME": str(home)}) for home in homes]
    return max(process.wait() for process in ran)


class FakeCloud:
    """A folder with a fake gcloud and kubectl."""

    def __init__(self, folder: Path, **script):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir(parents=True)
        for program in ("gcloud", "kubectl"):
            path = self.bin / program
            run = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); from fake_cloud import main; main()"
            path.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E -c "{run}" {folder} {program} "$@"\n')
            path.chmod(0o755)
        self.script(**script)

    def script(self, **script):
        """Sets the answers by kind of call; `config_get_value` means "config get-value"."""
        kinds = {"storage_cp": "storage cp", "storage_ls": "storage ls", "config_get_value": "config get-value"}
        text = json.dumps({kinds.get(name, name): answers for name, answers in script.items()})
        (self.folder / "script.json").write_text(text)

    def calls(self) -> list[str]:
        """The kinds of the calls so far, in order."""
        return [kind for kind, _ in self.commands()]

    def commands(self) -> list[tuple[str, list[str]]]:
        """The calls so far, as (kind, argv)."""
        path = self.folder / "calls.jsonl"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def launch(self, *flags: str, code: int = 0, stdin: str | None = None) -> str:
        """Runs the launcher with only the programs in `bin`, and without libtpu, so that planning takes no time.

        Asserts the exit code, and that an error is one line. Returns all output.
        """
        import subprocess

        run = subprocess.run(
            [sys.executable, str(ROOT / "xm_launch.py"), *flags],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            input=stdin,
        )
        return self._checked(run.returncode, run.stdout, run.stderr, code)

    def launch_here(self, *flags: str, code: int = 0) -> str:
        """Like `launch`, but in this process: planning needs JAX, whose import takes most of the time of a command."""
        import contextlib
        import io
        from unittest import mock

        import xm_launch

        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self._environment, clear=True),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            returned = xm_launch.main(list(flags))
        return self._checked(returned, out.getvalue(), err.getvalue(), code)

    @property
    def _environment(self) -> dict[str, str]:
        environment = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        return environment | {"PATH": str(self.bin), "XDG_CACHE_HOME": str(self.folder / "cache")}

    @staticmethod
    def _checked(returned: int, out: str, err: str, code: int) -> str:
        """All output of a command, after checks of its exit code and of its errors."""
        assert returned == code, out + err
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(errors) == (1 if code in (1, 2) else 0) and "Traceback" not in err
        return out + err

    @property
    def running(self) -> bool:
        """Whether a slice or JobSet exists."""
        return (self.folder / "exists").exists()


def main():
    """The fake program."""
    sys.exit(answer_call(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
