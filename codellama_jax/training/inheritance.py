"""Whether a stage computes with its parent's parameters what they were trained for.

The shapes must be equal. A larger RoPE base is reported, because long-context fine-tuning changes it (arXiv 2308.12950,
section 2.4); a stage that is compared with what it starts from keeps its base. A smaller base, another scale of the
positions, another epsilon or another tokenizer makes other numbers of the same parameters: each must be allowed by name
(Checkpoints.allowed_changes). This module does not import JAX, so that the launcher can compare before anything runs.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codellama_jax.config.model import Llama
from codellama_jax.config.rope import SCALING
from codellama_jax.config.run import LLAMA_ADDED, Config
from codellama_jax.config.training import Checkpoints
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from codellama_jax.runtime.run_dir import tokenizer_file
from codellama_jax.tokenizer import MODEL, SentencePieceTokenizer, Tokenizer, open_tokenizer

SHAPE = ("dim", "layers", "heads", "kv_heads", "ffn_dim", "head_width", "qkv_bias", "tied")
COMPARED = ("rope_theta", "rope_scale", "norm_eps")
TOLERANCE = 1e-6  # relative; other formats may have rounded a number to float32


def recorded_model(path: Path | str, metadata: Mapping[str, Any]) -> Llama:
    """The model that a checkpoint records. Raises UserError if this version does not know it."""
    try:
        return Llama(**metadata["llama"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} records a model that this version does not know ({error}): use the version that wrote it"
        ) from None


def check_shape(path: Path | str, recorded: Mapping[str, Any], llama: Llama) -> None:
    """Raises UserError if the parent's model has another shape than the stage's (its vocabulary may be smaller)."""
    if different := first_difference(recorded, llama):
        field, theirs, ours = different
        raise UserError(
            f"{path} has Llama.{field}={theirs}, but this stage has {ours}: a stage must have its parent's size"
        )


def first_difference(recorded: Mapping[str, Any], llama: Llama) -> tuple[str, Any, Any] | None:
    """The first field of SHAPE that differs, its recorded value and that of the model; None if none does.

    Fields that are not recorded are not compared. A head_width that is stated is equal to one that follows from dim and
    heads.
    """
    recorded = {**LLAMA_ADDED, **recorded}
    for field in SHAPE:
        theirs, ours = recorded.get(field), getattr(llama, field)
        if field == "head_width":
            theirs, ours = theirs or _derived_width(recorded), llama.head_dim
        if theirs is not None and theirs != ours:
            return field, theirs, ours
    return None


def _derived_width(recorded: Mapping[str, Any]) -> int | None:
    """The width of a head that follows from other fields, if they are recorded."""
    dim, heads = recorded.get("dim"), recorded.get("heads")
    return dim // heads if dim and heads else None


def check_model(path: Path | str, metadata: Mapping[str, Any], config: Config) -> list[str]:
    """Compares the model of a stage with its parent's.

    Args:
        path: the parent's checkpoint, for messages.
        metadata: of the parent's checkpoint: llama (the fields of Llama) and sequence_length. Checkpoints of other
            programs and versions may lack fields, which are not compared.
        config: the stage's configuration.

    Returns:
        What the user should know: differences that are allowed, and fields that are not recorded. One line each.

    Raises:
        UserError: a difference is not allowed; the message has both values and the remedies.
    """
    recorded, llama = metadata.get("llama") or {}, config.llama
    check_shape(path, recorded, llama)
    notes, allowed = [], config.checkpoints.allowed
    # a stage that says whether it helped compares itself with the model as it was trained
    keeps_base = config.evaluation.infilling_cases > 0
    for field in COMPARED:
        theirs, ours = recorded.get(field), getattr(llama, field)
        if theirs is None or math.isclose(theirs, ours, rel_tol=TOLERANCE):
            continue
        larger_base = field == "rope_theta" and ours > theirs and not keeps_base
        if not larger_base and field not in allowed:
            raise UserError(
                f"{path} was trained with Llama.{field}={theirs:g}, but {config.stage.name} has {ours:g}:"
                f" --gin.Llama.{field}={theirs:g} keeps it,"
                f" --gin.Checkpoints.allowed_changes={field} allows the change"
            )
        name = "the RoPE base" if field == "rope_theta" else f"Llama.{field}"
        notes.append(f"{name} changes from {theirs:,.10g} to {ours:,.10g}")
    notes += _check_rope_type(path, {**LLAMA_ADDED, **recorded}, config)
    notes += _note_on_positions(metadata, config)
    if missing := [f"Llama.{field}" for field in COMPARED if recorded.get(field) is None]:
        notes.append(f"{', '.join(missing)} not recorded in {path}: not compared")
    return notes


def _check_rope_type(path: Path | str, recorded: Mapping[str, Any], config: Config) -> list[str]:
    """Compares the type of the rotary embedding and its values, as check_model does."""
    notes = []
    for field in SCALING:
        theirs, ours = recorded[field], getattr(config.llama, field)
        if theirs == ours:
            continue
        if "rope_type" not in config.checkpoints.allowed:
            raise UserError(
                f"{path} was trained with Llama.{field}={theirs!r}, but {config.stage.name} has {ours!r}:"
                f" --gin.Llama.{field}={theirs!r} keeps it, --gin.Checkpoints.allowed_changes=rope_type allows the"
                " change"
            )
        notes.append(f"Llama.{field} changes from {theirs!r} to {ours!r}")
    return notes


def _note_on_positions(metadata: Mapping[str, Any], config: Config) -> list[str]:
    """A note if the windows are longer than the parent's, and nothing makes up for it."""
    recorded, length = metadata.get("llama") or {}, metadata.get("sequence_length")
    unchanged = all(
        recorded.get(field) is not None and math.isclose(recorded[field], getattr(config.llama, field))
        for field in ("rope_theta", "rope_scale")
    ) and all({**LLAMA_ADDED, **recorded}[field] == getattr(config.llama, field) for field in SCALING)
    if not length or config.stage.sequence_length <= length or not unchanged:
        return []
    return [
        f"windows of {config.stage.sequence_length:,} tokens are longer than the parent's {length:,}, with the same"
        " RoPE base and scale"
    ]


def check_tokenizer(path: Path, tokenizer: Tokenizer, checkpoints: Checkpoints, stage: str) -> list[str]:
    """Compares the tokenizer of a stage with the tokenizer's file of its parent's checkpoint, if there is one.

    A tokenizer that adds pieces after those of the parent is the same for the rows that exist.

    Returns:
        The difference, if it is allowed.

    Raises:
        UserError: a piece differs, and Checkpoints.allowed_changes does not name the tokenizer.
    """
    file = tokenizer_file(path, tokenizer.file_name) or tokenizer_file(path)
    if file is None:
        return []
    try:
        parent = _opened(file, tokenizer)
    except UserError as error:
        return [f"{file} is not compared with the tokenizer of {stage} ({error})"]
    theirs, ours = parent.vocabulary(), tokenizer.vocabulary()
    if parent.file_name != tokenizer.file_name:  # only the texts of ids can be compared
        count = min(parent.pieces, tokenizer.pieces)
        theirs, ours = parent.token_bytes()[:count], tokenizer.token_bytes()[:count]
    differing = next((i for i, piece in enumerate(theirs) if i >= len(ours) or ours[i] != piece), None)
    if differing is None:
        return []
    if "tokenizer" not in checkpoints.allowed:
        raise UserError(
            f"the tokenizer of {stage} differs from {file}, with which {path} was trained, from id {differing} on: bind"
            f" TOKENIZER to that file, or --gin.Checkpoints.allowed_changes=tokenizer allows the change"
        )
    return [f"the tokenizer differs from {file} from id {differing} on"]


def _opened(file: Path, like: Tokenizer) -> Tokenizer:
    """The tokenizer of a file; a SentencePiece model has infilling ids if `like` has."""
    if file.name == MODEL:
        return SentencePieceTokenizer(file.read_bytes(), like.infilling)
    return open_tokenizer(file, infilling=False)


def read_metadata(checkpoint: Path) -> dict[str, Any] | None:
    """The metadata of a checkpoint; None if it cannot be read, which is reported when the stage starts."""
    try:
        metadata = json.loads(filesystem.to_path(str(checkpoint / "metadata" / "metadata")).read_text())
    except (OSError, ValueError, UserError):
        return None
    return metadata if isinstance(metadata, dict) else None
