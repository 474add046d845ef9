"""The cost of the evaluations during a stage: validation, and bits per byte of benchmarks.

An evaluation runs forward passes only. The batch of the benchmarks is compiled like the train step, because it may have
few windows for each device. A validation batch is one of training: a third of the model FLOPs of a step, and at most a
third of its time.
"""

import dataclasses
from typing import Any

from codellama_jax.config.derived import evaluations_apart
from codellama_jax.config.run import Config
from codellama_jax.config.training import Mesh, Stage
from codellama_jax.errors import UserError
from codellama_jax.planning.aot_compile import Compiler
from codellama_jax.planning.chips import Topology
from codellama_jax.training.passages import batch_shape

# Positions of all gold texts with their prompts, by Llama 2's tokenizer and the default settings of the benchmarks
# (tests/planning/test_evaluation_cost.py counts them). Infilling: in one of the two orders.
POSITIONS = {
    "humaneval": 36_308,
    "mbpp": 435_441,
    "infilling_single_line": 289_091,
    "infilling_multi_line": 1_899_932,
    "infilling_random_span": 370_214,
    "infilling_random_span_light": 37_036,
    "exercises": 25_098,
    "exercises_infilling": 15_194,
}


def windows(names: tuple[str, ...], infilling: bool, length: int) -> int:
    """Windows of `length` positions that hold the gold texts of benchmarks with their prompts; at least one.

    The packing leaves almost nothing free in windows of the published lengths.

    Args:
        names: the benchmarks (Evaluation.measured).
        infilling: whether the tokenizer has infilling ids; without, infilling is not measured.
        length: positions of a window.
    """
    positions = sum(POSITIONS[name] * (2 * infilling if "infilling" in name else 1) for name in names)
    return positions // length + 1


def evaluation_cost(
    config: Config, slice_: Topology, compiler: Compiler, result: dict[str, Any], *, estimate: bool
) -> dict[str, Any]:
    """The cost of one evaluation of a stage, and its share of the time.

    Args:
        config: the configuration, with Evaluation and Tokenizer.
        slice_: the slice.
        compiler: compiles the batch of the benchmarks.
        result: the plan of the train step (summarize), which fits.
        estimate: whether to estimate the time. Times are bounds unless there is an estimate of the step too.

    Returns:
        every: steps between evaluations; interval_seconds: their time; validation and benchmarks (None: none is
        measured): tokens, flops and seconds; share: of the time of a stage that evaluations take, and
        benchmarks_share: of which benchmarks.

    Raises:
        UserError: the batch of the benchmarks fails to compile, or does not fit.
    """
    evaluation, stage = config.evaluation, config.stage
    flops_per_token = config.llama.train_flops_per_token(stage.sequence_length) / 3
    step = result["estimated_seconds"]
    benchmarks, measured = None, 0.0
    if evaluation.measured:
        batches, batch, analysis = _benchmark_batch(config, slice_, compiler, result, estimate)
        if step is None or not analysis["estimate"]:  # one of them may be cached with an estimate
            step = None
        seconds = analysis["estimate"]["total"] if step else max(analysis["bound"].values())
        tokens, measured = batches * batch.batch_tokens, batches * seconds
        benchmarks = {
            "names": list(evaluation.measured),
            "batches": batches,
            "tokens": tokens,
            "flops": flops_per_token * tokens,
            "seconds": measured,
        }
    step = step or result["bound_seconds"]
    tokens = evaluation.batches * stage.batch_tokens
    validation = {"tokens": tokens, "flops": flops_per_token * tokens, "seconds": evaluation.batches * step / 3}
    every = evaluation.every or evaluations_apart(stage.steps)
    interval = every * step
    total = interval + validation["seconds"] + measured
    return {
        "every": every,
        "interval_seconds": interval,
        "validation": validation,
        "benchmarks": benchmarks,
        "share": (validation["seconds"] + measured) / total,
        "benchmarks_share": measured / total,
    }


def _benchmark_batch(
    config: Config, slice_: Topology, compiler: Compiler, result: dict[str, Any], estimate: bool
) -> tuple[int, Stage, dict[str, Any]]:
    """The number of batches of the benchmarks, one of them as the batch of a stage, and its analysis."""
    stage, mesh = config.stage, Mesh(**result["mesh"])
    needed = windows(config.evaluation.measured, config.tokenizer.infilling, stage.sequence_length)
    batches, rows = batch_shape(needed, stage.batch_size // stage.micro_batches, mesh.data * mesh.fsdp)
    batch = dataclasses.replace(stage, batch_tokens=rows * stage.sequence_length, micro_batches=1)
    packing = dataclasses.replace(config.packing, mask_documents=True)
    llama = dataclasses.replace(config.llama, remat="none", offload="")
    forward = dataclasses.replace(config, stage=batch, packing=packing, llama=llama, mesh=mesh)
    analysis = compiler.analyze(forward, slice_, estimate=estimate, forward=True)
    if "bound" not in analysis:
        raise UserError(f"a batch of {rows} windows of the benchmarks does not fit {slice_.name}: use a larger slice")
    return batches, batch, analysis
