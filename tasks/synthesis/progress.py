"""The progress of self-instruct, in the log."""

import logging
import time

logger = logging.getLogger(__name__)

LINE_SECONDS = 10.0  # interval between lines


class Progress:
    """Logs how many questions are done.

    Args:
        prompts: number of prompts for questions.
    """

    def __init__(self, prompts: int):
        self._prompts = prompts
        self._shown = time.monotonic()

    def update(self, prompts: int, closed: int, known: int, kept: int) -> None:
        """Logs a line now and then.

        Args:
            prompts: number of prompts whose questions are known.
            closed: number of questions that are done.
            known: number of questions so far.
            kept: number of dialogues so far.
        """
        if time.monotonic() - self._shown < LINE_SECONDS:
            return
        self._shown = time.monotonic()
        logger.info(
            "prompts %s of %s  questions %s of %s done  dialogues %s",
            *(f"{count:,}" for count in (prompts, self._prompts, closed, known, kept)),
        )
