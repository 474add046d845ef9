"""Imports the user's modules that a configuration names, such as modules that register SeqIO tasks."""

import importlib
import os
import sys
from collections.abc import Iterable

from codellama_jax.errors import UserError
from codellama_jax.runtime.console import quiet_stderr


def import_modules(names: Iterable[str]) -> None:
    """Imports modules. The current directory is searched last.

    Commands call this with Config.imports before they open data.

    Raises:
        UserError: a module cannot be imported. The message names the module, the cause and the remedy.
    """
    for name in names:
        folder = os.getcwd()
        if folder not in sys.path and "" not in sys.path:
            sys.path.append(folder)
        try:
            with quiet_stderr():  # such a module imports SeqIO and so TensorFlow, which logs to stderr
                importlib.import_module(name)
        except Exception as error:  # the user's code can raise anything
            raise _import_error(name, error) from error


def _import_error(name: str, error: Exception) -> UserError:
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and (name == missing or name.startswith(f"{missing}.")):
        remedy = "install it, or put its folder on PYTHONPATH"
    elif missing is not None:
        remedy = f"install {missing}"
    else:
        remedy = "correct the module; --verbose shows the traceback"
    return UserError(f"the module {name}, which the configuration imports, cannot be imported ({cause}): {remedy}")
