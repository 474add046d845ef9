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
    """The objects of the program to which the test has references, and functions of the test."""

    def __init__(self, functions: Callable[[int], Any]) -> None:
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._function = functions

    def refer(self, value: Any) -> int:
        """The number of an object. That of a function of the test is negative."""
        if isinstance(value, _TestFunction):
            return value.number
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return number

    def __getitem__(self, number: int) -> Any:
        return self._objects[number] if number >= 0 else self._function(number)


class _TestFunction:
    """A function of the test, which the program calls as its own."""

    def __init__(self, number: int, call: Callable[[int, tuple, dict], Any]):
        self.number, self._call = number, call

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._call(self.number, arguments, named)


class _Server:
    """Answers a test, over a channel."""

    def __init__(self, channel: Channel):
        self._channel = channel
        self.objects = _Objects(lambda number: _TestFunction(number, self._call_test))

    def answer_next(self) -> dict | None:
        """Does what the next message asks; a message that is the result of a function of the test is returned."""
        message = self._channel.receive()
        try:
            request = values.decoded(message, self.objects.__getitem__)
            if "operation" not in request:
                return request
            reply = _answer(request["operation"], request["arguments"], request["named"], self.objects)
        except BaseException as error:
            reply = _raised(error)
        self.send(reply)
        return None

    def send(self, message: bytes) -> None:
        """Sends a message. Output that precedes it counts and is shown."""
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        self._channel.send(message)

    def _call_test(self, number: int, arguments: tuple, named: dict) -> Any:
        request = {"function": number, "arguments": list(arguments), "named": named}
        self.send(values.encoded(request, self.objects.refer))
        while (result := self.answer_next()) is None:
            pass
        if "raised" in result:
            kind, message = result["raised"]
            raise getattr(builtins, kind)(message)
        return result["value"]


def serve(source: str, descriptor: int) -> None:
    """Runs a program, reports its names, and then does what the test asks, until the test ends.

    Everything after the first line of the program is under the program's control, this function included: it may
    send whatever it likes. What it can achieve by that is to return values.
    """
    server = _Server(Channel(descriptor))
    module = types.ModuleType(NAME)
    sys.modules[NAME] = module
    try:
        exec(compile(source, f"<{NAME}>", "exec"), module.__dict__)
        reply = values.encoded({"names": _names(module.__dict__)}, server.objects.refer)
    except BaseException as error:
        reply = _raised(error)
    try:
        server.send(reply)
        while True:
            server.answer_next()
    except Closed:
        return


def _names(namespace: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """(name, kind, value) of each global name. Of a module the value is its name, of an exception its built-in base."""
    names: list[tuple[str, str, Any]] = []
    for name, value in namespace.items():
        if isinstance(value, types.ModuleType):
            names.append((name, "module", value.__name__))
        elif isinstance(value, type) and issubclass(value, BaseException) and value.__name__ == name:
            names.append((name, "exception", _builtin_base(value)))
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
    # A function that returns its argument returns the test's own object.
    if isinstance(value, list | dict | set):
        for index, argument in enumerate(arguments):
            if argument is value:
                return values.encoded({"same": index, "changed": changed}, objects.refer)
    return values.encoded({"value": value, "changed": changed}, objects.refer)


def _builtin_base(kind: type[BaseException]) -> str:
    return next(base.__name__ for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base)


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
    raised = [_builtin_base(type(error)), type(error).__name__, message[:2000]]
    return values.encoded({"raised": raised}, lambda value: 0)


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
