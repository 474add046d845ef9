"""The progress of a stage on the terminal."""

import logging
import sys
import time

import tqdm

logger = logging.getLogger(__name__)

LINE_SECONDS = 10.0  # interval between progress lines if there is no terminal


class Progress:
    """Shows stage, step, loss, tokens per second and the remaining time: a bar on a terminal, otherwise lines.

    Args:
        stage: name of the stage.
        step: number of steps done already.
        steps: number of steps of the stage.
        shown: whether to show anything.
    """

    def __init__(self, stage: str, step: int, steps: int, shown: bool = True):
        self._stage, self._steps, self._shown = stage, steps, shown
        self._terminal = shown and sys.stderr.isatty()
        self._started, self._first = time.monotonic(), step
        self._printed = 0.0
        self._bar = tqdm.tqdm(
            total=steps, initial=step, desc=stage, unit="step", disable=not self._terminal, dynamic_ncols=True
        )

    def update(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Shows the numbers of a step; without a terminal, at most one line every LINE_SECONDS."""
        if self._terminal:
            self._bar.set_postfix_str(f"loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s", refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        if self._shown and (now - self._printed > LINE_SECONDS or step in (self._first + 1, self._steps)):
            self._printed = now
            remaining = (now - self._started) / max(step - self._first, 1) * (self._steps - step)
            logger.info(
                f"{self._stage}: step {step}/{self._steps}  loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s  "
                f"{_clock(remaining)} left"
            )

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
