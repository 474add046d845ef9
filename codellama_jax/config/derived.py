"""Settings whose values depend on others: the steps of a stage by the tokens of its data, and what depends on them."""

import dataclasses
import math

from codellama_jax.config.run import Config

EVALUATIONS = 20  # of a stage with Evaluation.every=0
WARMUP_SHARE = 0.1  # of the derived steps that the warm-up takes at most


def steps_of_epochs(config: Config, tokens: int, share: float) -> int:
    """The number of optimizer steps of Stage.epochs passes over a stream.

    Args:
        config: the configuration, with Stage.epochs above 0.
        tokens: tokens of one pass over the stream.
        share: the stream's share of the tokens of a batch.
    """
    stage = config.stage
    return max(stage.least_steps, math.ceil(stage.epochs * tokens / (share * stage.batch_tokens)))


def evaluations_apart(steps: int) -> int:
    """The steps between evaluations of a stage with Evaluation.every=0."""
    return math.ceil(steps / EVALUATIONS)


def with_steps(config: Config, steps: int) -> Config:
    """The configuration with this number of steps, and the values that are derived from it.

    Evaluation.every=0 becomes a twentieth of the steps, Checkpoints.every=0 becomes Evaluation.every. If the steps are
    derived from Stage.epochs, the warm-up has at most a tenth of them.
    """
    evaluation, checkpoints, adamw = config.evaluation, config.checkpoints, config.adamw
    if config.stage.epochs:
        adamw = dataclasses.replace(adamw, warmup_steps=min(adamw.warmup_steps, math.ceil(steps * WARMUP_SHARE)))
    if not evaluation.every:
        evaluation = dataclasses.replace(evaluation, every=evaluations_apart(steps))
    if not checkpoints.every:
        checkpoints = dataclasses.replace(checkpoints, every=evaluation.every)
    stage = dataclasses.replace(config.stage, steps=steps, epochs=0.0)
    return dataclasses.replace(config, stage=stage, evaluation=evaluation, checkpoints=checkpoints, adamw=adamw)


def check_together(config: Config) -> None:
    """Raises ValueError if settings of different parts contradict each other."""
    if config.evaluation.patience and not config.checkpoints.keep_best:
        raise ValueError(
            f"Evaluation.patience={config.evaluation.patience} ends with the checkpoint of the lowest loss, which"
            " Checkpoints.keep_best=False removes: bind one of them otherwise"
        )
    if config.evaluation.infilling_cases and not config.tokenizer.infilling:
        raise ValueError(
            f"Evaluation.infilling_cases={config.evaluation.infilling_cases} needs infilling ids: bind"
            " Tokenizer.infilling=True, or Evaluation.infilling_cases=0"
        )
