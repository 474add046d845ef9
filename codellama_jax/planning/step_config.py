"""The parts of a configuration that determine the compiled step."""

import dataclasses

from codellama_jax.config.bindings import Bindings
from codellama_jax.config.data import Packing, Tokenizer
from codellama_jax.config.model import Llama
from codellama_jax.config.run import Config
from codellama_jax.config.training import AdamW, Mesh, Stage

STEP_PARTS = (Stage, Llama, AdamW, Mesh, Packing)


def shaping_config(bindings: Bindings) -> Config:
    """Resolves STEP_PARTS. A vocabulary size that is derived from the tokenizer is filled in."""
    config = bindings.resolve(*STEP_PARTS)
    return config if config.llama.vocab_size else with_vocabulary(config, bindings.resolve(Tokenizer).tokenizer)


def with_vocabulary(config: Config, tokenizer: Tokenizer) -> Config:
    """Returns the configuration; if its vocabulary size is not set, with that of the tokenizer."""
    if config.llama.vocab_size:
        return config
    rows = tokenizer.vocab_size + 16 * tokenizer.infilling  # as Tokenizer.rows of codellama_jax/tokenizer.py
    return dataclasses.replace(config, llama=dataclasses.replace(config.llama, vocab_size=rows))
