"""Trains one stage, from its gin files to its report. Every host of a run executes this command.

    python -m codellama_jax.train --gin_file=gin/code.gin --gin_file=gin/models/local.gin [--run_dir=runs] [--name=NAME]

This is the only module that combines the data (tasks) with the model. `run_stage` contains the steps of a stage in the
order in which they happen; the training loop is training/trainer.py.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import logging
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama_jax.config import gin_files
from codellama_jax.config.derived import steps_of_epochs, with_steps
from codellama_jax.config.run import Config, operative_text
from codellama_jax.errors import EXIT_DONE, EXIT_INTERRUPTED, UserError
from codellama_jax.runtime import cache, cli, console, distributed, filesystem, lock
from codellama_jax.runtime.run_dir import (
    check_name,
    check_same_configuration,
    final_step,
    saved_steps,
    tokenizer_file,
)
from codellama_jax.runtime.signals import StopSignals

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from codellama_jax.config.model import Llama
    from codellama_jax.evaluation.gold import GoldProblem, GoldText
    from codellama_jax.tokenizer import Tokenizer
    from codellama_jax.training.infilling_comparison import InfillingComparison
    from codellama_jax.training.metrics.prefixed_logger import PrefixedLogger
    from codellama_jax.training.trainer import Trainer
    from codellama_jax.training.watchdog import Watchdog
    from tasks.stage_data import StageData

logger = logging.getLogger("codellama_jax.train")  # not __name__, which is __main__ here


def main(argv: list[str] | None = None) -> int:
    """Runs a stage. Returns the exit code: 0 done, 1 failed, 2 wrong usage, 75 stopped: start again to resume."""
    parser = cli.Parser(prog="python -m codellama_jax.train", description="Runs one stage.")
    parser.add_argument("--run_dir", type=filesystem.to_path, default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--name", help="the run's folder in it (default: the size)")
    return distributed.exit_without_barrier(functools.partial(cli.run, parser, argv, train, explain))


def train(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    """Loads the configuration, joins the other hosts, and runs the stage."""
    if not options.verbose:
        console.silence_threads()
    if "CODELLAMA_JAX_LAUNCHER" in os.environ:
        cli.die_with_parent(signal.SIGTERM)
    config = gin_files.load(flags.gin_files, flags.bindings, imports=flags.imports).resolve_training()
    distributed.initialize()
    run_dir = options.run_dir / check_name(options.name or config.stage.size)
    with distributed.peer_loss_as_user_error(), filesystem.store_failures_as_user_errors(run_dir):
        distributed.check_hosts_agree(code=cli.code_version(), configuration=operative_text(config))
        if filesystem.is_remote(run_dir):
            _check_bucket(run_dir)
        return run_stage(config, run_dir)


def run_stage(config: Config, run_dir: Path) -> int:
    """Trains a stage in run_dir/STAGE (local or in a bucket), or resumes it, and writes its report.

    Raises:
        UserError: anything that the user can fix; earlier checkpoints are not affected.
    """
    stage = config.stage
    stage_dir = run_dir / stage.name
    logger.info(f"{stage.name}: loading JAX")

    # Imported here: these imports take seconds, and a wrong flag should be reported before them.
    import jax

    from codellama_jax.report.stage_summary import describe
    from codellama_jax.sharding import check_divides, host_group, make_mesh
    from codellama_jax.training.checkpoints import read_metadata
    from codellama_jax.training.inheritance import check_model
    from codellama_jax.training.initialization import stage_model, start_checkpoint
    from codellama_jax.training.metrics.prefixed_logger import PrefixedLogger
    from codellama_jax.training.trainer import Trainer
    from codellama_jax.training.watchdog import Watchdog
    from tasks.loader import prefetched
    from tasks.sources import import_modules
    from tasks.stage_data import StageData

    import_modules(config.imports)
    if jax.process_count() == 1:
        # Not with several: JAX keeps those of process 0 only, and on GPUs all processes share the work of autotuning.
        cache.keep_programs()
    elif jax.default_backend() == "cpu":
        # A cache that the user has set: process 0 would load its program, whose collectives may be ordered otherwise
        # than in those that the other processes compile.
        cache.keep_no_programs()

    # The run folder. Host 0 writes everything except the checkpoints, which all hosts write.
    writes = jax.process_index() == 0
    log = PrefixedLogger(logger, stage.name, enabled=writes)
    check_same_configuration(stage_dir, operative_text(config))
    if (step := final_step(stage_dir)) is not None:
        if writes:
            _write_reports(stage_dir)  # they are missing if the process was killed after writing done.json
        log.info(f"finished at step {step}, nothing to do ({stage_dir / 'report.html'})")
        return EXIT_DONE
    gold_problems = _gold_problems(config)  # raises before a folder is created
    if not saved_steps(stage_dir) and (parent := start_checkpoint(config, run_dir)) is not None:
        check_model(parent, read_metadata(parent), config)  # raises before a folder is created
    with contextlib.ExitStack() as resources:
        locked = None
        if writes:
            stage_dir.mkdir(parents=True, exist_ok=True)
            locked = lock.acquire(stage_dir)
            resources.callback(locked.release)
            filesystem.write_atomically(stage_dir / "config.gin", operative_text(config))

        # The devices and the data.
        micro_batch = stage.batch_size // stage.micro_batches
        mesh = make_mesh(config.mesh, micro_batch)
        check_divides(mesh, micro_batch, stage.sequence_length, config.llama)
        host, hosts = host_group(mesh)
        config = _with_tokenizer(config, run_dir)
        data = StageData(config, run_dir, host=host, hosts=hosts, log=log.info, writes=writes)
        inventory = data.inventory()
        for line in inventory.lines():
            log.info(line)
        if writes:
            _write_json(stage_dir / "inventory.json", inventory.as_json())
        # of the tasks of a SeqIO mixture, one with this name is known to give dialogues
        llama, lineage, files = stage_model(config, run_dir, data.tokenizer, dialogues="instruct" in data.shares)
        if llama.padding_rows:
            log.info(
                f"{llama.padding_rows} of {llama.vocab_size:,} vocabulary rows are padding: they have no token, and are"
                " neither predicted nor trained"
            )

        config = with_steps(config, _steps(config, data, stage_dir, log, writes))
        stage = config.stage
        gold_texts = _gold_texts(config, gold_problems, data.tokenizer, log) if gold_problems else []

        # Training.
        resources.enter_context(jax.set_mesh(mesh))
        grace_seconds, stacks = config.checkpoints.grace_seconds, stage_dir / f"stacks.{jax.process_index()}.txt"
        stop = resources.enter_context(StopSignals(grace_seconds=grace_seconds, hosts=jax.process_count()))
        watchdog = resources.enter_context(Watchdog(config.monitoring.stall_minutes, stacks))
        infilling = _infilling(config, llama, mesh, data, stage_dir, log, writes, watchdog)
        trainer = Trainer(
            config,
            run_dir,
            llama,
            mesh,
            data,
            prefetched,
            stop=stop,
            watchdog=watchdog,
            lock=locked,
            logger=log,
            gold=gold_texts,
            infilling=infilling,
            lineage=lineage,
            files=files,
        )
        if writes and trainer.resumed_step is None:
            devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
            _write_json(stage_dir / "stage.json", describe(config, llama, data.shares, devices))
        step = trainer.run()
        if writes:
            _write_json(stage_dir / "inventory.json", data.inventory().as_json())
        for line in trainer.loader.left_out_lines():
            log.info(line)

        # Samples, summary and report.
        if trainer.finished:
            _finish(trainer, stage_dir, log, writes)
        trainer.log.close()
        if writes:
            log.info(f"report in {_write_reports(stage_dir)}")
        if not trainer.finished:
            log.info(f"saved at step {step} of {stage.steps}; the same command resumes from there")
            return EXIT_INTERRUPTED
    return EXIT_DONE


def _gold_problems(config: Config) -> list["GoldProblem"]:
    """The problems of the benchmarks that evaluations measure. Checks those that are measured at the end, too."""
    if not config.evaluation.measures_benchmarks:
        return []
    from codellama_jax.evaluation import gold  # imports every benchmark, which other runs do not need

    return gold.read(config)


def _gold_texts(
    config: Config, problems: list["GoldProblem"], tokenizer: "Tokenizer", log: "PrefixedLogger"
) -> list["GoldText"]:
    """The problems as token ids; logs what is measured and what is not."""
    from codellama_jax.evaluation import gold

    texts = gold.encoded(problems, tokenizer, config.stage.sequence_length)
    for line in gold.lines(config, texts):
        log.info(line)
    return texts


def _with_tokenizer(config: Config, run_dir: Path) -> Config:
    """The configuration with the tokenizer of Checkpoints.initial, if none is bound and the run's folder keeps none.

    Raises:
        UserError: the checkpoint has none.
    """
    from codellama_jax.training.initialization import start_checkpoint

    if config.tokenizer.model is not None or tokenizer_file(run_dir) is not None:
        return config
    if config.stage.parent is not None or (start := start_checkpoint(config, run_dir)) is None:
        return config
    if (file := tokenizer_file(start)) is None:
        raise UserError(
            f"{start} has no tokenizer.model and no tokenizer.json: bind TOKENIZER to the one that it was trained with"
        )
    tokenizer = dataclasses.replace(config.tokenizer, model=str(file))
    return dataclasses.replace(config, tokenizer=tokenizer)


def _steps(config: Config, data: "StageData", stage_dir: Path, log: "PrefixedLogger", writes: bool) -> int:
    """The number of steps of the stage: Stage.steps, or those of Stage.epochs, by the tokens of the data.

    A stage that resumes has the number that it started with (epochs.json).
    """
    if not config.stage.epochs:
        return config.stage.steps
    path = stage_dir / "epochs.json"
    if path.exists() and saved_steps(stage_dir):
        return int(json.loads(filesystem.read_text(path))["steps"])
    epoch = data.epoch()
    steps = steps_of_epochs(config, epoch.tokens, epoch.share)
    passes = steps * epoch.share * config.stage.batch_tokens / epoch.tokens
    log.info(
        f"{epoch.documents:,} documents of {epoch.stream} have {epoch.tokens:,} tokens: {steps:,} steps of"
        f" {config.stage.batch_tokens:,} tokens, {passes:.1f} epochs"
    )
    if writes:
        _write_json(path, dataclasses.asdict(epoch) | {"epochs": config.stage.epochs, "steps": steps})
    return steps


def _infilling(
    config: Config,
    llama: "Llama",
    mesh: "Mesh",
    data: "StageData",
    stage_dir: Path,
    log: "PrefixedLogger",
    writes: bool,
    watchdog: "Watchdog",
) -> "InfillingComparison | None":
    """What measures held-out infilling; None if Evaluation.infilling_cases is 0."""
    settings = config.evaluation
    if not settings.infilling_cases:
        return None
    from codellama_jax.training.infilling_cases import GENERAL, HELD_OUT, make_cases
    from codellama_jax.training.infilling_comparison import InfillingComparison

    count = settings.infilling_cases
    cases = make_cases(data.infilling_files(count), HELD_OUT, count)
    cases += make_cases(data.general_files(count), GENERAL, count)
    return InfillingComparison(
        llama, mesh, config.stage, data.tokenizer, settings, cases, stage_dir, writes, log.info, watchdog.reset
    )


def _finish(trainer: "Trainer", stage_dir: Path, log: "PrefixedLogger", writes: bool) -> None:
    """Evaluates the trained parameters, and marks the stage as finished by writing done.json."""
    from codellama_jax.report.stage_files import read_stage
    from codellama_jax.report.stage_summary import conclusion, summarize

    step = trainer.take_best()
    changed: list[str] = []
    if trainer.infilling:
        trainer.infilling.measure("after", trainer.params, str(step))
        changed = trainer.infilling.compare(trainer.start_model, str(step)) if writes else []
    trainer.evaluate_context_length()
    samples = trainer.infilling_samples()
    skipped = {}
    if trainer.config.evaluation.measured_at_the_end:
        from codellama_jax.training.final_evaluation import evaluate_stage

        skipped = evaluate_stage(trainer, stage_dir)
    if writes:
        _write_json(stage_dir / "samples.json", samples)
        summary = summarize(trainer.config.stage, trainer.log.steps, trainer.log.evaluations, step)
        _write_json(stage_dir / "done.json", summary | {"not_measured": skipped})
        for line in [*conclusion(summary, read_stage(stage_dir).results), *changed]:
            log.info(line)


def _write_reports(stage_dir: Path) -> Path:
    """Writes the reports of the stage and of the run; returns the path of the run's report."""
    from codellama_jax.report.training import write_run_report, write_stage_report

    write_stage_report(stage_dir)
    return write_run_report(stage_dir.parent)


def _write_json(path: Path, value: Any) -> None:
    filesystem.write_atomically(path, json.dumps(value, indent=1))


def _check_bucket(run_dir: Path) -> None:
    """Imports the storage client quietly, and checks that the bucket is reachable."""
    from codellama_jax.runtime import gcs

    gcs.check_bucket(run_dir)
    with console.quiet_stderr():  # TensorFlow's start-up notes
        run_dir.exists()


def explain(error: BaseException) -> str | None:
    """One line for the user about an error; None for a bug, whose traceback is shown.

    A RuntimeError, which includes the errors of JAX, is a bug unless it reports that memory ran out.
    """
    if isinstance(error, MemoryError | RuntimeError):
        # matched by text: importing JAX's error class would take seconds
        if isinstance(error, RuntimeError) and not re.search("RESOURCE_EXHAUSTED|Out of memory", str(error)):
            return None
        return "out of memory: raise Stage.micro_batches, or bind Llama.remat='full'; the same run resumes with either"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted before the first step; run the same command again"
    if isinstance(error, OSError) and error.errno is not None:
        remedy = "earlier checkpoints are not affected: fix the problem and run the same command again"
        return f"{error.strerror}: {error.filename or ''}; {remedy}"
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
