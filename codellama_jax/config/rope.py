"""The kinds of rotary embedding: which settings of Llama each of them reads, and what they may be.

The names of the types, and of the values in config.json, are those of Hugging Face's transformers. Its type "linear" is
"default" here, with Llama.rope_scale = 1 / factor. The functions take a Llama, whose module imports this one.
"""

import dataclasses
import math
from typing import Any

from codellama_jax.errors import UserError

# Type -> the settings of Llama that only this type, or some of the types, read; their defaults have no meaning for the
# others.
TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "dynamic": ("rope_factor", "rope_original_positions"),
    "yarn": (
        *("rope_factor", "rope_original_positions", "rope_beta_fast", "rope_beta_slow", "rope_truncate"),
        *("rope_attention_factor", "rope_mscale", "rope_mscale_all_dim"),
    ),
    "llama3": ("rope_factor", "rope_original_positions", "rope_low_freq_factor", "rope_high_freq_factor"),
}
# All settings of a type, including the type itself.
SCALING = ("rope_type", *dict.fromkeys(name for names in TYPES.values() for name in names))
ROPE = ("rope_theta", "rope_scale", *SCALING)  # all settings of the rotary embedding


def check(llama: Any) -> None:
    """Checks these settings of a Llama.

    Raises:
        ValueError: the type is unknown, a value is impossible, or the type does not read a setting that is bound.
    """
    if llama.rope_type not in TYPES:
        raise ValueError(f"Llama.rope_type={llama.rope_type!r} must be one of {', '.join(map(repr, TYPES))}")
    defaults = {field.name: field.default for field in dataclasses.fields(llama)}
    for name in SCALING[1:]:
        if name not in TYPES[llama.rope_type] and getattr(llama, name) != defaults[name]:
            raise ValueError(
                f"Llama.{name}={getattr(llama, name)!r} has no effect with Llama.rope_type={llama.rope_type!r}: remove"
                " it, or bind another type"
            )
    if llama.rope_type == "default":
        return
    if llama.rope_scale != 1:
        raise ValueError(
            f"Llama.rope_scale={llama.rope_scale} and Llama.rope_type={llama.rope_type!r} both change the positions:"
            " bind one of them"
        )
    if not 1 <= llama.rope_factor < math.inf:
        raise ValueError(f"Llama.rope_factor={llama.rope_factor} must be at least 1")
    if llama.rope_original_positions < 1:
        raise ValueError(
            f"Llama.rope_type={llama.rope_type!r} needs Llama.rope_original_positions, the number of positions that the"
            " model was trained on before its rotary embedding was scaled"
        )
    if llama.rope_type == "llama3" and not 0 < llama.rope_low_freq_factor < llama.rope_high_freq_factor < math.inf:
        raise ValueError(
            f"Llama.rope_low_freq_factor={llama.rope_low_freq_factor} must be above 0 and below"
            f" Llama.rope_high_freq_factor={llama.rope_high_freq_factor}"
        )
    if llama.rope_type == "yarn" and not 0 < llama.rope_beta_slow < llama.rope_beta_fast < math.inf:
        raise ValueError(
            f"Llama.rope_beta_slow={llama.rope_beta_slow} must be above 0 and below"
            f" Llama.rope_beta_fast={llama.rope_beta_fast}"
        )
    for name in ("rope_attention_factor", "rope_mscale", "rope_mscale_all_dim"):
        if not 0 <= getattr(llama, name) < math.inf:
            raise ValueError(f"Llama.{name}={getattr(llama, name)} must not be negative; 0: not set")


def check_length(llama: Any, length: int) -> None:
    """Checks that the rotary embedding is a function of the position alone in windows of this length.

    The frequencies of "dynamic" depend on the length of the text beyond rope_original_positions: a cache of keys would
    hold keys of other frequencies, and a packed window has no length of its own.

    Raises:
        UserError: it is not; the message has the base with which the type "default" computes the same for this length.
    """
    original = llama.rope_original_positions
    if llama.rope_type != "dynamic" or length <= original:
        return
    grown = llama.rope_factor * length / original - (llama.rope_factor - 1)
    theta = llama.rope_theta * grown ** (llama.head_dim / (llama.head_dim - 2))
    raise UserError(
        f"Llama.rope_type='dynamic' with {length:,} tokens: beyond Llama.rope_original_positions={original:,} its"
        f" frequencies change with every token; use shorter windows, or bind Llama.rope_type='default' and"
        f" Llama.rope_theta={theta:.10g}, which are its frequencies at this length"
    )


def plain(llama: Any, theta: float, scale: float) -> Any:
    """The model with the type "default", and this base and scale."""
    defaults = {field.name: field.default for field in dataclasses.fields(llama) if field.name in SCALING}
    return dataclasses.replace(llama, **defaults, rope_theta=theta, rope_scale=scale)
