"""The stages and sizes of the recipe, what they require, and how tests load them."""

import pytest

from codellama_jax.config.gin_files import load
from codellama_jax.errors import EXIT_USAGE, UserError

STAGES = ("code", "lcft", "instruct", "python_code", "python", "python_lcft")
SIZES = ("local", "7b", "13b", "34b", "70b")
COMBINATIONS = [(stage, size) for stage in STAGES for size in SIZES]

# Values that a published size requires, and the stages that read them.
REQUIRED = {
    "INITIAL_CHECKPOINT": ("code", "python_code"),
    "TOKENIZER": STAGES,
    "CODE_CORPUS": STAGES,
    "PYTHON_CORPUS": ("python", "python_lcft"),
    "NL_CODE_CORPUS": ("code", "lcft", "python_code", "python", "python_lcft"),
    "NL_CORPUS": STAGES,
    "INSTRUCT_CORPUS": ("instruct",),
}
GIVEN = [f"{name}=/data/{name}" for name in REQUIRED]
NOT_IN_THE_PAPER = {("python_code", "70b"): "PYTHON_CODE_STEPS", ("python_lcft", "70b"): "PYTHON_LCFT_STEPS"}


def files(stage, size):
    return [f"gin/{stage}.gin", f"gin/models/{size}.gin"]


def configure(stage, size, *bindings):
    extra = [f"{NOT_IN_THE_PAPER[stage, size]}=5"] if (stage, size) in NOT_IN_THE_PAPER else []
    return load(files(stage, size), [*(GIVEN if size != "local" else []), *extra, *bindings]).resolve()


def message(function, *arguments, **keywords):
    """The message of the UserError that `function` raises: one line, with the exit code for wrong usage."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **keywords)
    assert caught.value.exit_code == EXIT_USAGE
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refused(*bindings, stage="code"):
    """The message of the UserError that loading or resolving these bindings raises."""

    def run():
        load([f"gin/{stage}.gin"], bindings, default_size="local").resolve()

    return message(run)
