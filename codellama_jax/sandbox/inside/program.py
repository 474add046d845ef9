"""The process of a Python program: it runs the program, and calls its functions for the test."""

import builtins
import contextlib
import operator
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

from codellama_jax.sandbox.inside import values
from codellama_jax.sandbox.inside.channel import Channel, Closed

NAME = "program"  # of its module: not "__main__", so that what stands under that condition does not run

_OPERATIONS: dict[str, Callable] = {
    "call": lambda function, *arguments, **named: function(*arguments, **named),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "iter": iter,
    "next": next,
    "len": len,
    "eq": operator.eq,
    "lt": operator.lt,
    "repr": repr,
    "str": str,
}


class _Objects:
    """The objects of the program to which the test has references."""

    def __init__(self) -> None:
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def refer(self, value: Any) -> int:
        """The number of an object."""
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return number

    def __getitem__(self, number: int) -> Any:
        return self._objects[number]


def serve(source: str, descriptor: int) -> None:
    """Runs a program, reports its names, and then does what the test asks, until the test ends.

    Everything after the first line of the program is under the program's control, this function included: it may
    send whatever it likes. What it can achieve by that is to return values.
    """
    channel, objects = Channel(descriptor), _Objects()
    module = types.ModuleType(NAME)
    sys.modules[NAME] = module
    try:
        exec(compile(source, f"<{NAME}>", "exec"), module.__dict__)
        reply = values.encoded({"names": _names(module.__dict__)}, objects.refer)
    except BaseException as error:
        reply = _raised(error)
    try:
        _flush()
        channel.send(reply)
        while True:
            message = channel.receive()
            try:
                request = values.decoded(message, objects.__getitem__)
                reply = _answer(request["operation"], request["arguments"], request["named"], objects)
            except BaseException as error:
                reply = _raised(error)
            _flush()
            channel.send(reply)
    except Closed:
        return


def _flush() -> None:
    """Output that precedes an answer counts and is shown."""
    with contextlib.suppress(BaseException):
        sys.stdout.flush()


def _names(namespace: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """(name, "module" or "value", value) of each global name."""
    names: list[tuple[str, str, Any]] = []
    for name, value in namespace.items():
        if isinstance(value, types.ModuleType):
            names.append((name, "module", value.__name__))
        elif name != "__builtins__":
            names.append((name, "value", value))
    return names


def _answer(operation: str, arguments: list, named: dict, objects: _Objects) -> bytes:
    before = [values.encoded(argument, objects.refer) for argument in arguments]
    value = _OPERATIONS[operation](*arguments, **named)
    # Tests may read a list that a function has sorted in place.
    changed = {
        index: argument
        for index, argument in enumerate(arguments)
        if isinstance(argument, list | dict | set) and values.encoded(argument, objects.refer) != before[index]
    }
    return values.encoded({"value": value, "changed": changed}, objects.refer)


def _raised(error: BaseException) -> bytes:
    """A reply about an exception. The traceback, without the frames of this file, goes to standard error."""
    try:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        sys.stderr.flush()
        message = str(error)
    except BaseException:
        message = ""
    kind = next(base.__name__ for base in type(error).__mro__ if getattr(builtins, base.__name__, None) is base)
    shown = type(error).__name__
    return values.encoded({"raised": [kind, shown, message[:2000]]}, lambda value: 0)


def run_script(source: str) -> int:
    """Runs a program as the main program; its exit code."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        exec(compile(source, f"<{NAME}>", "exec"), module.__dict__)
        code: Any = 0
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        _raised(error)
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return (code or 0) & 0xFF
