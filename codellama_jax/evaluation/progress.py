"""The progress of an evaluation on the terminal, with the running pass@1."""

import logging
import math
import sys
import time
from collections import defaultdict

import tqdm

from codellama_jax.evaluation.pass_at_k import interval
from codellama_jax.evaluation.sample import Sample

logger = logging.getLogger(__name__)

LINE_SECONDS = 10.0  # interval between progress lines if there is no terminal
LEAST_SAMPLES = 10  # before the remaining time is estimated
BAR_SECONDS = 0.5  # interval between the numbers of a bar


class Progress:
    """Shows the number of samples, pass@1 so far with its 95% interval, and the remaining time.

    Args:
        name: of the benchmark.
        total: number of samples of the evaluation.
    """

    def __init__(self, name: str, total: int):
        self._name, self._total = name, total
        self._tasks = defaultdict[tuple[str, str], list[bool]](list)  # (variant, task_id) -> passed
        self._done = self._first = 0
        self._terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._bar: tqdm.tqdm | None = None

    def start(self) -> None:
        """Begins to count time: what was added before was done earlier."""
        self._first, self._started = self._done, time.monotonic()
        self._bar = tqdm.tqdm(
            total=self._total,
            initial=self._done,
            desc=self._name,
            unit="sample",
            disable=not self._terminal,
            dynamic_ncols=True,
        )

    def add(self, sample: Sample) -> None:
        """Counts a sample."""
        self._done += 1
        if sample.passed is not None:
            self._tasks[sample.variant, sample.task_id].append(sample.passed)
        if self._bar is not None:
            self._show()

    def _show(self) -> None:
        now = time.monotonic()
        last = self._done == self._total
        if now - self._shown < (BAR_SECONDS if self._terminal else LINE_SECONDS) and not last:
            return
        self._shown = now
        if self._bar is not None and self._terminal:
            self._bar.set_postfix_str(self.scores(), refresh=False)
            self._bar.update(self._done - self._bar.n)
            return
        new = self._done - self._first
        rate = new / max(now - self._started, 1e-9)
        # the first samples wait for compilation
        left = f"  {_clock((self._total - self._done) / rate)} left" if new >= LEAST_SAMPLES and not last else ""
        logger.info(f"{self._name}: {self._done:,}/{self._total:,} samples  {self.scores()}  {rate:.2g}/s{left}")

    def scores(self) -> str:
        """pass@1 of each variant, in percent, with its interval."""
        parts = []
        for variant in dict.fromkeys(variant for variant, _ in self._tasks):
            tasks = [found for (of, _), found in self._tasks.items() if of == variant]
            values = [sum(found) / len(found) for found in tasks]
            low, high = interval(values, sum(map(len, tasks)))
            mean = math.fsum(values) / len(values)
            parts.append(f"{variant} pass@1 {100 * mean:.1f}% ({100 * low:.1f} to {100 * high:.1f})".strip())
        return "; ".join(parts)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
