"""Infilling while somebody types: how much of the prompt is processed again at each keystroke."""

import json
import statistics
from pathlib import Path

import httpx
import pytest

from codellama_jax.config.serving import Server

CHUNK = 16  # the smaller chunk of the engine, and the size of a page


@pytest.mark.parametrize("order", ["spm", "psm"])
def test_a_keystroke_processes_less_than_a_chunk_where_the_suffix_comes_first(make_server, order):
    source = Path(json.decoder.__file__).read_text(encoding="utf-8")
    start = source.index("    def decode")
    suffix = source[start + 500 : start + 1000]
    lengths = [*range(200, 230), *range(230, 220, -1), *range(220, 240)]  # ten characters are deleted, and retyped
    server, processed = make_server(Server(order=order)), []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for length in lengths:
            hole = {"prompt": source[start : start + length], "suffix": suffix, "max_tokens": 2}
            usage = client.post("/v1/completions", json=hole).json()["usage"]
            # the last token of the prompt is the first input of decoding
            processed.append(usage["prompt_tokens"] - 1 - usage["prompt_tokens_details"]["cached_tokens"])
    first, *later = processed
    after = len(server.api.tokenizer.encode(suffix))
    if order == "spm":
        assert first > after and max(later) <= CHUNK
    else:  # deleting returns to texts that the cache holds
        assert statistics.median(later) > after > 100
