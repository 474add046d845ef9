"""Messages of the log that nobody reads are dropped, and counted, instead of blocking."""

import logging
import os
import time

from codellama_jax.runtime import console


def test_a_full_pipe_blocks_nobody_and_the_number_of_dropped_lines_is_said(monkeypatch):
    reader, writer = os.pipe()
    handler = console.DroppingHandler()
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        begin = time.monotonic()
        for number in range(100):
            handler.emit(logging.makeLogRecord({"msg": f"line {number} " + "x" * 5000, "levelno": logging.INFO}))
        assert time.monotonic() - begin < 5
        dropped = handler.dropped
        assert 0 < dropped < 100
        os.read(reader, 1 << 20)
        handler.emit(logging.makeLogRecord({"msg": "after it", "levelno": logging.INFO}))
        text = os.read(reader, 1 << 20).decode()
    os.close(reader)
    assert f"({dropped:,} lines before this one were dropped" in text and text.endswith("after it\n")
    assert handler.dropped == 0
