"""The table of benchmarks."""

from typing import Any

from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.benchmarks.apps import APPS
from codellama_jax.evaluation.benchmarks.humaneval import HumanEval
from codellama_jax.evaluation.benchmarks.humaneval_x import HumanEvalX
from codellama_jax.evaluation.benchmarks.infilling import MultiLine, RandomSpan, RandomSpanLight, SingleLine
from codellama_jax.evaluation.benchmarks.mbpp import MBPP
from codellama_jax.evaluation.benchmarks.multipl_e import MultiPLE
from codellama_jax.evaluation.benchmarks.santacoder_fim import SantaCoderFim

_KINDS: tuple[type[Benchmark[Any]], ...] = (
    HumanEval,
    MBPP,
    SingleLine,
    MultiLine,
    RandomSpan,
    RandomSpanLight,
    SantaCoderFim,
    MultiPLE,
    HumanEvalX,
    APPS,
)

# Name -> the benchmark.
BENCHMARKS = {kind.name: kind for kind in _KINDS}
