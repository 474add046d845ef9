"""What embedded sources have in common: each reads one place, whose files no other place can have."""

from collections.abc import Mapping, Sequence

from codellama_jax.config.data import Filters
from codellama_jax.errors import UserError
from tasks.sources import filters
from tasks.sources.duplicates import Identity
from tasks.sources.filters import LeftOut
from tasks.sources.inventory import PlaceInventory


class SinglePlace:
    """The parts of a Source that its place decides.

    Args:
        name: of the stream.
        place: the place.
    """

    def __init__(self, name: str, place: PlaceInventory):
        self.name, self._place = name, place

    def inventory(self) -> Sequence[PlaceInventory]:
        return [self._place]

    def place(self, shard: int) -> int:
        return 0

    def file_splits(self) -> Mapping[Identity, str]:
        return {}


def check_python(settings: Filters, where: str, what: str) -> None:
    """Raises UserError if filters exclude the language of generated functions."""
    try:
        filters.check_code("", "Python", settings)
    except LeftOut:
        raise UserError(
            f"{where}: {what} are in Python, which Filters.languages excludes; correct it, or remove this corpus"
        ) from None
