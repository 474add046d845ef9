"""How programs of a language are compiled, run and judged.

In the languages other than Python a program and its test are one process, and the published rule is its exit code. A
program that exits early would pass. So the last statement of a test prints a marker, a random text that did not exist
when the program was written; a program passes only if its output has that line.
"""

import dataclasses
import functools
import hmac
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from codellama_jax.evaluation.sample import Judgement
from codellama_jax.sandbox.jobs import MIB, Commands, Limits, Outcome, Step

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"  # what programs in the sandbox have, and so what is searched
_TELLING = re.compile("error|Error|Exception|Assert")  # a line of output that says why a program ended
_ASSERTION = re.compile("Assertion|ERR_ASSERTION|Exception: Test failed")  # in the line about a failed assertion
_SCRATCH = Path("/tmp")  # in the sandbox, a folder of the program's own


@dataclasses.dataclass(frozen=True)
class Language:
    """A language other than Python.

    Attributes:
        title: its name in messages.
        file: name of the source file.
        commands: what compiles and runs it. A word in braces is the path of a tool.
        remedy: how the first words of `commands` are installed.
        marker: the statement that prints the marker, which stands for {}.
        depth: number of closing braces at the end of a test that follow its last statement.
        tools: the words in braces -> how each is installed.
        version: the command that shows the version, in its first line.
        failures: texts of standard error with which a program has failed although its exit code is 0.
        silent: whether a program that writes anything else than the marker has failed.
    """

    title: str
    file: str
    commands: Sequence[str]
    remedy: str
    marker: str
    depth: int = 0
    tools: Mapping[str, str] = dataclasses.field(default_factory=dict)
    version: str = ""
    failures: Sequence[str] = ()
    silent: bool = False

    def missing(self, paths: Mapping[str, Path | None]) -> str:
        """What its programs need and is not here, with the remedy; "": nothing. `paths` has those of the tools."""
        for command in self.commands:
            program = command.partition(" ")[0]
            if not program.startswith("./") and find(program) is None:
                elsewhere = shutil.which(program)
                found = f" ({elsewhere} is not visible in the sandbox)" if elsewhere else ""
                return f"{program} is not in {SYSTEM_PATH.replace(':', ', ')}{found}: {self.remedy}"
        for tool, remedy in self.tools.items():
            path = paths.get(tool)
            if path is None:
                return f"{tool} was not found: {remedy}"
            if not path.exists():
                return f"{path} does not exist: {remedy}"
            if path.is_relative_to(_SCRATCH):
                return f"{path} is not visible in the sandbox, whose programs have a {_SCRATCH} of their own: move it"
        return ""

    def job(self, source: str, paths: Mapping[str, Path | None], cpu_seconds: float) -> Commands:
        """Compiles and runs a program."""
        steps = [[word.format_map(paths) for word in command.split()] for command in self.commands]
        limits = Limits(cpu_seconds=cpu_seconds, memory=1024 * MIB, processes=64, scratch=64 * MIB)
        return Commands({self.file: source}, tuple(Step(tuple(step)) for step in steps), limits)

    def marked(self, test: str, marker: str) -> str:
        """A test whose last statement prints the marker."""
        position = len(test)
        for _ in range(self.depth):
            position = test.rindex("}", 0, position)
        return f"{test[:position]}\n{self.marker.replace('{}', marker)}\n{test[position:]}"

    def judged(self, outcome: Outcome, marker: str) -> Judgement:
        """Whether a program reached the end of its test, and ended with exit code 0."""
        if not outcome.passed:
            return Judgement(False, reason=self._reason(outcome))
        lines = outcome.stdout.splitlines()
        if marker not in lines:
            return Judgement(False, reason="error: the program ended before the end of its test")
        if any(failure in outcome.stderr for failure in self.failures):
            return Judgement(False, reason="failed: an assertion of the test")
        if self.silent and (any(line and line != marker for line in lines) or outcome.stderr):
            return Judgement(False, reason="failed: the test has written something")
        return Judgement(True)

    def _reason(self, outcome: Outcome) -> str:
        """Why a program that did not pass failed, in one line."""
        message = outcome.message
        if outcome.exit_code:  # it ended by itself, after its message or before a trace
            lines = [line.strip() for line in (outcome.stderr + outcome.stdout).splitlines()]
            message = next((line for line in lines if _TELLING.search(line)), message)[:500]
        if outcome.step < len(self.commands) - 1:
            return f"{outcome.status}: {self.commands[outcome.step].partition(' ')[0]}: {message}"
        return f"{'failed' if _ASSERTION.search(message) else outcome.status}: {message}"


def find(program: str) -> Path | None:
    """The path of a program that is visible in the sandbox."""
    found = shutil.which(program, path=SYSTEM_PATH)
    return Path(found) if found else None


def marker_of(secret: bytes, *sample: str) -> str:
    """The marker of a sample: random, and the same whenever the process asks for it."""
    return hmac.new(secret, "\0".join(sample).encode(), "sha256").hexdigest()


@functools.cache
def version(command: str) -> str:
    """The first line that a command prints; "" if it fails."""
    try:
        done = subprocess.run(command.split(), capture_output=True, text=True, timeout=60, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines and not done.returncode else ""
