"""The table of benchmarks."""

from typing import Any

from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.benchmarks.apps import APPS
from codellama_jax.evaluation.benchmarks.bold import Bold
from codellama_jax.evaluation.benchmarks.docstring import Docstring
from codellama_jax.evaluation.benchmarks.exercises import Exercises, ExercisesInfilling
from codellama_jax.evaluation.benchmarks.exercises_keys import ExercisesKeys
from codellama_jax.evaluation.benchmarks.gsm8k import Gsm8k
from codellama_jax.evaluation.benchmarks.humaneval import HumanEval
from codellama_jax.evaluation.benchmarks.humaneval_x import HumanEvalX
from codellama_jax.evaluation.benchmarks.infilling import MultiLine, RandomSpan, RandomSpanLight, SingleLine
from codellama_jax.evaluation.benchmarks.key_retrieval import KeyRetrieval
from codellama_jax.evaluation.benchmarks.lcc import Lcc
from codellama_jax.evaluation.benchmarks.mbpp import MBPP
from codellama_jax.evaluation.benchmarks.multipl_e import MultiPLE
from codellama_jax.evaluation.benchmarks.perplexity import Perplexity
from codellama_jax.evaluation.benchmarks.santacoder_fim import SantaCoderFim
from codellama_jax.evaluation.benchmarks.toxigen import ToxiGen
from codellama_jax.evaluation.benchmarks.truthfulqa import TruthfulQa

_KINDS: tuple[type[Benchmark[Any]], ...] = (
    HumanEval,
    MBPP,
    SingleLine,
    MultiLine,
    RandomSpan,
    RandomSpanLight,
    SantaCoderFim,
    *(Docstring, Lcc, KeyRetrieval, Perplexity, Gsm8k, TruthfulQa, ToxiGen, Bold),  # they run nothing
    MultiPLE,
    HumanEvalX,
    APPS,
    *(Exercises, ExercisesInfilling, ExercisesKeys),  # they need no data
)

# Name -> the benchmark.
BENCHMARKS = {kind.name: kind for kind in _KINDS}
