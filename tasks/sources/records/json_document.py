"""Files of JSON that are not lines: an array of objects, or objects over several lines (pretty-printed).

The text is decoded object by object, so memory follows the longest object, not the file.
"""

import codecs
import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.sources.files import Found
from tasks.sources.records.compression import DECODING_ERRORS, open_decompressed
from tasks.sources.records.record_file import BUFFER, Damaged, Record, RecordLocation

# An object with one of these fields that is a list of objects is a container: {"version": 1, "data": [{...}, ...]}.
CONTAINERS = ("data", "rows", "records", "examples")

_HEAD = 1 << 16
_CONTAINER = re.compile(rf'\{{\s*"(?:{"|".join(CONTAINERS)})"\s*:\s*\[\s*\{{')
_SPACE = re.compile(r"[ \t\r\n]*")
_LIST_OF = re.compile(r"\[[ \t\r\n]*([^ \t\r\n])")
# An error at most this many characters before the end of the buffer may be that of a value which continues after it.
_LONGEST_LITERAL = len("-Infinity") + len("\\ud800\\udc00")
_DECODER = json.JSONDecoder()


def is_json_document(file: Found) -> bool:
    """Whether a file of JSON is not one object per line. Reads its first 64 KiB.

    Raises:
        UserError: it cannot be read. (A damaged file is not a document here; reading its lines reports the damage.)
    """
    try:
        with open_decompressed(file) as stream:
            head = stream.read(_HEAD).decode("utf-8-sig", "replace").lstrip()
    except DECODING_ERRORS:
        return False
    if head.startswith("[") or _CONTAINER.match(head):
        return True
    line = head.splitlines()[0].rstrip() if head else ""
    if not line.startswith("{") or line == head.rstrip():
        return False
    try:
        _DECODER.decode(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(line)  # the object continues on the next line; an error before that is damage
    except (ValueError, RecursionError):
        pass
    return False


class JsonDocument:
    """A record is an object of the array, or an object of the file. One shard."""

    def __init__(self, file: Found):
        self.file = file

    def __len__(self) -> int:
        return 1

    def read(self, shard: int) -> Iterator[Record]:
        number = 0
        try:
            with open_decompressed(self.file) as stream:
                for number, (value, size) in enumerate(_Parser(stream).values(), 1):
                    location = RecordLocation(self.file, number, separator="#")
                    yield Record(location, size, functools.partial(_object, value, location))
        except UnicodeDecodeError:
            raise Damaged("it is not UTF-8", RecordLocation(self.file, number + 1, separator="#")) from None
        except json.JSONDecodeError as error:
            raise Damaged(f"not JSON ({error.msg})", RecordLocation(self.file, number + 1, separator="#")) from None
        except (*DECODING_ERRORS, RecursionError) as error:
            raise Damaged(error, RecordLocation(self.file, number + 1, separator="#")) from None


def _object(value: Any, location: RecordLocation) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Damaged("the record is not a JSON object", location)
    return value


class _Parser:
    """Decodes the values of a stream one after the other."""

    def __init__(self, stream: Any):
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._position, self._ended = "", 0, False
        self._damage: Exception | None = None  # raised when everything before it has been read

    def values(self) -> Iterator[tuple[Any, int]]:
        """The records with their sizes: the elements of each array, and each object.

        Raises:
            json.JSONDecodeError: the rest is not JSON.
        """
        while character := self._next():
            if character == "[":
                yield from self._array()
            elif character == "{":
                yield from self._container()
            else:
                raise self._error("Expecting an object or an array")

    def _array(self) -> Iterator[tuple[Any, int]]:
        self._expect("[")
        if self._next() == "]":
            return self._expect("]")
        while True:
            yield self._value()
            if self._next() == "]":
                return self._expect("]")
            self._expect(",")

    def _container(self) -> Iterator[tuple[Any, int]]:
        """The object; or the elements of its list, if it is a container."""
        self._expect("{")
        fields: dict[str, Any] = {}
        total, is_container = 2, False
        while self._next() != "}":
            if total > 2:
                self._expect(",")
                self._next()
            key, key_size = self._value()
            if not isinstance(key, str):
                raise self._error("Expecting a name in double quotes")
            self._next()
            self._expect(":")
            if key in CONTAINERS and self._begins_list_of_objects():
                is_container = True
                yield from self._array()
                total += key_size
            else:
                fields[key], size = self._value()
                total += key_size + size
        self._expect("}")
        if not is_container:
            yield fields, total

    def _begins_list_of_objects(self) -> bool:
        if self._next() != "[":
            return False
        while (match := _LIST_OF.match(self._text, self._position)) is None and not self._ended:
            self._fill()
        return match is not None and match[1] == "{"

    def _value(self) -> tuple[Any, int]:
        """The next value and its length in characters."""
        if not self._next():
            raise self._error("the file is truncated")
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                near_end = error.pos >= len(self._text) - _LONGEST_LITERAL
                if self._ended or not (near_end or error.msg.startswith("Unterminated string")):
                    raise
            else:
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                if self._ended or end < len(self._text) or not is_number:  # the digits of a number may continue
                    size, self._position = end - self._position, end
                    return value, size
            self._fill()

    def _next(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            match = _SPACE.match(self._text, self._position)
            assert match is not None
            self._position = match.end()
            if self._position < len(self._text) or self._ended:
                return self._text[self._position : self._position + 1]
            self._fill()

    def _expect(self, character: str) -> None:
        """Reads this character. `_next` must have been called."""
        if self._text[self._position : self._position + 1] != character:
            raise self._error(f"Expecting '{character}'" if self._next() else "the file is truncated")
        self._position += 1

    def _error(self, message: str) -> json.JSONDecodeError:
        return json.JSONDecodeError(message, self._text, self._position)

    def _fill(self) -> None:
        """Reads on. The size doubles as long as a value is not complete: a long one is not scanned too often."""
        rest = self._text[self._position :]
        if self._damage is not None:
            raise self._damage
        parts, size = [rest], 0
        while size <= len(rest) and not self._ended:
            try:
                data = self._stream.read1(BUFFER)  # read would discard what precedes damage of compressed data
                parts.append(self._decoder.decode(data, not data))
            except DECODING_ERRORS as error:
                self._damage = error
                break
            size, self._ended = size + len(data), not data
        self._text, self._position = "".join(parts), 0
