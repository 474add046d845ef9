"""MultiPL-E's HumanEval (arXiv 2208.08227): the tasks of HumanEval, translated to other languages by a program."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from codellama_jax.config.evaluation import HUMANEVAL_STOP
from codellama_jax.config.generation import Sampling
from codellama_jax.config.language_benchmarks import MultiPLE as Settings
from codellama_jax.evaluation import languages, task_files
from codellama_jax.evaluation.benchmarks import humaneval
from codellama_jax.evaluation.benchmarks.by_language import PYTHON, ByLanguage
from codellama_jax.evaluation.languages import Language
from codellama_jax.evaluation.problem import Completion, Problem
from codellama_jax.runtime import filesystem
from codellama_jax.sandbox.jobs import Job

FOLDER = "multipl-e"
FIELDS = ("name", "language", "prompt", "tests", "stop_tokens")
FILE = "humaneval-{}-reworded.jsonl"
# A JVM with one collector thread and one compiler starts and compiles fastest (benchmarks/languages.md).
JAVAC = "javac -J-XX:+UseSerialGC -J-XX:TieredStopAtLevel=1 -J-Xshare:auto -J-Xmx512m -encoding UTF8"
JAVA = "java -XX:+UseSerialGC -Xshare:auto -Xmx512m -ea"
# The compiler ends before optimized code has paid.
TSC = "node --no-opt {typescript}/lib/tsc.js"
_CSC = "csc" if languages.find("csc") else "mcs"  # Microsoft's compiler on Mono, or Mono's own

LANGUAGES = {
    "cpp": Language(
        title="C++",
        file="program.cpp",
        commands=("g++ -std=c++17 program.cpp -o program", "./program"),
        remedy="apt install g++",
        # It needs no header, and no macro of the program can replace it.
        marker='__builtin_puts("\\n{}");',
        depth=1,
        version="g++ --version",
    ),
    "java": Language(
        title="Java",
        file="Problem.java",
        commands=(f"{JAVAC} -cp {{javatuples}} -d . Problem.java", f"{JAVA} -cp {{javatuples}}:. Problem"),
        remedy="apt install default-jdk-headless",
        marker='System.out.println("\\n{}");',
        depth=2,
        tools={"javatuples": "apt install libjavatuples-java, or bind --gin.MultiPLE.javatuples to the file"},
        version="javac -version",
    ),
    "php": Language(
        title="PHP",
        file="program.php",
        commands=("php program.php",),
        remedy="apt install php-cli",
        marker='echo "\\n{}\\n";',
        version="php --version",
    ),
    "ts": Language(
        title="TypeScript",
        file="program.ts",
        commands=(f"{TSC} --target esnext program.ts", "node program.js"),
        remedy="apt install nodejs",
        marker='console.log("\\n{}");',
        tools={"typescript": "npm install -g typescript, or bind --gin.MultiPLE.typescript to npm's folder of it"},
        version=f"{TSC} --version",
    ),
    "cs": Language(
        title="C#",
        file="program.cs",
        commands=(
            f"{_CSC} -d:DEBUG -r:System.Numerics.dll -out:program.exe program.cs",
            "env MONO_TRACE_LISTENER=Console.Error mono program.exe",
        ),
        remedy="apt install mono-mcs mono-runtime",
        marker='Console.WriteLine("\\n{}");',
        depth=2,
        version=f"{_CSC} --version",
        # Mono ends with exit code 0 after a failed assertion.
        failures=("System.Diagnostics.DefaultTraceListener.Fail", "Unhandled Exception"),
    ),
    "sh": Language(
        title="Bash",
        file="program.sh",
        commands=("bash program.sh",),
        remedy="apt install bash",
        marker="printf '\\n{}\\n'",
        version="bash --version",
    ),
    "js": Language(
        title="JavaScript",
        file="program.js",
        commands=("node program.js",),
        remedy="apt install nodejs",
        marker='console.log("\\n{}");',
        version="node --version",
    ),
}
_COMMENTED, _CODE = "    //     public static ", "    public static "


class MultiPLE(ByLanguage[Settings]):
    """Problem.data is the task's row. A task has the same id in each language, which is its variant."""

    name = "multipl_e"
    settings_class = Settings
    languages = LANGUAGES
    averaged = ("cpp", "java", "php", "ts", "cs", "sh")  # of the paper's table 4
    paper_source = "table 4"
    paper: ClassVar = {
        "Code Llama 7B": {"pass@1": 0.263},
        "Code Llama 13B": {"pass@1": 0.306},
        "Code Llama 34B": {"pass@1": 0.364},
        "Code Llama 70B": {"pass@1": 0.453},
        "Code Llama - Instruct 7B": {"pass@1": 0.258},
        "Code Llama - Instruct 13B": {"pass@1": 0.320},
        "Code Llama - Instruct 34B": {"pass@1": 0.361},
        "Code Llama - Instruct 70B": {"pass@1": 0.459},
        "Code Llama - Python 7B": {"pass@1": 0.275},
        "Code Llama - Python 13B": {"pass@1": 0.315},
        "Code Llama - Python 34B": {"pass@1": 0.351},
        "Code Llama - Python 70B": {"pass@1": 0.450},
    }

    def paths(self) -> Mapping[str, Path | None]:
        typescript = Path(self.settings.typescript) if self.settings.typescript else None
        if typescript is None and (command := languages.find("tsc")):
            typescript = command.resolve().parent.parent  # of typescript/bin/tsc
        javatuples = Path(self.settings.javatuples)
        return {"javatuples": javatuples.resolve(), "typescript": typescript.resolve() if typescript else None}

    def read(self, data: Path, language: str) -> list[Problem]:
        name = "py" if language == PYTHON else language
        path = data / FOLDER / FILE.format(name)
        if language == PYTHON and not filesystem.exists(path):
            return self._of_humaneval(data)
        setting = f"sha256_{language}"
        content = task_files.read(path, getattr(self.settings, setting), f"MultiPLE.{setting}")
        rows = task_files.json_lines(path, content, FIELDS)
        if language == "cs" and self.settings.csharp_signature == "repaired":
            rows = [row | {"prompt": row["prompt"].replace(_COMMENTED, _CODE)} for row in rows]
        return [Problem(row["name"], Completion(self._prompt(row)), row, language) for row in rows]

    def sampling(self, problem: Problem) -> Sampling:
        if self.settings.stop:
            return super().sampling(problem)
        return dataclasses.replace(super().sampling(problem), stop=tuple(problem.data["stop_tokens"]))

    def program(self, problem: Problem, completion: str) -> str:
        assert isinstance(problem.input, Completion)
        return f"{problem.input.text}{completion}\n"

    def test(self, problem: Problem) -> str:
        return str(problem.data["tests"])

    def python_job(self, problem: Problem, program: str) -> Job:
        if "tests" in problem.data:
            return super().python_job(problem, program)
        return humaneval.python_test(program, problem.data, self.settings.cpu_seconds)

    def _of_humaneval(self, data: Path) -> list[Problem]:
        """The tasks of HumanEval itself, with names as in MultiPL-E."""
        path = data / humaneval.FILE
        content = task_files.read(path, self.settings.sha256_humaneval, "MultiPLE.sha256_humaneval")
        problems = []
        for row in task_files.json_lines(path, content, humaneval.FIELDS):
            name = f"{row['task_id'].replace('/', '_')}_{row['entry_point']}"
            row["stop_tokens"] = list(HUMANEVAL_STOP)
            problems.append(Problem(name, Completion(self._prompt(row)), row, PYTHON))
        return problems

    def _prompt(self, row: Mapping[str, Any]) -> str:
        prompt: str = row["prompt"]
        return prompt.strip() if self.settings.prompt == "stripped" else prompt
