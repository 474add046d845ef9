"""A sandbox and a small model for all tests of evaluation."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from codellama_jax.config.generation import Serving
from codellama_jax.config.model import Llama
from codellama_jax.conversion import native
from codellama_jax.conversion.generation_model import GenerationModel
from codellama_jax.evaluation.clients.local import LocalModel
from codellama_jax.generation.engine import Engine
from codellama_jax.sandbox.pool import Pool
from codellama_jax.tokenizer import Tokenizer
from codellama_jax.training import assets
from codellama_jax.training.lineage import Lineage
from tests.generation.generation_models import RandomSource, random_params, weights_of


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    with Pool(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def evaluated_llama(small_tokenizer: Tokenizer) -> Llama:
    rows = small_tokenizer.rows
    return Llama(dim=32, layers=1, heads=2, kv_heads=2, ffn_dim=64, vocab_size=rows, compute_dtype="float32")


@pytest.fixture(scope="session")
def evaluated_model(small_tokenizer: Tokenizer, evaluated_llama: Llama) -> GenerationModel:
    weights = weights_of(random_params(evaluated_llama), evaluated_llama)
    return GenerationModel(evaluated_llama, weights, small_tokenizer, 1024, "random", "small", "inst", dialogues=False)


@pytest.fixture(scope="session")
def evaluated_checkpoint(
    small_tokenizer: Tokenizer, evaluated_llama: Llama, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with another model of the same shape."""
    folder = tmp_path_factory.mktemp("evaluated") / "import"
    files = {assets.MODEL: small_tokenizer.model}
    native.write(RandomSource(evaluated_llama), folder, "random", files, Lineage.of({"sequence_length": 1024}))
    return folder


@pytest.fixture(scope="session")
def evaluated_engine(evaluated_model: GenerationModel) -> Engine:
    """One user at a time."""
    model = evaluated_model
    serving = Serving(slots=3, context=1024, chunks=(16, 128))
    return Engine(model.weights, model.llama, serving, model.tokenizer.rows)


@pytest.fixture
def local_client(evaluated_model: GenerationModel, evaluated_engine: Engine) -> LocalModel:
    model = evaluated_model
    return LocalModel(evaluated_engine, model.tokenizer, model.name, model.weights, model.dialogue_format)


@pytest.fixture(scope="session")
def rows_of() -> Callable[[Path], list[dict]]:
    """The records of a file of samples, sorted."""

    def read(path: Path) -> list[dict]:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return sorted(rows, key=lambda row: (row.get("variant", ""), row["task_id"], row["sample"]))

    return read
