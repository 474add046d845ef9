"""The tokenizer that all steps of the experiment share: trained on the mixture of all corpora."""

from pathlib import Path

from codellama_jax.config import gin_files
from codellama_jax.config.data import Corpus, Filters, Tokenizer
from codellama_jax.runtime import filesystem
from tasks.tokenizer_training import trained_tokenizer

_FILES = ("gin/code.gin", "gin/paper/tokenizer.gin")


def ensure_tokenizer(path: Path, size: str) -> None:
    """Writes the tokenizer unless it is there: the size file's TOKENIZER, or one that is trained.

    Raises:
        UserError: as trained_tokenizer.
    """
    if not path.exists():
        settings = gin_files.load([*_FILES, size], []).resolve(Corpus, Filters, Tokenizer)
        tokenizer = trained_tokenizer(settings.corpus, settings.filters, settings.tokenizer)
        filesystem.write_atomically(path, tokenizer.model)
