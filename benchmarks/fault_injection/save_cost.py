"""The time that a save adds to the training loop."""

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from result_file import median_and_range, paragraph
from runs import Run, lines

MODEL = ["--gin_file=gin/code.gin", "--gin.Llama.dim=640", "--gin.Llama.heads=10", "--gin.Llama.kv_heads=10"]
MODEL += ["--gin.Llama.ffn_dim=1728", "--gin.Llama.layers={layers}", "--gin.CODE_STEPS={steps}"]
MODEL += ["--gin.CODE_LENGTH=256", "--gin.CODE_BATCH_TOKENS=1_024", "--gin.Checkpoints.every={every}"]
MODEL += ["--gin.Checkpoints.keep=1", "--gin.Checkpoints.keep_best=False", "--gin.Evaluation.every=1_000"]
MODEL += ["--gin.Evaluation.batches=1", "--gin.Evaluation.context_windows=0", "--gin.Evaluation.samples=0"]
EVERY, SAVES = 6, 5


def section(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of this part of the result file."""
    values = {"layers": options.layers, "steps": EVERY * SAVES, "every": EVERY}
    run = Run(folder / "runs", [flag.format(**values) for flag in MODEL])
    run.finish(timeout=1800)
    metrics = {line["step"]: line for line in lines(run.folder / "code" / "metrics.jsonl")}
    state = run.final_arrays()
    size = sum(array.nbytes for array in state.values())
    copies = copy_seconds(state)
    copy = statistics.median(copies)
    # Seconds by number of steps since a save. The first interval is excluded because it includes compilation, the last
    # save because the run waits for it.
    seconds = {
        since: [metrics[step]["seconds"] for step in range(EVERY + since, EVERY * SAVES, EVERY)]
        for since in range(EVERY)
    }
    blocked = [metrics[step + 1]["save_seconds"] for step in range(EVERY, EVERY * SAVES, EVERY)]
    starts = [step + save for step, save in zip(seconds[0], blocked, strict=True)]
    before = seconds[EVERY - 1]
    bound = 1.3 * statistics.median(before) + copy
    yield "## Saving"
    yield ""
    parameters = sum(array.size for name, array in state.items() if name.startswith("params"))
    yield from paragraph(f"""
        {parameters / 1e6:.0f} million parameters; {len(blocked)} saves of {size / 1e6:,.0f} MB, one every {EVERY} steps
        of 1,024 tokens. A copy of the state's arrays takes {copy:.2f} s on this machine without other load (median
        of {len(copies)}, {size / copy / 1e9:.1f} GB/s).
    """)
    yield "| step | median seconds | min .. max |"
    yield "|---|---|---|"
    yield f"| ordinary step: the last before a save | {median_and_range(before)}"
    yield f"| step that starts a save, including the save | {median_and_range(starts)}"
    yield f"| time during which the save blocks the loop | {median_and_range(blocked)}"
    for since in range(1, EVERY - 1):
        yield f"| step {since} after the save | {median_and_range(seconds[since])}"
    yield ""
    met = "met" if statistics.median(starts) <= bound else "NOT met"
    yield from paragraph(f"""
        Bound: 1.3 ordinary steps plus the copy, {bound:.2f} s: {met} ({statistics.median(starts):.2f} s).
    """)


def copy_seconds(state: dict[str, np.ndarray]) -> list[float]:
    """Seconds of five copies of these arrays from a device to the host."""
    import jax

    placed = jax.block_until_ready(jax.device_put(state))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        copies = [np.array(array, copy=True) for array in placed.values()]
        seconds.append(time.perf_counter() - start)
        del copies
    return seconds
