"""Fixtures that more than one file of tests uses."""

import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from codellama_jax.tokenizer import Tokenizer
from tasks.tokenizer_training import train
from tests.object_store import Store, object_store

# TensorFlow reads this when it is imported, by whichever test is first; commands set it before (filesystem.to_path).
os.environ.setdefault("GCS_STAT_CACHE_MAX_AGE", "0")

# Eight devices on any machine, for the laws of sharding; and no silent broadcasting between ranks.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# What takes half a minute or more, the longest first. Of two workers that take a file at a time, one that came to such
# a file last would leave the other idle.
LONGEST = (
    "test_faults.py",
    "test_cascade.py",
    "launch/test_pod.py",
    "tasks/curation/test_build_faults.py",
    "tasks/curation/test_build.py",
    "training/test_gcs_checkpoints.py",
    "launch/local/test_local.py",
    "planning/test_aot_compile.py",
    "kernels/test_attention.py",
    "training/test_step.py",
    "model/test_llama.py",
    "model/test_hf.py",
    "test_sharding.py",
    "training/test_checkpoints.py",
    "conversion/test_convert.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Has pytest-xdist keep this order: it would begin with the files of the most tests, which are the quick ones."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of LONGEST, then the others as they were."""
    order = {Path(__file__).parent / file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


# What tests compare with, where `make test` has put it: behind the environment's packages, not among them.
sys.path.append(str(Path(__file__).resolve().parent.parent / ".venv" / "oracles"))

# What tends to break a tokenizer, a cut or a format: white space, line ends, wide and control characters, and text that
# looks like control tokens. Without U+2581, the one character that does not survive SentencePiece.
_STRANGE = [*" \t\n\r\0\x7f\u2028\u00a0\ufeff\U0010ffff🙂éx", "", "  ", "\r\n", "\n    ", "e\u0301", "生活", "1234"]
_STRANGE += ["<s>", "</s>", "<unk>", "<0x0A>", "<PRE>", " <PRE>", " <SUF>", " <MID>", " <EOT>", "<EOT>", "<step>"]
_STRANGE += ["[INST]", "[/INST]", "<<SYS>>\n", "\n<</SYS>>\n\n", "Source: user", "def f(a):\n"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the project's test data; tests that want it are skipped where it is absent."""
    folder = Path(os.environ.get("CODELLAMA_JAX_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder} (CODELLAMA_JAX_TEST_DATA names the folder)")
    return folder


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    """512 pieces and the infilling rows, trained on three files of the standard library: there on any machine."""
    sources = [json.decoder.__file__, json.encoder.__file__, difflib.__file__]
    return Tokenizer(train([Path(file).read_text(encoding="utf-8") for file in sources], 512), infilling=True)


@pytest.fixture(scope="session")
def llama_tokenizer(shared_data: Path) -> Tokenizer:
    """Llama 2's own 32,000 pieces with the infilling rows."""
    return Tokenizer.from_file(shared_data / "tokenizers/llama2_tokenizer.model", infilling=True)


@pytest.fixture(scope="session")
def fuzzed() -> Callable[[np.random.Generator, int], str]:
    """Draws a text of about so many characters: lines of real code, with strange things strewn among its words."""
    words = Path(json.decoder.__file__).read_text(encoding="utf-8").split(" ")

    def text(rng: np.random.Generator, characters: int) -> str:
        parts: list[str] = []
        while sum(map(len, parts)) < characters:
            begin = int(rng.integers(len(words)))
            parts.append(" ".join(words[begin : begin + int(rng.integers(1, 12))]))
            if rng.random() < 0.5:
                parts.append(_STRANGE[rng.integers(len(_STRANGE))])
        return "".join(parts)[:characters]

    return text


@pytest.fixture(scope="session")
def _object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One server for all tests of this process: TensorStore reads its address once."""
    with object_store(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(scope="module")
def _object_store_environment(_object_store: Store) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _object_store.environment.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def store(_object_store: Store, _object_store_environment: None) -> Store:
    """An empty object store, which the client libraries of this process use as gs://."""
    _object_store.clear()
    return _object_store


@pytest.fixture
def bucket_folder(request: pytest.FixtureRequest) -> str:
    """The name of a folder in the store. Each test has its own: a refused upload of one test may be retried later."""
    name = re.sub(r"\W+", "-", request.node.name)
    return f"runs/{name}/code"
