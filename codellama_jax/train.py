"""What each host runs: one stage, from its gin files to its report.

    python -m codellama_jax.train --gin_file=gin/code.gin --gin_file=gin/models/local.gin [--run_dir=runs] [--name=NAME]

The one place where data, model and gin meet. main() reads top to bottom in the order in which things happen. What a
stage starts from, first match wins:

    1. its own newest whole checkpoint: parameters, optimiser, step, and the stream's position
    2. its parent's final checkpoint in the same run: parameters only
    3. Checkpoints.initial, for a stage without parent: parameters only, or random ones
"""

import argparse
import dataclasses
import datetime
import json
import os
import signal
import statistics
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from codellama_jax import configuration
from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, UserError


def main(argv: list[str] | None = None) -> int:
    """Runs a stage; returns the exit code (0 done, 1 failed, 2 wrong usage, 75 stopped by a signal after saving)."""
    flags = configuration.split_flags(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m codellama_jax.train", description="Runs one stage.")
    parser.add_argument("--run_dir", type=Path, default=Path("runs"), help="folder of all runs (default: runs)")
    parser.add_argument("--name", help="the run's folder in it (default: the size)")
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")
    options = parser.parse_args(flags.rest)
    if not options.verbose:
        _silence_threads()
    try:
        _die_with_launcher()
        configuration.load(flags.gin_files, flags.bindings)
        config = configuration.resolve()
        return run_stage(config, options.run_dir / (options.name or config.stage.size))
    except (UserError, KeyboardInterrupt, MemoryError, OSError) as error:
        if options.verbose:
            traceback.print_exc()
        print(f"error: {explain(error)}", file=sys.stderr)
        return error.exit_code if isinstance(error, UserError) else EXIT_FAILED


def explain(error: BaseException) -> str:
    """One line for the user."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory: lower Stage.batch_tokens, or raise Stage.micro_batches"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted before the first step; run the same command again"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror}: {error.filename or ''}; what was saved is untouched, run the same command again"
    return f"{type(error).__name__}: {error}"


def _silence_threads() -> None:
    """Keeps tracebacks of libraries' threads off the terminal: what fails there is raised here as well."""
    threading.excepthook = lambda arguments: None
    sys.unraisablehook = lambda arguments: None  # of C++ threads


def _die_with_launcher() -> None:
    """Asks the kernel for SIGTERM when the launcher dies, so that no training is left behind unseen (Linux only)."""
    if "CODELLAMA_JAX_LAUNCHER" in os.environ and sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def run_stage(config: configuration.Config, run_dir: Path) -> int:
    """Trains a stage in run_dir/STAGE, or goes on with it, and writes its report.

    Raises:
        UserError: anything the user can mend; what was saved before is untouched.
    """
    # Imported here: JAX, TensorFlow and SeqIO take seconds, and a wrong flag should not.
    from codellama_jax.training.metrics import say, write_atomically

    stage = config.stage
    stage_dir = run_dir / stage.name
    say(f"{stage.name}: loading JAX and TensorFlow")

    import jax
    import jax.numpy as jnp

    from codellama_jax.sharding import check_divides, make_mesh, put_batch
    from codellama_jax.training import checkpoints, loop, report
    from codellama_jax.training.evaluation import Evaluator, infilling_samples, punch_holes
    from codellama_jax.training.metrics import JsonLines, Progress, TensorBoard
    from codellama_jax.training.optimizer import make_optimizer
    from codellama_jax.training.step import (
        TrainState,
        abstract_params,
        init_params,
        make_train_step,
        param_shardings,
        state_shardings,
    )
    from tasks.config import STREAMS
    from tasks.quiet import quiet_stderr

    with quiet_stderr():  # TensorFlow's start-up notes
        from tasks.stage_data import StageData
    from tasks.stream import prefetched

    # ---------------------------------------------------------------- the run folder
    operative = configuration.operative(config)
    check_same_configuration(stage_dir, operative)
    done = checkpoints.final_step(stage_dir)
    if done is not None:
        say(f"{stage.name}: finished at step {done}, nothing to do ({stage_dir / 'report.html'})")
        return EXIT_DONE
    parent_dir = run_dir / stage.parent if stage.parent else None
    parent_step = checkpoints.final_step(parent_dir) if parent_dir else None
    if parent_dir and parent_step is None:
        raise UserError(
            f"{stage.name} starts from {stage.parent}, which is not finished in {run_dir}: run {stage.parent} first "
            f"(python xm_launch.py --gin_file=gin/{stage.parent}.gin --gin_file=gin/models/{stage.size}.gin"
            f" --run_dir={run_dir.parent} --name={run_dir.name})"
        )
    stage_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(stage_dir / "config.gin", operative)

    # ---------------------------------------------------------------- data
    data = StageData(config, run_dir, host=jax.process_index(), hosts=jax.process_count(), say=say)
    rows = data.tokenizer.rows
    if config.llama.vocab_size not in (0, rows):
        infilling = " and 16 for infilling" if data.tokenizer.infilling else ""
        raise UserError(
            f"the tokenizer needs {rows} rows ({data.tokenizer.pieces} pieces{infilling}),"
            f" Llama.vocab_size={config.llama.vocab_size}: bind TOKENIZER to the model's own tokenizer, or"
            " Llama.vocab_size to its rows"
        )
    config = dataclasses.replace(config, llama=dataclasses.replace(config.llama, vocab_size=rows))

    # ---------------------------------------------------------------- mesh and state
    mesh = make_mesh(config.mesh)
    check_divides(mesh, stage.batch_size // stage.micro_batches, stage.sequence_length, config.llama.kv_heads)
    with jax.set_mesh(mesh), loop.StopSignals() as stop:
        optimizer = make_optimizer(config.adamw, stage.steps)
        shardings = state_shardings(config.llama, optimizer, mesh)

        def start(params: Any) -> TrainState:
            return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))

        saves = checkpoints.StageCheckpoints(stage_dir, config.checkpoints)
        resumed = saves.latest()
        stream_state = None
        if resumed is not None:
            abstract = jax.eval_shape(start, abstract_params(config.llama))
            abstract = jax.tree.map(
                lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract, shardings
            )
            state, saved_stream, _ = saves.restore(resumed, abstract)
            stream_state = data.stream_state(saved_stream)
            say(f"{stage.name}: going on from step {resumed}")
        else:
            if parent_dir:
                origin: Path | None = parent_dir / "checkpoints" / str(parent_step)
            else:
                origin = None if config.checkpoints.initial == "scratch" else Path(config.checkpoints.initial)
            if origin is None:
                make = jax.jit(lambda: start(init_params(config.llama, stage.seed)), out_shardings=shardings)
                state = make()
            else:
                params, origin_llama = load_origin(origin, config, mesh)
                params = checkpoints.grow_vocabulary(params, config.llama.vocab_size)
                params = jax.device_put(params, param_shardings(config.llama, mesh))
                state = jax.jit(start, out_shardings=shardings)(params)
                say(f"{stage.name}: starts from the parameters of {origin}")
        stream = data.stream("train", stream_state)
        stream_fingerprint = stream.fingerprint()
        if resumed is not None and saved_stream["fingerprint"] != stream_fingerprint:
            raise UserError(
                f"{stage_dir}: the data is not that of the checkpoint (files of the corpus, the interpreter or its"
                " packages have changed), so the stream cannot go on where it was; use another --name, or bring the old"
                " data back"
            )

        # ------------------------------------------------------------ what is measured on the way
        first_step = resumed or 0
        keep = -1 if resumed is None else resumed  # a start from nothing does its first validation again
        metrics_log = JsonLines(stage_dir / "metrics.jsonl", keep)
        evaluations = JsonLines(stage_dir / "evaluations.jsonl", keep)
        board = TensorBoard(stage_dir / "tensorboard", first_step)
        evaluator = Evaluator(config.llama, mesh, config.packing.mask_documents, STREAMS)
        validation = [put_batch(mesh, arrays) for arrays in data.validation_batches()]
        base_length = stage.sequence_length
        if parent_dir:
            base_length = checkpoints.read_metadata(parent_dir / "checkpoints" / str(parent_step))["sequence_length"]
        windows = data.long_windows(base_length * config.evaluation.context_factor)

        def validate(step: int) -> float:
            result = evaluator.validation(state.params, validation)
            evaluations.write({"kind": "validation", "step": step, **result})
            board.write(step, {f"validation/{name}": value for name, value in result.items()})
            return result["loss"]

        def measure_context(when: str, step: int, of_stage: str, by: Evaluator, llama: Any, params: Any) -> None:
            if len(windows) == 0:
                return
            curve = by.context_curve(params, windows, base_length)
            record = {"kind": "context", "when": when, "step": step, "stage": of_stage, "rope_theta": llama.rope_theta}
            evaluations.write({**record, "trained_length": base_length, **curve})

        if resumed is None:
            devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
            write_atomically(stage_dir / "stage.json", json.dumps(describe(config, devices), indent=1))
            if origin is not None and parent_dir is not None and base_length != stage.sequence_length:
                # The checkpoint before this stage, with ITS rotary frequencies: what the new ones are compared with.
                say(f"{stage.name}: perplexity against context length, before")
                before = Evaluator(origin_llama, mesh, config.packing.mask_documents, STREAMS)
                unpadded = checkpoints.load_params(origin, placed(origin_llama, mesh))
                measure_context("before", 0, stage.parent or "", before, origin_llama, unpadded)
                del unpadded, before
            loss = validate(0)
            say(f"{stage.name}: validation loss {loss:.3f} before the first step")

        # ------------------------------------------------------------ train
        train_step = jax.jit(
            make_train_step(config.llama, stage, config.adamw, config.packing.mask_documents, len(STREAMS)),
            donate_argnums=0,
            out_shardings=(shardings, None),
        )
        progress = Progress(stage.name, first_step, stage.steps, stage.batch_tokens)

        def log(step: int, batch: Any, metrics: dict[str, Any], seconds: float) -> None:
            record: dict[str, Any] = {
                "step": step,
                "loss": float(metrics["loss"]),
                "learning_rate": float(metrics["learning_rate"]),
                "grad_norm": float(metrics["grad_norm"]),
                "tokens_per_second": stage.batch_tokens / seconds,
                "seconds": seconds,
                "infilling_tokens": batch.infilling_tokens * jax.process_count(),
            }
            sums = (metrics[f"stream_{what}"] for what in ("losses", "weights", "tokens"))
            for name, loss, weight, tokens in zip(STREAMS, *sums, strict=True):
                if tokens:
                    record[f"loss/{name}"] = float(loss / max(weight, 1))
                    record[f"tokens/{name}"] = int(tokens)
            record |= {f"epoch/{name}": epoch for name, epoch in stream.epochs(batch.state).items()}
            saves.check()  # a save that failed in the background ends the run now, not at the next one
            metrics_log.write(record)
            board.write(step, record)
            progress.update(step, record["loss"], record["tokens_per_second"])

        def pause_after(step: int) -> bool:
            due = (config.evaluation.every, config.checkpoints.every)
            return stop.name is not None or step == stage.steps or any(step % every == 0 for every in due)

        def after_step(step: int, now: TrainState, batch: Any) -> bool:
            nonlocal state
            state = now
            if step % config.evaluation.every == 0 or step == stage.steps:
                validate(step)
            if step % config.checkpoints.every == 0 or step == stage.steps or stop.name:
                metrics_log.sync()
                metadata = {
                    "step": step,
                    "stage": stage.name,
                    "sequence_length": stage.sequence_length,
                    "llama": dataclasses.asdict(config.llama),
                    "config": operative,
                }
                saves.save(step, state, data.saved(batch.state, stream_fingerprint), metadata)
            return stop.name is not None

        batches = prefetched(stream)
        try:
            state = loop.train_loop(
                state,
                train_step,
                batches,
                lambda arrays: put_batch(mesh, arrays),
                range(first_step + 1, stage.steps + 1),
                log=log,
                after_step=after_step,
                pause_after=pause_after,
            )
            saves.close()
        finally:
            batches.close()
            progress.close()
            board.close()
        last_step = int(state.step)
        if stop.name and last_step < stage.steps:
            say(f"{stage.name}: saved at step {last_step} of {stage.steps}; the same command goes on from there")
            report.write_stage_report(stage_dir)
            report.write_run_report(run_dir)
            return EXIT_INTERRUPTED

        # ------------------------------------------------------------ the end: samples, summary, report
        if not any(line["kind"] == "context" and line["when"] == "after" for line in evaluations.lines):
            say(f"{stage.name}: perplexity against context length, after")
            measure_context("after", last_step, stage.name, evaluator, config.llama, state.params)
        if config.evaluation.samples:
            say(f"{stage.name}: {config.evaluation.samples} samples")
            holes = punch_holes(data.excerpts(20), config.evaluation.samples, min(600, stage.sequence_length))
            samples = infilling_samples(evaluator, state.params, data.tokenizer, holes, config.evaluation.sample_tokens)
            write_atomically(stage_dir / "samples.json", json.dumps(samples, indent=1))
        summary = summarise(last_step, stage.batch_tokens, metrics_log.lines, evaluations.lines)
        write_atomically(stage_dir / "done.json", json.dumps(summary, indent=1))
        report.write_stage_report(stage_dir)
        cascade = report.write_run_report(run_dir)
        for line in conclusion(stage.name, summary):
            say(line)
        say(f"{stage.name}: report in {cascade}")
    return EXIT_DONE


def check_same_configuration(stage_dir: Path, operative: str) -> None:
    """Raises UserError that names what differs, if the folder was made by another configuration."""
    saved = stage_dir / "config.gin"
    if not saved.exists() or not (stage_dir / "checkpoints").is_dir():
        return
    differences = configuration.differences(saved.read_text(), operative)
    if differences:
        shown = "; ".join(differences[:6]) + (f"; and {len(differences) - 6} more" if len(differences) > 6 else "")
        raise UserError(
            f"{stage_dir} was made by another configuration ({shown}): use another --name, or the old values"
        )


def placed(llama: Any, mesh: Any) -> Any:
    """Shapes of a model's parameters with their places on the mesh."""
    import jax

    from codellama_jax.training.step import abstract_params, param_shardings

    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        abstract_params(llama),
        param_shardings(llama, mesh),
    )


def load_origin(checkpoint: Path, config: configuration.Config, mesh: Any) -> tuple[Any, Any]:
    """The parameters of another stage's checkpoint, and the Llama they belong to.

    Raises:
        UserError: there is none, or its shape is another one's (the vocabulary may be smaller).
    """
    from codellama_jax.model.config import Llama
    from codellama_jax.training import checkpoints

    llama = Llama(**checkpoints.read_metadata(checkpoint)["llama"])
    for field in ("dim", "layers", "heads", "kv_heads", "ffn_dim"):
        if getattr(llama, field) != getattr(config.llama, field):
            raise UserError(
                f"{checkpoint} has Llama.{field}={getattr(llama, field)}, this stage {getattr(config.llama, field)}: "
                "a stage keeps its parent's size"
            )
    return checkpoints.load_params(checkpoint, placed(llama, mesh)), llama


def describe(config: configuration.Config, devices: str) -> dict[str, Any]:
    """What the report says of the stage before its first step."""
    stage, llama = config.stage, config.llama
    return {
        "stage": stage.name,
        "size": stage.size,
        "parent": stage.parent,
        "steps": stage.steps,
        "batch_tokens": stage.batch_tokens,
        "sequence_length": stage.sequence_length,
        "parameters": llama.parameters,
        "vocab_size": llama.vocab_size,
        "rope_theta": llama.rope_theta,
        "rope_scale": llama.rope_scale,
        "shares": config.mixture.shares,
        "devices": devices,
        "peak_learning_rate": config.adamw.peak_learning_rate,
        "started": datetime.datetime.now().isoformat(timespec="seconds"),
    }


def summarise(
    step: int, batch_tokens: int, metrics: list[dict[str, Any]], evaluations: list[dict[str, Any]]
) -> dict[str, Any]:
    """The figures of a finished stage, for done.json."""
    validation = [line for line in evaluations if line["kind"] == "validation"]
    curves = {line["when"]: line for line in evaluations if line["kind"] == "context"}
    return {
        "step": step,
        "seconds": sum(line["seconds"] for line in metrics),
        "tokens": step * batch_tokens,
        "tokens_per_second": statistics.median(line["tokens_per_second"] for line in metrics),
        "validation_loss_first": validation[0]["loss"],
        "validation_loss_last": validation[-1]["loss"],
        "context_length": curves["after"]["lengths"][-1] if "after" in curves else None,
        "perplexity_before": curves["before"]["perplexity"][-1] if "before" in curves else None,
        "perplexity_after": curves["after"]["perplexity"][-1] if "after" in curves else None,
    }


def conclusion(stage: str, summary: dict[str, Any]) -> list[str]:
    """What the user reads when a stage is finished."""
    lines = [
        f"{stage}: validation loss {summary['validation_loss_first']:.3f} -> {summary['validation_loss_last']:.3f} nats"
        f" in {summary['tokens']:,} tokens, {summary['tokens_per_second']:,.0f} tokens/s"
    ]
    if summary["perplexity_before"] is not None:
        change = summary["perplexity_after"] / summary["perplexity_before"] - 1
        lines.append(
            f"{stage}: perplexity at {summary['context_length']} tokens of context {summary['perplexity_before']:.1f}"
            f" -> {summary['perplexity_after']:.1f} ({change:+.0%})"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
