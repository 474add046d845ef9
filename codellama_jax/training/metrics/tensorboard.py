"""Scalars as TensorBoard events."""

import math
import sys
import time
import types
from pathlib import Path
from typing import Any

from codellama_jax.runtime import filesystem


class TensorBoard:
    """Writes an event file.

    Args:
        directory: log directory of TensorBoard.
        last_step: TensorBoard purges the events of later steps, which an earlier process wrote; 0: none.
    """

    def __init__(self, directory: Path, last_step: int):
        # imported here: the training core runs without tensorboard, and importing it takes a while
        if not filesystem.is_remote(directory):
            # TensorBoard writes with TensorFlow, which takes seconds to import, unless a module of this name exists
            sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(directory))
        if last_step:
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.add_event(self._event(wall_time=time.time(), step=last_step + 1, session_log=started))

    def write(self, step: int, record: dict[str, Any]) -> None:
        """Writes one point for each finite number in the record."""
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in record.items()
            if isinstance(value, (int, float)) and math.isfinite(value) and name != "step"
        ]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def close(self) -> None:
        """Writes buffered events and closes the file."""
        self._writer.close()
