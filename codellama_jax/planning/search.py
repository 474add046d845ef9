"""Ways to compute a stage on a slice, found by trying: what makes it fit, and what is fastest by its bound."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from codellama_jax.config.run import Config
from codellama_jax.errors import UserError
from codellama_jax.planning.aot_compile import Compiler
from codellama_jax.planning.chips import Topology

TRIED_SLICES = 3  # doublings of the slice that are tried for a stage that does not fit

# From everything computed again to nothing: (Llama.remat, Llama.offload).
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
# Devices that may have one window together: more would each have little of it, and send its keys and values about.
SHARING = 2
AS_FAST = 1.005  # bounds nearer than this are one


@dataclasses.dataclass(frozen=True)
class Change:
    """A stage computed in another way: the bindings that say so, and the slice."""

    bindings: tuple[str, ...]
    slice_: Topology
    config: Config


def changed(config: Config, slice_: Topology, **values: Any) -> Change:
    """The change to these fields: remat, offload, micro_batches, context, tensor, fsdp."""
    parts = {"llama": ("remat", "offload"), "stage": ("micro_batches",), "mesh": ("data", "fsdp", "context", "tensor")}
    bindings, replaced = list[str](), {}
    for part, fields in parts.items():
        old = getattr(config, part)
        new = {field: values[field] for field in fields if field in values and values[field] != getattr(old, field)}
        replaced[part] = dataclasses.replace(old, **new)
        for field, value in new.items():
            written = f"'{value}'" if value == "" else value
            bindings.append(f"{type(old).__name__}.{field}={written}")
    return Change(tuple(bindings), slice_, dataclasses.replace(config, **replaced))


def micro_batch_counts(config: Config, where: Topology, least: int = 1) -> list[int]:
    """Powers of two times `least`, while there are windows for all devices in each micro-batch; `least` if there never
    are. Where the context axis is left to be chosen, up to SHARING devices may have one window together."""
    mesh, stage = config.mesh, config.stage
    counts, count = [], least
    rows = max(where.devices // (mesh.context or SHARING) // mesh.tensor, 1)
    while stage.batch_size % (count * rows) == 0:
        counts.append(count)
        count *= 2
    return counts or [least]


# ---------------------------------------------------------------- what would make it fit


def changes(config: Config, slice_: Topology) -> Iterator[Change]:
    """Changes to try, the cheapest first: more micro-batches, everything recomputed as well, then larger slices."""
    llama = config.llama
    remats = list(dict.fromkeys([(llama.remat, llama.offload), ("full", llama.offload)]))
    where: Topology | None = slice_
    for _ in range(TRIED_SLICES + 1):
        if where is None:
            return
        for remat, offload in remats:
            for count in micro_batch_counts(config, where, config.stage.micro_batches):
                change = changed(config, where, remat=remat, offload=offload, micro_batches=count)
                if change.bindings or where is not slice_:
                    yield change
        where = where.larger()


def remedy(
    config: Config, slice_: Topology, compiler: Compiler, say: Callable[[str], None], *, forward: bool = False
) -> dict[str, Any] | None:
    """The first of the changes with which the stage fits; None if none of them helps.

    `say` is told what is tried.
    """
    for change in changes(config, slice_):
        say(f"does not fit; with {' '.join((*change.bindings, change.slice_.name))}")
        try:
            facts = compiler.facts(change.config, change.slice_, estimate=False, forward=forward)
        except UserError:
            continue  # a slice that the batch cannot be cut for
        if facts["fits"]:
            return {
                "bindings": list(change.bindings),
                "topology": change.slice_.slice_name,
                "chips": change.slice_.chips,
                "peak_bytes": facts["peak_bytes"],
            }
    return None


# ---------------------------------------------------------------- what is fastest


def search(
    config: Config, slice_: Topology, compiler: Compiler, say: Callable[[str], None]
) -> list[tuple[Change, dict[str, Any]]]:
    """What fits, the fastest by its bound first, with the facts of each.

    Each of POLICIES is tried with as few micro-batches as let it fit, since more of them only send the parameters about
    more often; then, with the best of them, meshes other than the one that is chosen without being told.
    """
    found = list[tuple[Change, dict[str, Any]]]()

    def tried(**values: Any) -> bool:
        """Whether it fits, and not only because the compiler computes again what the policy keeps."""
        change = changed(config, slice_, **values)
        say(f"{len(found)} found; trying {' '.join(change.bindings) or 'the configuration as it is'}")
        try:
            facts = compiler.facts(change.config, slice_, estimate=False)
        except UserError:
            return False  # a mesh that the batch or the model cannot be cut for
        if facts["fits"]:
            found.append((change, facts))
        return facts["fits"] and not facts["recomputed"]

    for remat, offload in POLICIES:
        for count in micro_batch_counts(config, slice_):
            if tried(remat=remat, offload=offload, micro_batches=count):
                break
    if not found:
        return []
    best = ranked(found)[0][0].config
    how = {"remat": best.llama.remat, "offload": best.llama.offload}
    context = max(found[0][1]["mesh"]["context"], 1)
    for mesh in ({"tensor": 2}, {"tensor": 4}, {"context": 2 * context}, {"fsdp": max(slice_.devices // 4, 1)}):
        tried(**how, **mesh, micro_batches=best.stage.micro_batches)
    return ranked(found)


def ranked(found: list[tuple[Change, dict[str, Any]]]) -> list[tuple[Change, dict[str, Any]]]:
    """By the bound; among those that are as fast by micro-batches, then how little is bound, then memory."""
    fastest = min(max(facts["bound"].values()) for _, facts in found)

    def order(entry: tuple[Change, dict[str, Any]]) -> tuple[float, int, int, int]:
        change, facts = entry
        bound = max(facts["bound"].values())
        near = fastest if bound <= fastest * AS_FAST else bound
        return near, change.config.stage.micro_batches, len(change.bindings), facts["peak_bytes"]

    return sorted(found, key=order)
