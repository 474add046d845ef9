"""Searches for settings of a stage on a slice by compiling them: a change that makes it fit, or the fastest bound."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from codellama_jax.config.run import Config
from codellama_jax.errors import UserError
from codellama_jax.planning.aot_compile import Compiler
from codellama_jax.planning.chips import Topology

MAX_DOUBLINGS = 3  # maximum number of times that the slice of a stage that does not fit is doubled

# From recomputing everything to recomputing nothing: (Llama.remat, Llama.offload).
POLICIES = (
    ("full", ""),
    ("full", "input"),
    ("attention", ""),
    ("attention", "input"),
    ("q+k+v+attention", ""),
    ("q+k+v+attention", "input"),
    ("q+k+v+attention+middle", ""),
    ("q+k+v+attention+middle+up", ""),
    ("q+k+v+attention+middle+gate+up", ""),
    ("none", ""),
)
# Maximum number of devices per window. With more, each has a small part, and keys and values dominate communication.
MAX_CONTEXT = 2
TIE_RATIO = 1.005  # bounds within this ratio of the fastest count as equally fast

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Change:
    """A changed configuration and slice, with the bindings that produce the change."""

    bindings: tuple[str, ...]
    slice_: Topology
    config: Config


def make_change(config: Config, slice_: Topology, **values: Any) -> Change:
    """Returns the configuration with new values of remat, offload, micro_batches, data, fsdp, context or tensor."""
    parts = {"llama": ("remat", "offload"), "stage": ("micro_batches",), "mesh": ("data", "fsdp", "context", "tensor")}
    bindings, replaced = list[str](), {}
    for part, fields in parts.items():
        old = getattr(config, part)
        new = {field: values[field] for field in fields if field in values and values[field] != getattr(old, field)}
        replaced[part] = dataclasses.replace(old, **new)
        for field, value in new.items():
            text = f"'{value}'" if value == "" else value
            bindings.append(f"{type(old).__name__}.{field}={text}")
    return Change(tuple(bindings), slice_, dataclasses.replace(config, **replaced))


def micro_batch_counts(config: Config, slice_: Topology, least: int = 1) -> list[int]:
    """`least` and its doublings, as long as each micro-batch has windows for all devices; [least] if none has.

    If the context axis is not set, up to MAX_CONTEXT devices may share a window.
    """
    mesh, stage = config.mesh, config.stage
    counts, count = [], least
    rows = max(slice_.devices // (mesh.context or MAX_CONTEXT) // mesh.tensor, 1)
    while stage.batch_size % (count * rows) == 0:
        counts.append(count)
        count *= 2
    return counts or [least]


# ---------------------------------------------------------------- a change with which a stage fits


def candidate_changes(config: Config, slice_: Topology) -> Iterator[Change]:
    """Changes to try, cheapest first: more micro-batches, then also full recomputation, then larger slices."""
    llama = config.llama
    policies = list(dict.fromkeys([(llama.remat, llama.offload), ("full", llama.offload)]))
    larger: Topology | None = slice_
    for _ in range(MAX_DOUBLINGS + 1):
        if larger is None:
            return
        for remat, offload in policies:
            for count in micro_batch_counts(config, larger, config.stage.micro_batches):
                change = make_change(config, larger, remat=remat, offload=offload, micro_batches=count)
                if change.bindings or larger is not slice_:
                    yield change
        larger = larger.larger()


def remedy(
    config: Config, slice_: Topology, compiler: Compiler, report: Report, *, forward: bool = False
) -> dict[str, Any] | None:
    """The first of candidate_changes with which the stage fits, or None. `report` is called before each attempt."""
    for change in candidate_changes(config, slice_):
        report(f"does not fit; trying {' '.join((*change.bindings, change.slice_.name))}")
        try:
            analysis = compiler.analyze(change.config, change.slice_, estimate=False, forward=forward)
        except UserError:
            continue  # the slice does not divide the batch
        if analysis["fits"]:
            return {
                "bindings": list(change.bindings),
                "topology": change.slice_.slice_name,
                "chips": change.slice_.chips,
                "peak_bytes": analysis["peak_bytes"],
            }
    return None


# ---------------------------------------------------------------- the fastest settings


class _Trials:
    """Compiles settings and collects those that fit."""

    def __init__(self, config: Config, slice_: Topology, compiler: Compiler, report: Report):
        self.config, self.slice_ = config, slice_
        self.fitting: list[tuple[Change, dict[str, Any]]] = []
        self._compiler, self._report = compiler, report

    def fits(self, **values: Any) -> bool:
        """Compiles the settings; returns whether they fit without rematerialisation by the compiler itself."""
        change = make_change(self.config, self.slice_, **values)
        self._report(f"{len(self.fitting)} fit; trying {' '.join(change.bindings) or 'the unchanged configuration'}")
        try:
            analysis = self._compiler.analyze(change.config, self.slice_, estimate=False)
        except UserError:
            return False  # the mesh does not divide the batch or the model
        if analysis["fits"]:
            self.fitting.append((change, analysis))
        return analysis["fits"] and not analysis["recomputed"]


def search(config: Config, slice_: Topology, compiler: Compiler, report: Report) -> list[tuple[Change, dict[str, Any]]]:
    """The settings that fit, fastest bound first, each with its analysis.

    Each of POLICIES is tried with the fewest micro-batches with which it fits, because more micro-batches only gather
    the parameters more often. Then meshes other than the default are tried with the best policy.
    """
    trials = _Trials(config, slice_, compiler, report)
    for remat, offload in POLICIES:
        for count in micro_batch_counts(config, slice_):
            if trials.fits(remat=remat, offload=offload, micro_batches=count):
                break
    if not trials.fitting:
        return []
    best = rank(trials.fitting)[0][0].config
    context = max(trials.fitting[0][1]["mesh"]["context"], 1)
    for mesh in ({"tensor": 2}, {"tensor": 4}, {"context": 2 * context}, {"fsdp": max(slice_.devices // 4, 1)}):
        trials.fits(remat=best.llama.remat, offload=best.llama.offload, **mesh, micro_batches=best.stage.micro_batches)
    return rank(trials.fitting)


def rank(fitting: list[tuple[Change, dict[str, Any]]]) -> list[tuple[Change, dict[str, Any]]]:
    """Sorts by bound; equally fast settings by micro-batches, then by the number of bindings, then by memory."""
    fastest = min(max(analysis["bound"].values()) for _, analysis in fitting)

    def order(entry: tuple[Change, dict[str, Any]]) -> tuple[float, int, int, int]:
        change, analysis = entry
        bound = max(analysis["bound"].values())
        rounded = fastest if bound <= fastest * TIE_RATIO else bound
        return rounded, change.config.stage.micro_batches, len(change.bindings), analysis["peak_bytes"]

    return sorted(fitting, key=order)
