"""A step of the experiment: one command, whose folder other steps read."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SIZE = "{size}"  # in arguments: the size file
_ROOT = Path(__file__).resolve().parents[2]
_COMMENT = re.compile(r"\s*#.*|\n(?=\n)")
_INCLUDE = re.compile(r"^include '(.+)'", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Step:
    """A command that is run once for each seed.

    Attributes:
        name: of the step, and of its folder.
        arguments: of the Python interpreter. {folder} is the folder of the seed's steps, {seed} its number, {size} the
            size file, {tokenizer} the tokenizer of all steps, {problems} the number of exercises of an evaluation.
        needs: names of the steps that must have ended before.
        minutes: of one core at size study, about: longer steps start first.
    """

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    minutes: float = 1.0

    def command(self, values: Mapping[str, object]) -> list[str]:
        """The arguments with the values of one seed."""
        filled = []
        for argument in self.arguments:
            for name, value in values.items():
                argument = argument.replace("{" + name + "}", str(value))
            filled.append(argument)
        return filled


def training(
    name: str,
    stage: str = "code",
    *,
    initial: str | None = None,
    files: Sequence[str] = (),
    flags: Sequence[str] = (),
    needs: Sequence[str] = (),
    tokenizer: str = "{tokenizer}",
    minutes: float = 4.0,
) -> Step:
    """A stage of training. Its model is in NAME/STAGE.

    Args:
        name: of the step.
        stage: name of its file gin/STAGE.gin.
        initial: "STEP/STAGE", the model that it starts from; None: random parameters.
        files: further gin files, after the size file.
        flags: bindings, without "--gin.".
        needs: steps whose files the flags name, beside that of `initial`.
        tokenizer: its file; empty: the stage trains its own.
        minutes: see Step.
    """
    start = f"'{{folder}}/{initial}'" if initial else "'scratch'"
    bindings = ["Stage.parent=None", f"Checkpoints.initial={start}", "Stage.seed={seed}", "DataLoader.seed={seed}"]
    bindings += [f"TOKENIZER='{tokenizer}'"] * bool(tokenizer) + [*flags]
    arguments = ["xm_launch.py", *(f"--gin_file={file}" for file in (f"gin/{stage}.gin", SIZE, *files))]
    arguments += [f"--gin.{binding}" for binding in bindings]
    parents = [initial.split("/")[0]] if initial else []
    return Step(
        name, (*arguments, "--run_dir={folder}", f"--name={name}"), tuple(dict.fromkeys([*parents, *needs])), minutes
    )


def evaluation(
    name: str,
    model: str,
    benchmarks: str,
    *,
    samples: int = 0,
    flags: Sequence[str] = (),
    needs: Sequence[str] = (),
    minutes: float = 0.5,
) -> Step:
    """An evaluation of the model "STEP/STAGE". Its results are in NAME/results.json.

    Args:
        name, needs, minutes: see `training`.
        benchmarks: their names, with commas.
        samples: for each task; 0: the benchmark's own number.
        flags: bindings, without "--gin.", or further flags.
    """
    arguments = ["-m", "codellama_jax.evaluate", f"--checkpoint={{folder}}/{model}", f"--benchmarks={benchmarks}"]
    arguments += [
        f"--out={{folder}}/{name}",
        "--workers=1",
        "--slots=64",
        "--limit={problems}",
        *([f"--samples={samples}"] if samples else []),
    ]
    arguments += [flag if flag.startswith("--") else f"--gin.{flag}" for flag in flags]
    return Step(name, tuple(arguments), tuple(dict.fromkeys([model.split("/")[0], *needs])), minutes)


def unique(steps: Iterable[Step]) -> list[Step]:
    """The steps of several claims, each once.

    Raises:
        ValueError: two different steps have one name, or a step needs one that is missing.
    """
    found: dict[str, Step] = {}
    for step in steps:
        if found.setdefault(step.name, step) != step:
            raise ValueError(f"two steps are named {step.name}")
    for step in found.values():
        if missing := set(step.needs) - found.keys():
            raise ValueError(f"the step {step.name} needs {sorted(missing)[0]}, which no claim has")
    return list(found.values())


def remaining_minutes(steps: Sequence[Step]) -> dict[str, float]:
    """Name of a step -> minutes of the longest chain of steps that starts with it."""
    by_name = {step.name: step for step in steps}
    chains: dict[str, float] = {}

    def chain(name: str) -> float:
        if name not in chains:
            after = [chain(other) for other, step in by_name.items() if name in step.needs]
            chains[name] = by_name[name].minutes + max(after, default=0.0)
        return chains[name]

    return {name: chain(name) for name in by_name}


def digest(command: Sequence[str], out: Path) -> str:
    """Identifies a command, wherever the experiment's folder is, with the bindings of the gin files that it reads."""
    content = [json.dumps([argument.replace(str(out), "OUT") for argument in command])]
    waiting = [
        _ROOT / argument.removeprefix("--gin_file=") for argument in command if argument.startswith("--gin_file=")
    ]
    while waiting:
        text = waiting.pop().read_text()
        content.append(_COMMENT.sub("", text))
        waiting += [_ROOT / name for name in _INCLUDE.findall(text)]
    return hashlib.sha256("\0".join(content).encode()).hexdigest()[:16]
