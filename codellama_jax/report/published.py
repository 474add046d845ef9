"""The results in the paper that are nearest to those of a model."""

import dataclasses
import math
import re
from collections.abc import Mapping

from codellama_jax.evaluation.table import BENCHMARKS


@dataclasses.dataclass(frozen=True)
class Published:
    """Published results of a benchmark.

    Attributes:
        model: the published model that is nearest to one's own; "": there is none.
        source: where in the paper they are.
        models: name of a model -> metric -> value.
        average: whether results without a variant are averages over the variants.
    """

    model: str
    source: str
    models: Mapping[str, Mapping[str, float]]
    average: bool = False

    def value(self, metric: str, variant: str = "", model: str = "") -> float | None:
        """A result of a model, by default of the nearest one.

        What is published without variants is that of each variant, unless it is the average of them.
        """
        found = self.models.get(model or self.model, {})
        other = None if variant and self.average else found.get(metric)
        return found.get(f"{variant} {metric}", other) if variant else other


def published(benchmark: str, model: str, average: bool = False) -> Published:
    """The published results of a benchmark, and which of them are nearest to a model of this name."""
    kind = BENCHMARKS.get(benchmark)
    if kind is None or not kind.paper:
        return Published("", "", {})
    return Published(nearest(model, list(kind.paper)), kind.paper_source, kind.paper, average)


def nearest(model: str, published: list[str]) -> str:
    """The published model of the same family and the nearest size; the smallest one if the name has no size.

    A family is "Python", "Instruct", or the base models. The base models stand for a family that was not published.
    """
    family = _family(model)
    same = [name for name in published if _family(name) == family] or [n for n in published if not _family(n)]
    size = _size(model) or 0.0
    return min(same or published, key=lambda name: abs(math.log((_size(name) or 1.0) / (size or 1e-9))))


def _family(model: str) -> str:
    return next((family for family in ("python", "instruct") if family in model.lower()), "")


def _size(model: str) -> float | None:
    """Billions of parameters in the name of a model."""
    found = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)\s*[bB](?![a-zA-Z])", model.replace("_", " ").replace("-", " "))
    return float(found[1]) if found else None
