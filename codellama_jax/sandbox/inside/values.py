"""Values as text between a program and its test: copies of plain values, references to everything else.

Only exact built-in types, and some of the standard library, are copied; a value of a subclass becomes one of the
built-in type. So nothing arrives whose comparison, arithmetic or truth the program has written itself.
"""

import base64
import builtins
import collections
import datetime
import decimal
import fractions
import json
import types
from collections.abc import Callable
from typing import Any

MOST_BYTES = 32 * 2**20  # of one message


class TooLarge(Exception):
    """A value has more than MOST_BYTES as text."""


# type: (its arguments as plain values, from them)
_LIBRARY: dict[type, tuple[Callable[[Any], list], Callable[..., Any]]] = {
    complex: (lambda value: [value.real, value.imag], complex),
    range: (lambda value: [value.start, value.stop, value.step], range),
    bytes: (lambda value: [base64.b64encode(value).decode()], base64.b64decode),
    bytearray: (lambda value: [base64.b64encode(value).decode()], lambda text: bytearray(base64.b64decode(text))),
    set: (lambda value: [list(value)], set),
    frozenset: (lambda value: [list(value)], frozenset),
    # views of dictionaries, which are equal to sets
    type({}.keys()): (lambda value: [list(value)], lambda keys: dict.fromkeys(keys).keys()),
    type({}.items()): (lambda value: [list(value)], lambda items: dict(items).items()),
    collections.deque: (lambda value: [list(value), value.maxlen], collections.deque),
    decimal.Decimal: (lambda value: [str(value)], decimal.Decimal),
    fractions.Fraction: (lambda value: [value.numerator, value.denominator], fractions.Fraction),
    datetime.date: (lambda value: [value.year, value.month, value.day], datetime.date),
    datetime.datetime: (lambda value: [value.isoformat()], datetime.datetime.fromisoformat),
    datetime.time: (lambda value: [value.isoformat()], datetime.time.fromisoformat),
    datetime.timedelta: (lambda value: [value.days, value.seconds, value.microseconds], datetime.timedelta),
}
_MAPPINGS: dict[type, Callable[[list], Any]] = {
    dict: dict,
    collections.OrderedDict: collections.OrderedDict,
    collections.Counter: lambda items: collections.Counter(dict(items)),
    # its factory belongs to the program, and plays no part in comparisons
    collections.defaultdict: lambda items: collections.defaultdict(None, items),
}
_LIBRARY_NAMES = {kind.__name__: made for kind, (_, made) in _LIBRARY.items()}
_MAPPING_NAMES = {kind.__name__: made for kind, made in _MAPPINGS.items()}
# The type that a value of a subclass becomes; bool has none, and datetime is before date, of which it is one.
_BASES = (
    int,
    float,
    str,
    list,
    tuple,
    *(kind for kind in _MAPPINGS if kind is not dict),
    dict,
    datetime.datetime,
    *(kind for kind in _LIBRARY if kind is not datetime.datetime),
)


def encoded(value: Any, refer: Callable[[Any], Any]) -> bytes:
    """A value as text.

    Args:
        value: the value.
        refer: gives the reference of a value that is not copied, a plain value.

    Raises:
        TooLarge: it has too many bytes.
        RecursionError: it contains itself, or is too deep.
    """
    text = json.dumps(_plain(value, refer), separators=(",", ":"), check_circular=False).encode()
    if len(text) > MOST_BYTES:
        raise TooLarge(f"a value of {len(text):,} bytes; at most {MOST_BYTES:,} are passed to a test")
    return text


def decoded(text: bytes, resolve: Callable[[Any], Any]) -> Any:
    """The value of a text. `resolve` gives the object of a reference.

    Raises:
        ValueError: the text is not one of `encoded`.
    """
    try:
        return _value(json.loads(text), resolve)
    except (KeyError, TypeError, IndexError, ArithmeticError) as error:
        raise ValueError(f"not a value: {error!r}") from None


def _plain(value: Any, refer: Callable[[Any], Any]) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**63 else {"int": hex(value)}
    if kind is list:
        return [_plain(item, refer) for item in value]
    if kind is tuple:
        return {"tuple": [_plain(item, refer) for item in value]}
    if kind in _MAPPINGS:
        items = [[_plain(key, refer), _plain(item, refer)] for key, item in kind.items(value)]  # type: ignore[attr-defined]
        return {"mapping": kind.__name__, "items": items}
    if kind in _LIBRARY:
        return {"type": kind.__name__, "arguments": [_plain(item, refer) for item in _LIBRARY[kind][0](value)]}
    if kind in (type, types.BuiltinFunctionType, type(Ellipsis), type(NotImplemented)):
        name = getattr(value, "__name__", repr(value))
        if getattr(builtins, name, None) is value:
            return {"builtin": name}
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():
        return _plain(value.item(), refer)
    if issubclass(kind, tuple) and isinstance(fields := getattr(kind, "_fields", None), tuple):
        return {"fields": [kind.__name__, *fields], "tuple": _plain(tuple.__add__(value, ()), refer)["tuple"]}
    for base in _BASES:
        if issubclass(kind, base):
            return _plain(_as_base(value, base), refer)
    return {"reference": refer(value)}


def _as_base(value: Any, base: type) -> Any:
    """The value of a built-in type in a value of its subclass, without the methods that the subclass replaces."""
    if base is int:
        return int.__add__(value, 0)
    if base is float:
        return float.__mul__(value, 1.0)
    if base is str:
        return str.__getitem__(value, slice(None))
    if base in (list, tuple, set, frozenset, collections.deque):
        return base(base.__iter__(value))  # type: ignore[call-arg]
    if base in _MAPPINGS:
        return _MAPPINGS[base](list(base.items(value)))  # type: ignore[attr-defined]
    return _LIBRARY[base][1](*_LIBRARY[base][0](value))


def _value(text: Any, resolve: Callable[[Any], Any]) -> Any:
    if isinstance(text, list):
        return [_value(item, resolve) for item in text]
    if not isinstance(text, dict):
        return text
    if "fields" in text:
        name, *fields = text["fields"]
        return collections.namedtuple(name, fields)(*(_value(item, resolve) for item in text["tuple"]))
    if "tuple" in text:
        return tuple(_value(item, resolve) for item in text["tuple"])
    if "mapping" in text:
        return _MAPPING_NAMES[text["mapping"]]([(_value(k, resolve), _value(v, resolve)) for k, v in text["items"]])
    if "type" in text:
        return _LIBRARY_NAMES[text["type"]](*(_value(item, resolve) for item in text["arguments"]))
    if "int" in text:
        return int(text["int"], 16)
    if "builtin" in text:
        return vars(builtins)[text["builtin"]]
    return resolve(text["reference"])
