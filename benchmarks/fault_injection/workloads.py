"""The runs into which faults are injected, at toy size."""

from pathlib import Path

from runs import TOY, Run

CASCADE = ["--gin_file=gin/lcft.gin", *TOY, "--gin.Evaluation.every=40", "--gin.Checkpoints.every=8"]
CASCADE += ["--gin.CODE_LENGTH=256", "--gin.CODE_BATCH_TOKENS=4_096", "--gin.CODE_STEPS={code}"]
CASCADE += ["--gin.LCFT_LENGTH=512", "--gin.LCFT_BATCH_TOKENS=4_096", "--gin.LCFT_STEPS={lcft}"]
CASCADE += ["--gin.Llama.dim=64", "--gin.Llama.ffn_dim=160", "--gin.Llama.layers=2"]  # about 40 ms per step
CODE = ["--gin_file=gin/code.gin", *CASCADE[1:]]

TWO_PROCESSES = ["--gin_file=gin/code.gin", "--gin_file=gin/models/local.gin", *TOY, "--gin.CODE_BATCH_TOKENS=512"]
TWO_PROCESSES += ["--gin.DataLoader.readers=4", "--gin.CODE_STEPS={steps}", "--gin.Checkpoints.every=8"]
TWO_PROCESSES += ["--gin.Evaluation.every=40", "--gin.Evaluation.context_windows=0", "--gin.Evaluation.samples=0"]
# One process with one device sums in another order: in float32 the losses are nevertheless close.
TWO_PROCESSES += ["--gin.Llama.compute_dtype=float32"]


def cascade(steps: int, folder: Path) -> Run:
    """Code training, then half as many steps of long-context fine-tuning."""
    return Run(folder, [flag.format(code=steps, lcft=steps // 2) for flag in CASCADE])


def code_training(steps: int, folder: Path) -> Run:
    """Code training only."""
    return Run(folder, [flag.format(code=steps, lcft=1) for flag in CODE])


def two_processes(steps: int, folder: Path) -> Run:
    """Code training in two processes with four devices each, connected over loopback."""
    return Run(folder, [flag.format(steps=steps) for flag in TWO_PROCESSES], processes=2, devices=4)
