"""The table of benchmarks."""

from typing import Any

from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.benchmarks.humaneval import HumanEval
from codellama_jax.evaluation.benchmarks.infilling import MultiLine, RandomSpan, RandomSpanLight, SingleLine
from codellama_jax.evaluation.benchmarks.mbpp import MBPP
from codellama_jax.evaluation.benchmarks.santacoder_fim import SantaCoderFim

_KINDS: tuple[type[Benchmark[Any]], ...] = (
    HumanEval,
    MBPP,
    SingleLine,
    MultiLine,
    RandomSpan,
    RandomSpanLight,
    SantaCoderFim,
)

# Name -> the benchmark.
BENCHMARKS = {kind.name: kind for kind in _KINDS}
