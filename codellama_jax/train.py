"""What each host runs: one stage, from its gin files to its report.

    python -m codellama_jax.train --gin_file=gin/code.gin --gin_file=gin/models/local.gin [--run_dir=runs] [--name=NAME]

The one place where data, model and gin meet; run_stage reads top to bottom in the order in which things happen.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codellama_jax.config import gin_files
from codellama_jax.config.model import Llama
from codellama_jax.config.run import Config, operative_text
from codellama_jax.errors import EXIT_DONE, EXIT_INTERRUPTED, UserError
from codellama_jax.report.goodput import goodput
from codellama_jax.runtime import cli, distributed, filesystem
from codellama_jax.runtime.run_dir import check_same_configuration, final_step, lock, saved_steps


def main(argv: list[str] | None = None) -> int:
    """Runs a stage; returns the exit code (0 done, 1 failed, 2 wrong usage, 75 stopped, to be started again)."""
    parser = argparse.ArgumentParser(prog="python -m codellama_jax.train", description="Runs one stage.")
    parser.add_argument("--run_dir", type=filesystem.to_path, default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--name", help="the run's folder in it (default: the size)")
    return distributed.exit_without_barrier(lambda: cli.run(parser, argv, _train, explain))


def _train(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    if not options.verbose:
        _silence_threads()
    if "CODELLAMA_JAX_LAUNCHER" in os.environ:
        cli.die_with_parent(signal.SIGTERM)
    config = gin_files.load(flags.gin_files, flags.bindings, imports=flags.imports).resolve()
    distributed.initialize()
    run_dir = options.run_dir / (options.name or config.stage.size)
    with (
        distributed.peer_loss_as_user_error(),
        filesystem.store_failures_as_user_errors(run_dir),
        contextlib.ExitStack() as held,
    ):
        distributed.check_hosts_agree(code=cli.code_version(), configuration=operative_text(config))
        if filesystem.is_remote(run_dir):
            _open_bucket(run_dir)
        return run_stage(config, run_dir, held)


def _open_bucket(run_dir: Path) -> None:
    """Loads what speaks to buckets, in silence, and sees whether this one answers."""
    from codellama_jax.runtime import gcs
    from codellama_jax.runtime.console import quiet_stderr

    gcs.check_bucket(run_dir)
    with quiet_stderr():  # TensorFlow's start-up notes
        run_dir.exists()


def explain(error: BaseException) -> str | None:
    """One line for the user; None for errors of JAX that are not about memory: they are ours to mend."""
    if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
        return None
    if isinstance(error, MemoryError | RuntimeError):
        return "out of memory: raise Stage.micro_batches, or bind Llama.remat='full'; the same run goes on with either"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted before the first step; run the same command again"
    if isinstance(error, OSError) and error.errno is not None:
        cure = "what was saved is untouched: mend that, and run the same command again"
        return f"{error.strerror}: {error.filename or ''}; {cure}"
    return f"{type(error).__name__}: {error}"


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether JAX raised this for want of memory; its own error class would take seconds to import here."""
    return "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)


def _silence_threads() -> None:
    """Keeps tracebacks of libraries' threads off the terminal: what fails there is raised here as well."""
    threading.excepthook = lambda arguments: None
    sys.unraisablehook = lambda arguments: None  # of C++ threads


def run_stage(config: Config, run_dir: Path, held: contextlib.ExitStack) -> int:
    """Trains a stage in run_dir/STAGE, or goes on with it, and writes its report.

    Args:
        config: of the run.
        run_dir: its folder, here or in a bucket.
        held: gets what is to be let go of when the stage has ended, whichever way: the lock on its folder.

    Raises:
        UserError: anything the user can mend; what was saved before is untouched.
    """
    # Imported here: JAX, TensorFlow and SeqIO take seconds, and a wrong flag should not.
    from codellama_jax.training.metrics import StageLog, say

    stage = config.stage
    stage_dir = run_dir / stage.name
    say(f"{stage.name}: loading JAX")

    import jax

    from codellama_jax.report import training
    from codellama_jax.sharding import check_divides, host_group, make_mesh, put_batch, put_flag
    from codellama_jax.training import checkpoints, trainer
    from codellama_jax.training.initialization import ParentCheckpoint, fresh_state, restored_state
    from codellama_jax.training.loss_spikes import LossSpike, LossSpikeMonitor
    from codellama_jax.training.optimizer import make_optimizer
    from codellama_jax.training.step import TrainState, make_train_step, state_shardings
    from codellama_jax.training.validation import Evaluator, infilling_samples, punch_holes
    from codellama_jax.training.watchdog import Profiler, Watchdog
    from tasks.loader import prefetched
    from tasks.sources import import_modules
    from tasks.stage_data import StageData

    import_modules(config.imports)

    # ---------------------------------------------------------------- the run folder
    operative = operative_text(config)
    check_same_configuration(stage_dir, operative)
    done = final_step(stage_dir)
    writes = jax.process_index() == 0  # one host writes the files that are not checkpoints, and talks

    def tell(message: str) -> None:
        if writes:
            say(f"{stage.name}: {message}")

    if done is not None:
        if writes:
            training.write_stage_report(stage_dir)  # a run that was killed between its note and its report has none
            training.write_run_report(run_dir)
        tell(f"finished at step {done}, nothing to do ({stage_dir / 'report.html'})")
        return EXIT_DONE
    # What a stage started from is noted in its own checkpoints: once it has one, it needs no other.
    origin_path = None if saved_steps(stage_dir) else starting_checkpoint(config, run_dir)
    if writes:
        stage_dir.mkdir(parents=True, exist_ok=True)
        locked = lock(stage_dir, tell)
        held.callback(locked.release)
        filesystem.write_atomically(stage_dir / "config.gin", operative)

    # ---------------------------------------------------------------- data
    micro_batch = stage.batch_size // stage.micro_batches
    mesh = make_mesh(config.mesh, micro_batch)
    check_divides(mesh, micro_batch, stage.sequence_length, config.llama)
    group, groups = host_group(mesh)
    data = StageData(config, run_dir, host=group, hosts=groups, say=tell)
    rows = data.tokenizer.rows
    if config.llama.vocab_size not in (0, rows):
        infilling = " and 16 for infilling" if data.tokenizer.infilling else ""
        raise UserError(
            f"the tokenizer needs {rows} rows ({data.tokenizer.pieces} pieces{infilling}),"
            f" Llama.vocab_size={config.llama.vocab_size}: bind TOKENIZER to the model's own tokenizer, or"
            " Llama.vocab_size to its rows"
        )
    llama = dataclasses.replace(config.llama, vocab_size=rows)
    masked = config.packing.mask_documents

    stacks = stage_dir / f"stacks.{jax.process_index()}.txt"
    with (
        jax.set_mesh(mesh),
        trainer.StopSignals(config.checkpoints.grace_seconds) as stop,
        Watchdog(config.monitoring.stall_minutes, stacks) as watchdog,
    ):
        # ------------------------------------------------------------ what the stage starts from
        saves = checkpoints.StageCheckpoints(stage_dir, config.checkpoints)
        resumed = saves.latest()
        origin: ParentCheckpoint | None = None
        saved_stream: dict[str, Any] | None = None
        if resumed is not None:
            state, saved_stream, metadata = restored_state(saves, resumed, llama, stage, config.adamw, mesh)
            parent = metadata["parent"]
            tell(f"going on from step {resumed}")
        else:
            origin = ParentCheckpoint.at(origin_path, llama) if origin_path else None
            parent = origin.noted() if origin else None
        # A stage with longer windows is compared with the one before it at lengths that count from that one's.
        longer = parent is not None and stage.parent is not None and stage.sequence_length > parent["sequence_length"]
        base_length = parent["sequence_length"] if parent and longer else stage.sequence_length
        windows = data.long_windows(base_length * config.evaluation.context_factor)
        before: dict[str, Any] | None = None
        if resumed is None:
            params = origin.params(mesh) if origin else None
            if origin and params and longer and len(windows):
                # The checkpoint before this stage, with ITS rotary frequencies: what the new ones are compared with.
                tell("perplexity against context length, before")
                before = Evaluator(origin.llama, mesh, masked, data.stream_names).context_curve(
                    params, windows, base_length
                )
            state = fresh_state(llama, stage, config.adamw, mesh, params)
            if origin:
                tell(f"starts from the parameters of {origin.path}")
            del params
        stream = data.stream("train", data.stream_state(saved_stream) if saved_stream else None)
        fingerprint = stream.fingerprint()
        if saved_stream and saved_stream["fingerprint"] != fingerprint:
            raise UserError(
                f"{stage_dir}: the data is not that of the checkpoint (files of the corpus, the interpreter or its"
                " packages have changed), so the stream cannot go on where it was; use another --name, or bring the old"
                " data back"
            )

        # ------------------------------------------------------------ what is measured on the way
        notes = StageLog(stage_dir, stage, data.stream_names, resumed, writes)
        evaluator = Evaluator(llama, mesh, masked, data.stream_names)
        validation = [put_batch(mesh, arrays) for arrays in data.validation_batches()]

        def validate(step: int, state: TrainState) -> float:
            result = evaluator.validation(state.params, validation)
            notes.evaluation({"kind": "validation", "step": step, **result})
            return result["loss"]

        def note_curve(when: str, step: int, of_stage: str, rope_theta: float, curve: dict[str, Any]) -> None:
            where = {"when": when, "step": step, "stage": of_stage, "rope_theta": rope_theta}
            notes.evaluation({"kind": "context", **where, "trained_length": base_length, **curve})

        if resumed is None:
            if writes:
                devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
                filesystem.write_atomically(
                    stage_dir / "stage.json", json.dumps(describe(config, llama, data.shares, devices), indent=1)
                )
            if before and origin:
                note_curve("before", 0, stage.parent or "", origin.llama.rope_theta, before)
            tell(f"validation loss {validate(0, state):.3f} before the first step")

        # ------------------------------------------------------------ train
        shardings = state_shardings(llama, make_optimizer(config.adamw, stage.steps), mesh)
        train_step = jax.jit(
            make_train_step(llama, stage, config.adamw, masked, len(data.stream_names), mesh),
            donate_argnums=0,
            out_shardings=(shardings, None),
        )

        def last_saved() -> int | None:
            saves.wait()
            return saves.latest()

        watch = LossSpikeMonitor(
            config.loss_spikes,
            stage_dir,
            jax.process_index(),
            lines=lambda: notes.steps,
            rollbacks=lambda: notes.rollbacks,
            saved=last_saved,
            resumed=resumed or 0,
        )

        traced = config.monitoring.profile_first, config.monitoring.profile_last
        profiler = Profiler(*traced, ask=stage_dir / "profile", folder=stage_dir / "tensorboard")

        def put(arrays: Any) -> Any:
            asking = {"stop": put_flag(mesh, stop.name is not None)} if jax.process_count() > 1 else {}
            return put_batch(mesh, arrays) | asking

        def log(step: int, batch: Any, metrics: dict[str, Any], seconds: float) -> None:
            if writes:
                locked.check()
            saves.check()  # a save that failed in the background ends the run now, not at the next one
            stop.hear(metrics)
            notes.step(step, metrics, seconds, stream.metrics(batch))
            watchdog.alive()
            if line := profiler.step_done(step):
                tell(line)
            watch.look(step, batch, metrics)

        @contextlib.contextmanager
        def spending(cause: str) -> Iterator[None]:
            begun = time.monotonic()
            yield
            notes.spent[cause] += time.monotonic() - begun
            watchdog.alive()

        def pause_after(step: int) -> bool:
            due = (config.evaluation.every, config.checkpoints.every)
            return stop.requested or step == stage.steps or any(step % every == 0 for every in due)

        def after_step(step: int, state: TrainState, batch: Any) -> bool:
            stopping = stop.requested  # read once: a signal between the questions must not end without a save
            loss = None
            if step % config.evaluation.every == 0 or step == stage.steps:
                with spending("validation"):
                    loss = validate(step, state)
            if step % config.checkpoints.every == 0 or step == stage.steps or stopping:
                notes.sync()  # a step that is in a checkpoint is in metrics.jsonl
                seen = notes.tokens
                metadata = {
                    "step": step,
                    "stage": stage.name,
                    "sequence_length": stage.sequence_length,
                    "llama": dataclasses.asdict(llama),
                    "config": operative,
                    "code": cli.code_version(),
                    "parent": parent,
                    "tokens": seen | {"lineage": sum(seen.values()) + (parent["tokens"] if parent else 0)},
                }
                with spending("save"):
                    saves.save(step, state, data.saved(batch.state, fingerprint), metadata, loss)
            return stopping

        first, ended = resumed or 0, False
        notes.spent["startup"] = time.time() - cli.PROCESS_STARTED
        try:
            while not ended:
                batches, spike = prefetched(stream), None
                steps = range(first + 1, stage.steps + 1)
                try:
                    state = trainer.train_loop(
                        state, train_step, batches, put, steps, log=log, after_step=after_step, pause_after=pause_after
                    )
                    ended = True
                except LossSpike as raised:
                    spike = raised.with_traceback(None)  # whose frames hold a state, and two have no room
                finally:
                    batches.close()
                if spike is not None:
                    first = last_saved() or 0
                    tell(f"{spike}; going back to step {first}, and on with the batches after that spike")
                    state = restored_state(saves, first, llama, stage, config.adamw, mesh).state
                    stream = data.stream("train", spike.batch.state)
                    notes.go_back(first, spike.step, spike.loss)
            saves.close()
        finally:
            notes.end_progress()
            profiler.close()
        step = int(state.step)
        if writes:
            for line in stream.left_out_lines():
                tell(line)

        # ------------------------------------------------------------ the end: samples, summary, report
        if step == stage.steps:
            # a run that was killed after this point has the curve already
            if len(windows) and not any(line.get("when") == "after" for line in notes.evaluations):
                tell("perplexity against context length, after")
                curve = evaluator.context_curve(state.params, windows, base_length)
                note_curve("after", step, stage.name, llama.rope_theta, curve)
            samples: list[dict[str, Any]] = []
            if config.evaluation.samples:
                tell(f"{config.evaluation.samples} samples")
                holes = punch_holes(data.excerpts(20), config.evaluation.samples, min(600, stage.sequence_length))
                tokens = config.evaluation.sample_tokens
                samples = infilling_samples(evaluator, state.params, data.tokenizer, holes, tokens)
            if writes:
                filesystem.write_atomically(stage_dir / "samples.json", json.dumps(samples, indent=1))
                summary = summarise(step, stage.batch_tokens, notes.steps, notes.evaluations)
                filesystem.write_atomically(stage_dir / "done.json", json.dumps(summary, indent=1))
                for line in conclusion(summary):
                    tell(line)
        notes.close()
        if writes:
            training.write_stage_report(stage_dir)
            tell(f"report in {training.write_run_report(run_dir)}")
        if step < stage.steps:
            tell(f"saved at step {step} of {stage.steps}; the same command goes on from there")
            return EXIT_INTERRUPTED
    return EXIT_DONE


def starting_checkpoint(config: Config, run_dir: Path) -> Path | None:
    """The checkpoint of another stage that this one starts from, None for random parameters.

    Raises:
        UserError: the parent is not finished; the message has the command that runs it.
    """
    stage, initial = config.stage, config.checkpoints.initial
    if stage.parent is None:
        return None if initial == "scratch" else filesystem.to_path(initial)
    step = final_step(run_dir / stage.parent)
    if step is None:
        raise UserError(
            f"{stage.name} starts from {stage.parent}, which is not finished in {run_dir}; run it first:"
            f" python xm_launch.py --gin_file=gin/{stage.parent}.gin --gin_file=gin/models/{stage.size}.gin"
            f" --run_dir={run_dir.parent} --name={run_dir.name}"
        )
    return run_dir / stage.parent / "checkpoints" / str(step)


def describe(config: Config, llama: Llama, shares: dict[str, float], devices: str) -> dict[str, Any]:
    """What the report says of the stage before its first step."""
    stage = config.stage
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
        "shares": shares,
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
        "goodput": goodput(metrics),
        "tokens_per_second": statistics.median(line["tokens_per_second"] for line in metrics),
        "validation_loss_first": validation[0]["loss"],
        "validation_loss_last": validation[-1]["loss"],
        "context_length": curves["after"]["lengths"][-1] if "after" in curves else None,
        "perplexity_before": curves["before"]["perplexity"][-1] if "before" in curves else None,
        "perplexity_after": curves["after"]["perplexity"][-1] if "after" in curves else None,
    }


def conclusion(summary: dict[str, Any]) -> list[str]:
    """What the user reads when a stage is finished."""
    lines = [
        f"validation loss {summary['validation_loss_first']:.3f} -> {summary['validation_loss_last']:.3f} nats"
        f" in {summary['tokens']:,} tokens, {summary['tokens_per_second']:,.0f} tokens/s"
    ]
    if summary["perplexity_before"] is not None:
        change = summary["perplexity_after"] / summary["perplexity_before"] - 1
        lines.append(
            f"perplexity at {summary['context_length']} tokens of context {summary['perplexity_before']:.1f}"
            f" -> {summary['perplexity_after']:.1f} ({change:+.0%})"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
