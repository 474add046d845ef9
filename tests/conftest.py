"""Settings of the test session, and fixtures that more than one test file uses."""

import collections
import difflib
import gc
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from codellama_jax.tokenizer import SentencePieceTokenizer, Tokenizer
from tasks.tokenizer_training import train
from tests import fast_compilation
from tests.object_store import Store, object_store

# Until all test files are imported (pytest_collection_finish): their imports make a million objects and no garbage, and
# searching them takes a third of the time until the first test.
gc.disable()

# TensorFlow reads this variable once, at import, so it is set before any test runs. Commands set it too
# (runtime/filesystem.py).
os.environ.setdefault("GCS_STAT_CACHE_MAX_AGE", "0")

# Threads of NumPy's OpenBLAS wait for one another in busy loops: with two workers on two cores, a product of two rows
# can take half a minute. The workers and the processes of tests inherit the setting.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Caches of this session go to a temporary folder, which the workers of pytest-xdist inherit and share. So do compiled
# programs, in the folder of commands (runtime/cache.py): workers and the processes of tests compile a program once.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="codellama_jax_tests_")  # removed when this process exits
    os.environ["XDG_CACHE_HOME"] = _cache.name
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(_cache.name, "codellama_jax", "programs")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# A shell without job control starts background jobs with SIGINT ignored, and the processes of tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Eight devices on any machine, for the tests of sharding. Broadcasting between ranks is an error.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Seconds of the test files that take two or more on two cores; `pytest -n 2 --dist loadfile --record-durations` writes
# it. Files of SLOW seconds and more are not run by `make check`.
DURATIONS = Path(__file__).parent / "durations.txt"
SLOW = 4.0
# Files whose longest test is marked as slow itself.
CHECKED = ("test_paper.py",)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-durations", action="store_true", help=f"write {DURATIONS.name} after a run of all tests")


def pytest_configure(config: pytest.Config) -> None:
    """Makes pytest-xdist keep the order of items. By default it starts with the files that have the most tests."""
    config.option.loadscopereorder = False


def pytest_collection_finish() -> None:
    """Exempts what the test files have imported from garbage collection: a fifth of the time of tests that trace."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts test files by their durations, the longest first, and marks the slow ones.

    Two workers run one file at a time each: a long file that started last would leave the other worker idle.
    """
    folder = DURATIONS.parent
    lines = (line.split() for line in DURATIONS.read_text().splitlines())
    seconds = {folder / file: float(duration) for duration, file in lines}
    items.sort(key=lambda item: -seconds.get(item.path, 0))
    checked = {folder / file for file in CHECKED}
    for item in items:
        if seconds.get(item.path, 0) >= SLOW and item.path not in checked:
            item.add_marker(pytest.mark.slow)


_durations: collections.Counter[str] = collections.Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _durations[report.nodeid.split("::")[0].removeprefix("tests/")] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.option.record_durations and "PYTEST_XDIST_WORKER" not in os.environ:
        lines = [f"{duration:5.1f} {file}\n" for file, duration in _durations.most_common() if duration >= 2]
        DURATIONS.write_text("".join(lines))


# The folder where `make test` installs packages that tests compare with (requirements-oracles.txt). It is last on the
# path, so that the packages of the environment take precedence.
sys.path.append(str(Path(__file__).resolve().parent.parent / ".venv" / "oracles"))

# Text that often breaks tokenizers, splitting and formats: white space, line ends, wide and control characters, and
# text that looks like control tokens. U+2581 is excluded: the only character that SentencePiece does not preserve.
_UNUSUAL = [*" \t\n\r\0\x7f\u2028\u00a0\ufeff\U0010ffff🙂éx", "", "  ", "\r\n", "\n    ", "e\u0301", "生活", "1234"]
_UNUSUAL += ["<s>", "</s>", "<unk>", "<0x0A>", "<PRE>", " <PRE>", " <SUF>", " <MID>", " <EOT>", "<EOT>", "<step>"]
_UNUSUAL += ["[INST]", "[/INST]", "<<SYS>>\n", "\n<</SYS>>\n\n", "Source: user", "def f(a):\n"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the project's test data; tests that need it are skipped if it does not exist."""
    folder = Path(os.environ.get("CODELLAMA_JAX_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder} (CODELLAMA_JAX_TEST_DATA names the folder)")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _compile_fast(request: pytest.FixtureRequest) -> Iterator[None]:
    """Programs of tests run for milliseconds: generating their code as usual would take most of the time."""
    if request.node.get_closest_marker("compares_bits"):
        yield
        return
    with fast_compilation.in_this_process():
        yield


@pytest.fixture(scope="module")
def processes_compile_fast() -> Iterator[None]:
    """The same for the processes that the tests of a file start."""
    jax.devices()  # XLA has now read the flags of this process
    with pytest.MonkeyPatch.context() as patch:
        for name, value in fast_compilation.ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    """A tokenizer with 512 pieces and the infilling rows, trained on three files of Python's standard library."""
    sources = [json.decoder.__file__, json.encoder.__file__, difflib.__file__]
    return SentencePieceTokenizer(
        train([Path(file).read_text(encoding="utf-8") for file in sources], 512), infilling=True
    )


@pytest.fixture(scope="session")
def llama_tokenizer(shared_data: Path) -> Tokenizer:
    """Llama 2's tokenizer of 32,000 pieces, with the infilling rows."""
    return SentencePieceTokenizer.from_file(shared_data / "tokenizers/llama2_tokenizer.model", infilling=True)


@pytest.fixture(scope="session")
def fuzzed() -> Callable[[np.random.Generator, int], str]:
    """A function that generates a text of a number of characters: real code with unusual text between its words."""
    words = Path(json.decoder.__file__).read_text(encoding="utf-8").split(" ")

    def text(rng: np.random.Generator, characters: int) -> str:
        parts: list[str] = []
        while sum(map(len, parts)) < characters:
            start = int(rng.integers(len(words)))
            parts.append(" ".join(words[start : start + int(rng.integers(1, 12))]))
            if rng.random() < 0.5:
                parts.append(_UNUSUAL[rng.integers(len(_UNUSUAL))])
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
