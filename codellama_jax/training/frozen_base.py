"""Loads the parameters of another checkpoint: all of them as float32, or as the frozen model of a stage with adapters.

A checkpoint of adapters is loaded with the model that it records; their product is added to it.
"""

from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from codellama_jax.config.lora import Lora
from codellama_jax.config.model import Llama
from codellama_jax.kernels.frozen_products import Int8Weight
from codellama_jax.model import lora as adapters
from codellama_jax.sharding import spec, tree_shardings
from codellama_jax.training.adapter_record import AdapterRecord
from codellama_jax.training.checkpoints import load_params, load_some, read_metadata, verify
from codellama_jax.training.step import Params, abstract_params, param_dims, param_shardings


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """Shapes and dtypes with their shardings."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)


def load_model(checkpoint: Path, llama: Llama, mesh: Mesh) -> Params:
    """Loads the parameters of a checkpoint, float32, sharded over the mesh.

    Raises:
        UserError: it is damaged or has other shapes, or the model of its adapters is missing or has changed.
    """
    record = AdapterRecord.of(read_metadata(checkpoint))
    shardings = param_shardings(llama, mesh)
    if record is None:
        return load_params(checkpoint, with_shardings(abstract_params(llama), shardings))
    lora = record.lora
    base = load_model(record.find_base(checkpoint), llama, mesh)
    factors = load_params(checkpoint, with_shardings(abstract_params(llama, lora), param_shardings(llama, mesh, lora)))

    def merged(base: Params, factors: Params) -> Params:
        return adapters.merge_all(adapters.combine(base, factors, lora))

    return jax.jit(merged, out_shardings=shardings, donate_argnums=0)(base, factors)


def load_frozen(checkpoint: Path, llama: Llama, lora: Lora, mesh: Mesh) -> Params:
    """Loads the parameters of a checkpoint in the form of model.lora.freeze, sharded over the mesh.

    Only one array of the checkpoint is in memory as float32 at a time, unless it has adapters itself.

    Raises:
        UserError: see load_model.
    """
    shardings = base_shardings(llama, lora, mesh)
    whole, abstract = None, with_shardings(abstract_params(llama), param_shardings(llama, mesh))
    if AdapterRecord.of(read_metadata(checkpoint)) is not None:
        whole = load_model(checkpoint, llama, mesh)
    else:
        verify(checkpoint)

    def load(path: jax.tree_util.KeyPath, wanted: jax.ShapeDtypeStruct, place: Any) -> Any:
        *groups, name = (str(part.key) for part in path)
        if whole is not None:
            found: Any = whole
            for group in groups:
                found = found[group]
            array = found.pop(name)  # its memory is free when it is frozen
        else:
            nested: Any = {name: wanted}
            for group in reversed(groups):
                nested = {group: nested}
            array = jax.tree.leaves(load_some(checkpoint, nested))[0]
        frozen = jax.jit(lambda x: adapters.freeze(name, x, lora.base_dtype), out_shardings=place)
        return jax.block_until_ready(frozen(array))

    return jax.tree.map_with_path(load, abstract, shardings)


def abstract_base(llama: Llama, lora: Lora) -> Params:
    """Shapes and dtypes of a frozen model."""

    def frozen(path: jax.tree_util.KeyPath, x: Any) -> Any:
        return jax.eval_shape(lambda x: adapters.freeze(str(path[-1].key), x, lora.base_dtype), x)

    return jax.tree.map_with_path(frozen, abstract_params(llama))


def base_shardings(llama: Llama, lora: Lora, mesh: Mesh) -> Params:
    """The sharding of each array of a frozen model, in the structure of `load_frozen`."""
    shardings = tree_shardings(mesh, param_dims(llama))
    if lora.base_dtype == "int8":
        for name in adapters.DIMS:
            scale = NamedSharding(mesh, spec(adapters.scale_dims(name)))
            shardings["blocks"][name] = Int8Weight(shardings["blocks"][name], scale)  # type: ignore[arg-type]
    return shardings
