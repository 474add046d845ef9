"""A gcloud and a kubectl that play a script, and write down what they were asked.

As a program: `python stand_in.py FOLDER gcloud ARGUMENTS...`. As a module: Cloud, which puts both on the PATH.
FOLDER/script.json has for each kind of call (`kind`) the answers to its first, second, ... call, the last of which is
given again and again: {"code", "out", "err", "signal": what the launcher gets meanwhile, "gone": the slice is}. What
has no answers succeeds. FOLDER/exists is there while the slice, or the JobSet, is.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

HOSTS = ("host-0", "host-1")


def result(*codes, asked=False, last=("step 3",)):
    """What hosts say of their ends."""
    lines = [
        json.dumps({"host": host, "code": code, "asked": asked, "last_lines": last[number % len(last) :][:1]})
        for number, (host, code) in enumerate(zip(HOSTS, codes, strict=True))
    ]
    return {"out": "".join(f"\n{line}\n" for line in lines)}


def kind(program, argv):
    """What a call is about, in a word."""
    words = [word for word in argv if not word.startswith("-")]
    if program == "kubectl":
        return words[0] if words[:2] != ["get", "customresourcedefinition"] else "definition"
    if words[0] in ("config", "storage"):
        return f"{words[0]} {words[1]}"
    if words[3] == "ssh":
        [remote] = [word for word in argv if word.startswith("--command=")]
        for what in ("start", "watch", "result", "stop"):
            if f"launch.tpu_vm.agent {what} " in remote:
                return what
        return "install" if "tar -xzf" in remote else "logs"
    return words[3] if words[3] != "describe" else "state"


DEFAULTS = {
    "state": {"out": "ACTIVE\n"},
    "config get-value": {"out": "(unset)\n"},
    "watch": {"out": "\x1e@@0\x1estep 1\nstep 2\nstep 3\n"},
    "result": result(0, 0),
    "storage ls": {"code": 1, "err": "ERROR: (gcloud.storage.ls) One or more URLs matched no objects."},
}
NOT_FOUND = {"code": 1, "err": "ERROR: NOT_FOUND: Resource was not found"}


def play(folder, program, argv):
    what, exists = kind(program, argv), folder / "exists"
    with (folder / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps([what, [program, *argv]]) + "\n")
    script = json.loads((folder / "script.json").read_text())
    number = sum(line.startswith(f'["{what}"') for line in (folder / "calls.jsonl").read_text().splitlines()) - 1
    answers = script.get(what, [DEFAULTS.get(what, {})])
    answer = answers[min(number, len(answers) - 1)]
    about_slice = argv[:2] not in (["create", "configmap"], ["delete", "configmap"])
    if what in ("state", "delete") and about_slice and not exists.exists():
        answer = NOT_FOUND
    if "signal" in answer:
        os.kill(os.getppid(), getattr(signal, answer["signal"]))
        signal.pause() if answer.get("hangs") else None
    if script.get("run") and what in ("install", "start", "watch", "result", "stop", "scp"):
        return run_on_hosts(folder, what, argv)
    sys.stdout.write(answer.get("out", ""))
    sys.stderr.write(answer.get("err", ""))
    if answer.get("code", 0) == 0 and what == "create" and about_slice:
        exists.touch()
    if answer.get("gone") or (answer.get("code", 0) == 0 and what == "delete" and about_slice):
        exists.unlink(missing_ok=True)
    return answer.get("code", 0)


def run_on_hosts(folder, what, argv):
    """Runs the remote command here, once for each host in a home of its own."""
    homes = [folder / host for host in HOSTS]
    if what == "scp":
        source, target = [word for word in argv if not word.startswith("-")][4:]
        for home in homes:
            home.mkdir(exist_ok=True)
            (home / target.partition(":")[2]).write_bytes(Path(source).read_bytes())
        return 0
    [remote] = [word.removeprefix("--command=") for word in argv if word.startswith("--command=")]
    homes = homes if "--worker=all" in argv else homes[:1]
    path = f"{folder / 'host_bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "LANG": "C.UTF-8", "STAND_IN": str(folder)}
    ran = [subprocess.Popen(["bash", "-c", remote], cwd=home, env={**environment, "HOME": str(home)}) for home in homes]
    return max(process.wait() for process in ran)


class Cloud:
    """A folder with a gcloud and a kubectl that play its script."""

    def __init__(self, folder: Path, **script):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir(parents=True)
        for program in ("gcloud", "kubectl"):
            path = self.bin / program
            path.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {__file__} {folder} {program} "$@"\n')
            path.chmod(0o755)
        self.script(**script)

    def script(self, **script):
        """Sets the answers; `config_get_value` stands for `config get-value`."""
        named = {"storage_cp": "storage cp", "storage_ls": "storage ls", "config_get_value": "config get-value"}
        text = json.dumps({named.get(what, what): answers for what, answers in script.items()})
        (self.folder / "script.json").write_text(text)

    def calls(self, *without: str) -> list[str]:
        """Kinds of the calls so far, in order."""
        return [what for what, _ in self.commands() if what not in without]

    def commands(self) -> list[tuple[str, list[str]]]:
        """The calls so far: kind, and argv."""
        path = self.folder / "calls.jsonl"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def running(self) -> bool:
        """Whether a slice or JobSet is left."""
        return (self.folder / "exists").exists()


if __name__ == "__main__":
    sys.exit(play(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
