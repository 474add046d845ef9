"""JSON objects in checkpoints of other formats, without duplicate keys, and checks of the numbers in them."""

import json
import math
from pathlib import Path
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem, git_lfs


class DuplicateKey(ValueError):
    """An object has a key twice. JSON readers silently take one of the two values."""


def loads(text: str | bytes) -> Any:
    """Parses JSON.

    Raises:
        DuplicateKey: an object has a key twice.
        ValueError: the text is not JSON, or has NaN or Infinity, which are not JSON values.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("its objects are nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DuplicateKey(f'the key "{key}" occurs twice')
        found[key] = value
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON value")


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file whose content is an object.

    Raises:
        UserError: there is no such file, or its content is not a JSON object, or a key occurs twice.
    """
    git_lfs.check(path)
    try:
        content = loads(filesystem.read_bytes(path).decode("utf-8"))
        if isinstance(content, dict):
            return content
        reason = "it is not a JSON object"
    except DuplicateKey as error:
        raise UserError(f"{path}: {error}, and readers take different ones: remove one of the two") from None
    except FileNotFoundError:
        raise UserError(f"{path} is missing: fetch the complete checkpoint again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        reason = str(error)
    raise UserError(f"{path} is damaged ({reason}): fetch it again")


def whole_number(path: Path, key: str, value: Any) -> int:
    """A value that must be a whole number above 0.

    Args:
        path, key: where the value is, for the message.
        value: the JSON value.

    Raises:
        UserError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < 1:
        raise UserError(
            f"{path} does not describe a Llama: {key} is {json.dumps(value)}, not a whole number above 0; correct it"
        )
    return int(value)


def number(path: Path, key: str, value: Any, *, above: float = 0.0, least: float = -math.inf) -> float:
    """A value that must be a finite number above `above` and at least `least`.

    Args:
        path, key: where the value is, for the message.
        value: the JSON value.
        above, least: exclusive and inclusive lower bound.

    Raises:
        UserError: it is not.
    """
    try:
        valid = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of float
        valid = False
    if not valid or value <= above or value < least:
        bound = f"of at least {least:g}" if least > above else f"above {above:g}"
        raise UserError(
            f"{path} does not describe a Llama: {key} is {json.dumps(value)}, not a number {bound}; correct it"
        )
    return float(value)


def check_same(path: Path, stated: list[tuple[str, Any]]) -> None:
    """Checks that all (key, value) pairs have the same value.

    Args:
        path: path of the file, for the message.
        stated: keys, and JSON values or objects with a text of their own.

    Raises:
        UserError: two have not; the message has both.
    """
    for key, value in stated[1:]:
        first, expected = stated[0]
        if value != expected:
            raise UserError(
                f"{path}: {first} is {_shown(expected)}, but {key} is {_shown(value)}: which one counts depends on the"
                " reader; remove the wrong one"
            )


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str | int | float | list | dict | None) else str(value)
