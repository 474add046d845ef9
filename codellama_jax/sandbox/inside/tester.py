"""The process of a test: it calls the program in the other process, and decides.

Nothing of the program runs here. A value that the program returns arrives as a copy made of built-in types, or as a
Remote, which equals nothing but the same kind of reference.
"""

import ast
import builtins
import contextlib
import importlib
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from typing import Any

from codellama_jax.sandbox.inside import values
from codellama_jax.sandbox.inside.channel import Channel, Closed

_ASSERTED = "__asserted__"
_MOST_TRACE = 8000  # characters
_NAME = "<test>"


class ProgramError(Exception):
    """An exception of a type that the program defines, or one that ended it."""


class Remote:
    """An object of the program.

    It has no arithmetic, and is compared with its like only: the program could answer such questions to its advantage
    whatever the test's values are. `x in object` compares what the object yields with x in this process.
    """

    __slots__ = ("_number", "_program")

    def __init__(self, program: "_Program", number: int):
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._program.do("call", [self, *arguments], named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._program.do("getattr", [self, name])

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.do("setattr", [self, name, value])

    def __getitem__(self, key: Any) -> Any:
        return self._program.do("getitem", [self, key])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._program.do("setitem", [self, key, value])

    def __len__(self) -> int:
        return self._program.do("len", [self])

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator:
        return self._program.do("iter", [self])

    def __next__(self) -> Any:
        return self._program.do("next", [self])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Remote):
            return False
        return other._number == self._number or self._program.do("eq", [self, other]) is True

    def __lt__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._program.do("lt", [self, other]) is True

    def __hash__(self) -> int:
        return self._number

    def __repr__(self) -> str:
        return str(self._program.do("repr", [self]))

    def __str__(self) -> str:
        return str(self._program.do("str", [self]))


class _Program:
    """The program in the other process.

    Attributes:
        calls: number of times that one of its functions was called.
        exceptions: the exceptions that it defines, by name, as classes of this process.
    """

    def __init__(self, channel: Channel):
        self._channel, self.calls = channel, 0
        self._remotes: dict[int, Remote] = {}
        self._functions: list[Callable] = []
        self.exceptions: dict[str, type[Exception]] = {}

    def names(self) -> Iterator[tuple[str, str, Any]]:
        """(name, kind, value) of its global names. Raises what the program has raised."""
        for name, kind, value in self._reply("run")["names"]:
            if kind == "exception":
                base = getattr(builtins, value)
                if not issubclass(base, Exception):
                    continue
                kind, value = "value", self.exceptions.setdefault(name, type(name, (base,), {}))
            yield name, kind, value

    def do(self, operation: str, arguments: list, named: dict | None = None) -> Any:
        """Does something in the program, and makes the changes of its arguments in those of the test."""
        self.calls += operation == "call"
        self._send({"operation": operation, "arguments": arguments, "named": named or {}})
        while "function" in (reply := self._reply(operation)):
            self._send(self._called(reply))
        for index, value in reply["changed"].items():
            _change(arguments[index], value)
        return arguments[reply["same"]] if "same" in reply else reply["value"]

    def _called(self, request: dict) -> dict:
        """Calls a function of the test for the program."""
        try:
            function = self._functions[-1 - request["function"]]
            return {"value": function(*request["arguments"], **request["named"])}
        except Exception as error:
            kind = type(error).__name__
            return {"raised": [kind if getattr(builtins, kind, None) is type(error) else "Exception", str(error)]}

    def _send(self, message: dict) -> None:
        try:
            self._channel.send(values.encoded(message, self._refer))
        except Closed:
            raise ProgramError("the program has ended") from None

    def _reply(self, operation: str) -> dict:
        try:
            reply = values.decoded(self._channel.receive(), self._resolve)
        except Closed:
            raise ProgramError("the program has ended") from None
        if "raised" in reply:
            kind, shown, message = reply["raised"]
            raise self._exception(kind, shown, message, operation)
        return reply

    def _exception(self, kind: str, shown: str, message: str, operation: str) -> Exception:
        other = ProgramError(f"{shown}: {message}".removesuffix(": "))
        known = getattr(builtins, kind, Exception) if shown == kind else self.exceptions.get(shown)
        if not (isinstance(known, type) and issubclass(known, Exception)):
            return other
        if issubclass(known, StopIteration | StopAsyncIteration) and operation != "next":
            return other  # in the midst of a test's own iteration it would end that, and skip assertions
        try:
            return known(message)
        except TypeError:  # such as UnicodeDecodeError, which has five arguments
            return other

    def _refer(self, value: Any) -> int:
        if isinstance(value, Remote):
            return value._number
        if callable(value):
            self._functions.append(value)
            return -len(self._functions)
        raise TypeError(f"a test cannot pass a value of type {type(value).__name__} to a program")

    def _resolve(self, number: Any) -> Any:
        if not isinstance(number, int):
            raise ValueError("not a reference")
        if number < 0:
            return self._functions[-1 - number]
        return self._remotes.setdefault(number, Remote(self, number))


def run(test: str, names: Collection[str], descriptor: int) -> dict[str, str]:
    """Runs a test; its status, a message of one line, and the traceback, if any. `names`: see jobs.PythonTest."""
    program = _Program(Channel(descriptor))
    asserted = 0

    def count() -> None:
        nonlocal asserted
        asserted += 1

    try:
        code = compile(_counted(test), _NAME, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return {"status": "error", "message": f"the test: {error!r}", "trace": ""}
    namespace: dict[str, Any] = {"__name__": "test", _ASSERTED: count}
    try:
        namespace |= _imported(program.names(), names)
        exec(code, namespace)
    except BaseException as error:
        status = "failed" if isinstance(error, AssertionError) and program.calls else "error"
        if isinstance(error, MemoryError):
            status = "memory"
        return {"status": status, "message": _message(error), "trace": _trace(error)}
    if not (asserted and program.calls):
        return {"status": "no_test", "message": "nothing about the program was asserted", "trace": ""}
    return {"status": "passed", "message": "", "trace": ""}


def _imported(names: Iterator[tuple[str, str, Any]], own: Collection[str]) -> dict[str, Any]:
    """The names of a program as globals of its test.

    Built-in functions and modules of the standard library are the test's, except for those in `own`: a program that
    defines `abs` could otherwise answer in its place.
    """
    found: dict[str, Any] = {}
    for name, kind, value in names:
        if name.startswith("__"):
            continue  # what exec itself reads
        if name in own and kind == "value":
            found[name] = value
        elif name in sys.stdlib_module_names:
            with contextlib.suppress(ImportError):  # one of another operating system
                found[name] = importlib.import_module(name)
        elif kind == "module":
            if str(value).partition(".")[0] in sys.stdlib_module_names:
                found[name] = importlib.import_module(value)
        elif not hasattr(builtins, name):
            found[name] = value
    return found


class _Count(ast.NodeTransformer):
    """Counts each assertion of something that is not a constant, when it has held, and each expected exception."""

    def visit_Assert(self, node: ast.Assert) -> Any:
        return node if isinstance(node.test, ast.Constant) else [node, _count()]

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.ExceptHandler:
        self.generic_visit(node)
        if node.type is not None:
            node.body.insert(0, _count())
        return node


def _count() -> ast.Expr:
    return ast.Expr(ast.Call(ast.Name(_ASSERTED, ast.Load()), [], []))


def _counted(test: str) -> ast.Module:
    return ast.fix_missing_locations(_Count().visit(ast.parse(test, _NAME)))


def _change(target: Any, value: Any) -> None:
    """Gives a container of the test the content that the program has given to its copy."""
    if type(target) is not type(value):
        return
    if isinstance(target, list):
        target[:] = value
    elif isinstance(target, dict | set):
        target.clear()
        target.update(value)


def _message(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except BaseException:
        text = ""
    name = type(error).__name__
    if isinstance(error, ProgramError):
        return text[:500]
    return f"{name}: {text}"[:500] if text else name


def _trace(error: BaseException) -> str:
    """The traceback of the test, without the frames of this package."""
    try:
        shown = traceback.TracebackException.from_exception(error)
        shown.stack = traceback.StackSummary.from_list([frame for frame in shown.stack if frame.filename == _NAME])
        return "".join(shown.format(chain=False))[-_MOST_TRACE:]
    except BaseException:
        return ""
