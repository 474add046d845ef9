"""Modules of the user's own that a configuration imports, such as those that register SeqIO tasks."""

import importlib
import os
import sys
from collections.abc import Iterable

from codellama_jax.errors import UserError
from codellama_jax.runtime.console import quiet_stderr


def import_modules(names: Iterable[str]) -> None:
    """Imports modules, which are also searched for in the current directory (last).

    Commands call this with Config.imports before they open data.

    Raises:
        UserError: a module cannot be imported; names it, the cause and the remedy.
    """
    for name in names:
        folder = os.getcwd()
        if folder not in sys.path and "" not in sys.path:
            sys.path.append(folder)
        try:
            with quiet_stderr():  # such a module imports SeqIO, and so TensorFlow, which writes notes
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
