"""The rotary embedding in Hugging Face's config.json. Two values for one fact are refused if they differ.

Versions of transformers read different keys. Version 4 reads rope_theta and rope_scaling. Version 5 reads
rope_parameters, but prefers rope_scaling where a file has both, and the rope_theta inside to the one outside. Exports
have the keys of version 4, which both read.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from codellama_jax.config.model import Llama
from codellama_jax.conversion.json_values import check_same, number, whole_number
from codellama_jax.errors import UserError

PLACES = ("rope_scaling", "rope_parameters")
_ORIGINAL = "original_max_position_embeddings"
# Type in config.json -> its keys there -> the settings of Llama. The type "linear" has another setting, rope_scale.
_KEYS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "rope_scale"},
    "dynamic": {"factor": "rope_factor"},
    "yarn": {
        "factor": "rope_factor",
        _ORIGINAL: "rope_original_positions",
        "beta_fast": "rope_beta_fast",
        "beta_slow": "rope_beta_slow",
        "truncate": "rope_truncate",
        "attention_factor": "rope_attention_factor",
        "mscale": "rope_mscale",
        "mscale_all_dim": "rope_mscale_all_dim",
    },
    "llama3": {
        "factor": "rope_factor",
        _ORIGINAL: "rope_original_positions",
        "low_freq_factor": "rope_low_freq_factor",
        "high_freq_factor": "rope_high_freq_factor",
    },
}
_REQUIRED = {"llama3": ("factor", "low_freq_factor", "high_freq_factor")}  # of the other types: factor
_GENERAL = ("rope_type", "type", "rope_theta", "partial_rotary_factor")  # keys of all types
_SUPPORTED = f"{', '.join(map(repr, list(_KEYS)[:-1]))} and {list(_KEYS)[-1]!r} are supported"


@dataclasses.dataclass(frozen=True)
class _Scaling:
    """A type of config.json with the values of its keys; those that have defaults are left out."""

    kind: str
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        values = [
            f"{key} {value}" if isinstance(value, bool) else f"{key} {value:g}" for key, value in self.values.items()
        ]
        return f"{self.kind} with {', '.join(values)}" if values else "no scaling"


class _Rope(NamedTuple):
    """What one place in the file says of the rotary embedding; None: it does not say.

    Attributes:
        place: the key, such as "rope_parameters.full_attention".
        scaling: the type with its values.
        theta: the base.
    """

    place: str
    scaling: _Scaling | None
    theta: float | None


def read(path: Path, config: dict[str, Any], positions: int) -> dict[str, Any]:
    """The rotary settings of Llama.

    Args:
        path: path of the file, for messages.
        config: its content.
        positions: its max_position_embeddings.

    Raises:
        UserError: the type is unknown, a value is impossible, or two values contradict each other.
    """
    stated = list(_stated(path, config, positions))
    thetas = [(f"{rope.place}.rope_theta", rope.theta) for rope in stated if rope.theta is not None]
    outer = config.get("rope_theta")
    if outer is not None or ("rope_theta" in config and not thetas):
        thetas.insert(0, ("rope_theta", number(path, "rope_theta", outer, above=1)))
    scalings = [(rope.place, rope.scaling) for rope in stated if rope.scaling is not None]
    check_same(path, thetas)
    check_same(path, scalings)
    settings: dict[str, Any] = {"rope_theta": thetas[0][1] if thetas else 1e4}
    scaling = scalings[0][1] if scalings else _Scaling("default")
    if scaling.kind == "linear":
        return settings | {"rope_scale": 1 / scaling.values["factor"]}
    settings |= {_KEYS[scaling.kind][key]: value for key, value in scaling.values.items()}
    if scaling.kind == "dynamic":
        settings |= {"rope_original_positions": positions}
    return settings | {"rope_type": scaling.kind}


def write(llama: Llama) -> dict[str, Any]:
    """The keys of config.json: `read` gives the same settings, if max_position_embeddings is that of `positions`."""
    theta = {"rope_theta": llama.rope_theta}
    if llama.rope_type == "default" and llama.rope_scale == 1:
        return theta
    if llama.rope_type == "default":
        return theta | {"rope_scaling": {"type": "linear", "factor": 1 / llama.rope_scale}}
    values = {key: getattr(llama, name) for key, name in _KEYS[llama.rope_type].items()}
    return theta | {"rope_scaling": {"rope_type": llama.rope_type, **_without_defaults(llama.rope_type, values)}}


def positions(llama: Llama, length: int) -> int:
    """max_position_embeddings of an export: for the type "dynamic", the length from which its frequencies change."""
    return llama.rope_original_positions if llama.rope_type == "dynamic" else length


def unread(config: dict[str, Any]) -> Iterator[str]:
    """The keys of rotary settings that neither their type nor this project reads, of a file that `read` accepts."""
    for place in PLACES:
        value = config.get(place) or {}
        entries = {f"{place}.{name}": entry for name, entry in value.items() if isinstance(entry, dict)}
        for where, entry in (entries or {place: value}).items():
            known = {*_GENERAL, *_KEYS[str(entry.get("rope_type", entry.get("type", "default")))], "factor", _ORIGINAL}
            yield from (f"{where}.{key}" for key in entry if key not in known and entry[key] is not None)


def _without_defaults(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a file of this type has to state, in the order of its keys."""
    defaults = {field.name: field.default for field in dataclasses.fields(Llama)}
    required = (_ORIGINAL, *_REQUIRED.get(kind, ("factor",)))
    keys = {key: name for key, name in _KEYS[kind].items() if key in values}
    return {key: values[key] for key, name in keys.items() if key in required or values[key] != defaults[name]}


def _stated(path: Path, config: dict[str, Any], positions: int) -> Iterator[_Rope]:
    original = config.get(_ORIGINAL)
    for key in PLACES:
        value = config.get(key)
        if value is None or value == {}:
            if key == "rope_scaling" and key in config:  # version 4 writes null, and reads it as no scaling
                yield _Rope(key, _Scaling("default"), None)
            continue
        if not isinstance(value, dict):
            raise UserError(
                f'{path}: {key} is {json.dumps(value)}: it must be an object such as {{"type": "linear", "factor": 4}}'
            )
        nested = {name: entry for name, entry in value.items() if isinstance(entry, dict) or name.endswith("attention")}
        for name, entry in nested.items():  # one set of values for each type of layer
            if not isinstance(entry, dict):
                raise UserError(f"{path}: {key}.{name} is {json.dumps(entry)}, which is not supported")
            yield _one(path, f"{key}.{name}", entry, positions, original)
        flat = {name: entry for name, entry in value.items() if name not in nested}
        if flat:
            yield _one(path, key, flat, positions, original, complete=not nested)


def _one(path: Path, place: str, rope: dict[str, Any], positions: int, original: Any, complete: bool = True) -> _Rope:
    """What one object says. If it is not complete, a missing type is not a statement."""
    kinds = [(f"{place}.{key}", rope[key]) for key in ("rope_type", "type") if key in rope]
    check_same(path, kinds)
    kind = kinds[0][1] if kinds else "default"
    if not isinstance(kind, str) or kind not in _KEYS:
        raise UserError(f"{path}: {place}: rotary scaling of type {kind!r} is not supported ({_SUPPORTED})")
    if rope.get("partial_rotary_factor") not in (None, 1):
        raise UserError(
            f"{path}: {place}.partial_rotary_factor is {rope['partial_rotary_factor']!r}: it is not supported"
        )
    scaling = _scaling(path, place, kind, rope, positions, original)
    theta = rope.get("rope_theta")
    if "rope_theta" in rope:
        theta = number(path, f"{place}.rope_theta", theta, above=1)
    return _Rope(place, scaling if kinds or complete else None, theta)


def _scaling(path: Path, place: str, kind: str, rope: dict[str, Any], positions: int, original: Any) -> _Scaling:
    if kind == "default":
        if rope.get("factor") is not None and number(path, f"{place}.factor", rope["factor"], least=1) != 1:
            raise UserError(
                f"{path}: {place} has a factor of {rope['factor']:g}, but not its type ({_SUPPORTED}): add it"
            )
        return _Scaling(kind)
    for key in _REQUIRED.get(kind, ("factor",)):
        if key not in rope:
            raise UserError(f"{path}: {place} is {kind}, but has no {key}: add it")
    lengths = [(_ORIGINAL, original), (f"{place}.{_ORIGINAL}", rope.get(_ORIGINAL))]
    if kind == "dynamic":
        lengths.insert(0, ("max_position_embeddings", positions))
    lengths = [(where, value) for where, value in lengths if value is not None]
    if kind != "linear":
        check_same(path, lengths)
    values: dict[str, Any] = {}
    if _ORIGINAL in _KEYS[kind]:  # in version 5, the number of positions is the default
        where, length = lengths[0] if lengths else ("max_position_embeddings", positions)
        values[_ORIGINAL] = whole_number(path, where, length)
    if kind == "yarn" and rope["factor"] is None:
        rope = rope | {"factor": positions / values[_ORIGINAL]}
    values["factor"] = number(path, f"{place}.factor", rope["factor"], least=1)
    for key in _KEYS[kind].keys() - values.keys():
        value = rope.get(key)
        if key == "truncate" and value is not None:
            if not isinstance(value, bool):
                raise UserError(f"{path}: {place}.truncate is {json.dumps(value)}, not true or false; correct it")
            values[key] = value
        elif value is not None and not (value == 0 and key not in ("attention_factor", *_REQUIRED.get(kind, ()))):
            values[key] = number(path, f"{place}.{key}", value)  # 0 is read as the default
    if kind == "linear" and values["factor"] == 1:
        return _Scaling("default")
    return _Scaling(kind, _without_defaults(kind, values))
