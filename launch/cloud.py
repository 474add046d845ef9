"""The few things that every executor in the cloud asks of gcloud: settings, and files in buckets."""

import datetime
import json
import shutil

from codellama_jax.errors import EXIT_USAGE, UserError
from launch.command import Command, Result, execute

UNSET = "(unset)"


def installed() -> bool:
    """Whether there is a gcloud."""
    return shutil.which("gcloud") is not None


def require(program: str = "gcloud") -> None:
    """Raises UserError, with the cure, if there is no such program."""
    if shutil.which(program) is None:
        cure = "https://cloud.google.com/sdk/docs/install"
        more = " and `gcloud components install kubectl`" if program == "kubectl" else " and `gcloud auth login`"
        raise UserError(f"no {program} on this machine: see {cure}{more}")


def setting(name: str, flag: str, given: str | None) -> str:
    """What was given, or what gcloud is set to.

    Args:
        name: as gcloud has it, such as "compute/zone".
        flag: of the launcher.
        given: its value, None if it was left out.

    Raises:
        UserError: neither.
    """
    if given:
        return given
    require()
    found = execute(Command(("gcloud", "config", "get-value", name, "--quiet")))
    value = found.out.decode().strip()
    if found.code or not value or value == UNSET:
        raise UserError(f"no {flag} is set: add --{flag}=VALUE, or run gcloud config set {name} VALUE", EXIT_USAGE)
    return value


def listed(folder: str) -> list[str]:
    """What is in a folder of a bucket, folders with a slash at their end; nothing if there is none.

    Raises:
        UserError: it cannot be read.
    """
    found = _storage("ls", folder)
    if found.code and "matched no objects" in found.err:
        return []
    return _read(found, folder).out.decode().split()


def read(path: str, last: int | None = None) -> bytes:
    """A file of a bucket, or its last bytes.

    Raises:
        UserError: it cannot be read.
    """
    return _read(_storage("cat", *([] if last is None else [f"--range=-{last}"]), path), path).out


def updated(path: str) -> float | None:
    """When a file of a bucket was written last, in seconds since 1970; None if there is none.

    Raises:
        UserError: there is no gcloud.
    """
    found = _storage("ls", "--json", path)
    try:
        written = json.loads(found.out)[0]["metadata"]["updated"]
        return datetime.datetime.fromisoformat(written).timestamp()
    except (ValueError, LookupError):
        return None


def probe(folder: str) -> list[Command]:
    """What finds out whether a folder of a bucket can be written."""
    path = f"{folder}/.codellama_jax_probe"
    return [
        Command(("gcloud", "storage", "cp", "-", path, "--quiet"), "can the run folder be written?", "probe\n"),
        Command(("gcloud", "storage", "rm", path, "--quiet")),
    ]


def _storage(*arguments: str) -> Result:
    require()
    return execute(Command(("gcloud", "storage", *arguments)))


def _read(found: Result, what: str) -> Result:
    if found.code:
        raise UserError(f"{what} cannot be read ({found.reason}): check --run_dir, and gcloud auth login")
    return found
