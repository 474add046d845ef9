"""The history of a checkout, by the command `git`: when its files changed, and which files git ignores."""

import os
import subprocess
from collections.abc import Collection, Iterator

COMMIT = "commit "  # begins the line of a commit in the output of git log, before its time


class GitFailed(Exception):
    """git cannot be run, or refuses the folder; the message says why, in a few words."""


def checkout_of(folder: str, known: dict[str, str]) -> str:
    """The nearest folder above or at an absolute local path that has .git; "" if there is none.

    Args:
        folder: the folder.
        known: folder -> its checkout; the folders that are searched are added.
    """
    if folder not in known:
        parent = os.path.dirname(folder)
        found = os.path.exists(os.path.join(folder, ".git"))
        known[folder] = folder if found else checkout_of(parent, known) if parent != folder else ""
    return known[folder]


def last_changes(checkout: str, paths: Collection[str], count: int) -> dict[str, int]:
    """When files changed last: seconds since 1970, of at least `count` files, those that changed last.

    The history of HEAD is read from its newest commit until enough files are found, and so, of a long history, only a
    part. A commit is read to its end. Merges do not count: the commits that they merge do.

    Args:
        checkout: the folder with .git.
        paths: files, relative to it.
        count: number of files that are needed.

    Raises:
        GitFailed: there is no history.
    """
    wanted, changes, time = set(paths), dict[str, int](), 0
    command = ["log", f"--format={COMMIT}%ct", "--name-only", "--no-renames", "--no-merges", "-z", "HEAD"]
    for entry in _output(checkout, command):
        # with -z, names end with a null character, and the line of a commit with a line feed before its names
        for part in entry.split("\n"):
            if part.startswith(COMMIT) and part.removeprefix(COMMIT).isdigit():
                if len(changes) >= count:
                    return changes
                time = int(part.removeprefix(COMMIT))
            elif part in wanted:
                changes.setdefault(part, time)
    return changes


def uncommitted(checkout: str) -> set[str]:
    """Files, relative to the checkout, whose content is not that of HEAD, and files that git does not know yet.

    Raises:
        GitFailed: git cannot be run here.
    """
    command = ["status", "--porcelain", "--no-renames", "--untracked-files=all", "-z"]
    return {entry[3:] for entry in _output(checkout, command) if entry}


def not_ignored(checkout: str) -> set[str]:
    """Files, relative to the checkout, that git knows or does not ignore. Those of submodules are not among them.

    Raises:
        GitFailed: git cannot be run here.
    """
    return set(_output(checkout, ["ls-files", "--cached", "--others", "--exclude-standard", "-z"]))


def _output(checkout: str, command: list[str]) -> Iterator[str]:
    """The parts of a command's output that null characters separate. Closing the iterator ends the command."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    arguments = ["git", "-C", checkout, "-c", "core.quotePath=false", *command]
    try:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    except OSError as error:
        raise GitFailed(f"the command git cannot be run: {error.strerror}") from None
    assert process.stdout is not None and process.stderr is not None
    with process:
        rest = b""
        try:
            while data := process.stdout.read(1 << 16):
                *parts, rest = (rest + data).split(b"\0")
                yield from (os.fsdecode(part) for part in parts)
            if rest:
                yield os.fsdecode(rest)
            message = process.stderr.read().decode("utf-8", "replace").strip()
        except GeneratorExit:
            process.kill()
            raise
    if process.returncode:
        raise GitFailed(message.partition("\n")[0] or f"git {command[0]} fails")
