"""The table of benchmarks."""

from typing import Any

from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.benchmarks.humaneval import HumanEval

# Name -> the benchmark.
BENCHMARKS: dict[str, type[Benchmark[Any]]] = {kind.name: kind for kind in (HumanEval,)}
