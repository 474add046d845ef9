"""Opens a checkpoint of any format for generation: its weights, tokenizer and limits."""

import dataclasses
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from codellama_jax.config.model import Llama
from codellama_jax.conversion import canonical, formats
from codellama_jax.conversion.canonical import Tensor
from codellama_jax.conversion.native import Training
from codellama_jax.errors import UserError
from codellama_jax.generation import forward, shards
from codellama_jax.runtime import filesystem
from codellama_jax.tokenizer import INFILLING_ROWS, Tokenizer
from codellama_jax.training import assets


@dataclasses.dataclass(frozen=True)
class GenerationModel:
    """A model that is ready to generate.

    Attributes:
        llama: shape and numerics.
        weights: from forward.weights_of.
        tokenizer: with infilling ids if the model has rows for them.
        context: the longest window of its training, in tokens.
        format: the format of the checkpoint.
        mesh: the devices of the weights (generation/shards.py); None: one device.
        chat_format: the format of its dialogues, "inst" or "source"; None: not known.
        dialogues: whether it was trained on dialogues.
        training: what its parameters went through, if training of this project wrote it.
    """

    llama: Llama
    weights: forward.Weights
    tokenizer: Tokenizer
    context: int
    format: str
    mesh: Mesh | None = None
    chat_format: str | None = None
    dialogues: bool = False
    training: Training | None = None


def open_model(path: Path, tokenizer: Path | None, dtype: str | None, tensor: int = 0) -> GenerationModel:
    """Opens a checkpoint. Its weights go to their devices one layer at a time, each device's part of it.

    Args:
        path: a stage's folder, a checkpoint, or a folder of another format (formats.open_checkpoint).
        tokenizer: a SentencePiece model; None takes that of the checkpoint.
        dtype: the dtype of matrices, activations and cache; None: float32 on a CPU, bfloat16 elsewhere.
        tensor: number of devices over which the model is cut; 0: see shards.serving_mesh.

    Raises:
        UserError: there is no checkpoint, it is damaged, it has no tokenizer, or `tensor` does not divide it.
    """
    import jax

    opened = formats.open_checkpoint(path)
    source, model = opened.source, opened.source.model
    content = filesystem.read_bytes(tokenizer) if tokenizer else opened.files.get(assets.MODEL)
    if content is None:
        raise UserError(f"{path} has no tokenizer.model: --tokenizer=PATH names one")
    pieces, rows = Tokenizer(content, infilling=False).pieces, model.llama.vocab_size
    if rows < pieces:
        name = tokenizer or assets.MODEL
        raise UserError(f"{name} has {pieces:,} pieces, but {path} has {rows:,} rows: name the model's own --tokenizer")
    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    llama = dataclasses.replace(model.llama, compute_dtype=dtype)

    def read(name: str, layer: int | None) -> np.ndarray:
        out = canonical.shape(llama, name)[0]
        return canonical.to_native(llama, name, source.rows(Tensor(name, layer), 0, out))

    mesh = shards.serving_mesh(llama, tensor)
    weights = forward.weights_of(read, llama, mesh)
    source.close()
    infilling = rows >= pieces + INFILLING_ROWS and not assets.other_infilling_tokens(opened.files, pieces)
    return GenerationModel(
        llama,
        weights,
        Tokenizer(content, infilling),
        opened.lineage.positions,
        opened.format,
        mesh,
        opened.lineage.dialogues,
        opened.lineage.dialogues is not None,
        opened.training,
    )
