"""The commands of this project under one name: codellama-jax COMMAND, or python -m codellama_jax COMMAND.

    codellama-jax launch --gin_file=gin/lcft.gin   is the same as   python xm_launch.py --gin_file=gin/lcft.gin

Each command is a module with main(argv), which returns the exit code. Only the module of the requested
command is imported, by its name: this file depends on none of the commands.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence

from codellama_jax import __version__
from codellama_jax.errors import EXIT_DONE, EXIT_USAGE

# Command -> its module, and what it does.
COMMANDS = {
    "launch": ("xm_launch", "run a stage, here or on TPUs in the cloud; status, logs and stop"),
    "train": ("codellama_jax.train", "train one stage in this process; every host runs this"),
    "plan": ("codellama_jax.plan", "compile a stage for a TPU slice without one: memory, time, cost"),
    "convert": ("codellama_jax.convert", "import, export and compare checkpoints: Hugging Face, Meta, llama2.c"),
    "generate": ("codellama_jax.generate", "complete text and fill holes in files with a trained model"),
    "serve": ("codellama_jax.serve", "serve a model to editors and other clients"),
    "evaluate": ("codellama_jax.evaluate", "run benchmarks on a model or an endpoint, in a sandbox"),
    "inspect": ("tasks.inspect", "print documents and statistics of a task or mixture"),
    "build": ("tasks.build", "make a deduplicated training set from source code"),
    "self_instruct": (
        "tasks.self_instruct",
        "make dialogues of questions and solutions that models write, by running them",
    ),
}


def usage() -> str:
    """The text of --help."""
    rows = "".join(f"  {name:<14}{text}\n" for name, (_, text) in COMMANDS.items())
    return (
        "usage: codellama-jax COMMAND [FLAGS]\n\n"
        f"Code Llama's training recipe in JAX and Flax, version {__version__}.\n\n"
        f"commands:\n{rows}\n"
        "codellama-jax COMMAND --help lists the flags of a command."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command named by the first argument; returns its exit code, or 2 if there is no such command."""
    name, *arguments = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return EXIT_DONE
    if name == "--version":
        print(__version__)
        return EXIT_DONE
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        message = f"error: unknown command {name}: {hint}The commands are {', '.join(COMMANDS)}"
        print(message, file=sys.stderr)
        return EXIT_USAGE
    module = importlib.import_module(COMMANDS[name][0])
    code: int = module.main(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
