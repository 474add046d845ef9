"""The fields of requests in protocols whose servers ignore what they do not know.

Clients of these protocols send fields that change with their version. A field whose name is close to a known one is
still refused: it is a misspelled setting. Other unknown fields are ignored, and logged once.
"""

import difflib
import logging
from collections.abc import Sequence

from starlette.requests import Request

from codellama_jax.serving import http
from codellama_jax.serving.http import ApiError, Fields

logger = logging.getLogger(__name__)

_CLOSE = 0.8  # similarity (difflib) above which a name is a misspelling
_LOGGED = 1000  # number of names that are logged

_logged: set[tuple[str, str]] = set()


class LenientFields(Fields):
    """Fields of a JSON object; see Fields."""

    @classmethod
    def of(cls, fields: Fields) -> "LenientFields":
        """The same fields, none of them read."""
        return cls(fields._values, fields._where)

    def finish(self, ignored: Sequence[str] = ()) -> None:
        """Refuses misspelled fields.

        Args:
            ignored: known fields that change nothing that is generated.
        """
        for name in self.unknown(ignored):
            close = difflib.get_close_matches(name, [*self._known, *ignored], 1, _CLOSE)
            if close:
                raise ApiError(400, f"unknown field {name[:100]!r}: did you mean {close[0]}?", name[:100])
            key = (self._where, name[:100])
            if key not in _logged and len(_logged) < _LOGGED:
                _logged.add(key)
                logger.warning("%s: the field %r is not known, and is ignored", *key)


async def fields(request: Request) -> LenientFields:
    """The fields of a request's body; see http.fields."""
    return LenientFields.of(await http.fields(request))
