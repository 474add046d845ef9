"""A process that is killed while it reads batches resumes from its last state."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from memory_source import (
    QUEUES,
    Fuzz,
)

from codellama_jax.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]

# Writes the digest of each batch, and then the state. Like a run, it is ahead of the state that it has saved.
WORKER = """
import hashlib, json, os, sys, time
import numpy as np
from codellama_jax.tokenizer import SentencePieceTokenizer, Tokenizer
from codellama_jax.config.data import Chat, Corpus, Fim
from tasks.encoder import Encoder
from tasks.sources.folder import Folder
from tasks.loader import DataLoader, LoaderState, StreamInput

folder, queue, digests, batches = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
encoder = Encoder(SentencePieceTokenizer.from_file(f"{folder}/a.model", True), Fim(), Chat(), (0, 1))
corpus = Corpus(validation_share=0.0, document_characters=150)
streams = [StreamInput(name, Folder(f"{folder}/{name}", "train", name=name, corpus=corpus), encoder)
         for name in ("code", "nl")]
saved, state = f"{folder}/state{queue}.json", None
if os.path.exists(saved):
    with open(saved) as file:
        state = LoaderState(*json.load(file))
    state = LoaderState(state.batch, np.array(state.positions, np.int64))
loader = DataLoader(streams, {"code": 0.7, "nl": 0.3}, seed=0, readers=4, batch_size=8, length=64, mask_documents=True,
                queue=queue, state=state)
with open(f"{folder}/{digests}", "w") as file:
    for _ in range(batches):
        batch = loader.next_batch()
        digest = hashlib.sha256(b"".join(batch.arrays[name].tobytes() for name in sorted(batch.arrays)))
        file.write(f"{batch.state.batch} {digest.hexdigest()}\\n")
        file.flush()
        with open(f"{saved}.new", "w") as new:
            json.dump([batch.state.batch, batch.state.positions.tolist()], new)
        os.replace(f"{saved}.new", saved)
        time.sleep(0.002)
"""


@pytest.mark.parametrize("queue", QUEUES)
def test_a_killed_process_resumes_from_the_last_state_written(
    tmp_path: Path, fuzzed: Fuzz, small_tokenizer: Tokenizer, queue: int
):
    rng = np.random.default_rng(17)
    for name, extension in (("code", "c"), ("nl", "txt")):
        (tmp_path / name).mkdir()
        for number in range(12):
            text = fuzzed(rng, int(rng.integers(20, 900))).replace("\0", "")
            (tmp_path / name / f"{number}.{extension}").write_bytes(text.encode())
    (tmp_path / "a.model").write_bytes(small_tokenizer.model)

    def start(digests: str, batches: int) -> subprocess.Popen:
        command = [sys.executable, "-c", WORKER, str(tmp_path), str(queue), digests, str(batches)]
        return subprocess.Popen(command, cwd=ROOT)

    def written(digests: str) -> list[str]:
        return (tmp_path / digests).read_text().splitlines()

    state = tmp_path / f"state{queue}.json"
    killed, deadline = start("killed", 100_000), time.monotonic() + 60
    try:
        while not (state.exists() and json.loads(state.read_text())[0] >= 25) and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    last = json.loads(state.read_text())[0]
    assert last >= 25
    assert start("resumed", 60).wait(60) == 0
    state.unlink()
    assert start("uninterrupted", last + 60).wait(60) == 0
    expected = written("uninterrupted")
    assert len(set(expected)) == len(expected) == last + 60
    assert written("killed")[:last] == expected[:last]  # the last line may be half written
    assert written("resumed") == expected[last:]
