"""Plans a stage on a slice: compiles its step, and searches for settings that fit or are faster."""

from typing import Any

from codellama_jax.config.run import Config
from codellama_jax.planning import libtpu_flags
from codellama_jax.planning.aot_compile import Compiler
from codellama_jax.planning.chips import Topology
from codellama_jax.planning.evaluation_cost import evaluation_cost
from codellama_jax.planning.progress import Progress
from codellama_jax.planning.search import remedy, search
from codellama_jax.planning.summary import summarize


def plan(
    config: Config,
    slice_: Topology,
    progress: Progress,
    *,
    estimate: bool = True,
    forward: bool = False,
    libtpu_bundle: str = libtpu_flags.FAST,
) -> dict[str, Any]:
    """Returns the plan of a stage, which --json prints; with `forward`, the plan of the evaluation of one batch.

    If the step does not fit, "remedy" is the cheapest change with which it fits, or None (search.remedy).

    Raises:
        UserError: the mesh does not divide the stage, or the step fails to compile for a reason other than memory.
    """
    compiler = Compiler(progress, libtpu_bundle)
    progress.title = title = describe(config, slice_)
    analysis = compiler.analyze(config, slice_, estimate=estimate, forward=forward)
    result = summarize(config, slice_, analysis, forward=forward)
    if analysis["fits"] and not forward:
        result["evaluation"] = evaluation_cost(config, slice_, compiler, result, estimate=estimate)
    if not analysis["fits"]:

        def report(message: str) -> None:
            progress.title = f"{title} {message}"

        result["missing_bytes"] = analysis["peak_bytes"] - analysis["hbm_bytes"]
        result["remedy"] = remedy(config, slice_, compiler, report, forward=forward)
    return result


def rank_settings(config: Config, slice_: Topology, progress: Progress, libtpu_bundle: str) -> list[dict[str, Any]]:
    """Returns the plans of all settings that fit, fastest bound first, each with the bindings that select it."""
    title = describe(config, slice_)

    def report(message: str) -> None:
        progress.title = f"{title}: {message}"

    return [
        {"bindings": list(change.bindings), **summarize(change.config, slice_, analysis)}
        for change, analysis in search(config, slice_, Compiler(progress, libtpu_bundle), report)
    ]


def describe(config: Config, slice_: Topology) -> str:
    return f"{config.stage.size} {config.stage.name} on {slice_.name}"
