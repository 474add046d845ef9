"""Compressed record files: large windows, several frames, and frames without content."""

import bz2
import gzip
import lzma
import re
from pathlib import Path

import pytest
import zstandard
from written_records import RECORDS, TEXTS, everything, opened, packed, write

from codellama_jax.errors import UserError

LINES = packed("jsonl", RECORDS)
SKIPPABLE = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"


def long_window(log: int, data: bytes) -> bytes:
    """What `zstd --long=LOG` writes to a pipe: a frame without the size of its content."""
    parameters = zstandard.ZstdCompressionParameters(window_log=log, enable_ldm=True, write_content_size=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    compressed = compressor.compress(data) + compressor.flush()
    assert zstandard.get_frame_parameters(compressed).window_size == 1 << log
    return compressed


def texts(path: Path) -> list[str]:
    return [document.text for document in everything(opened(path, validation_share=0.0))]


@pytest.mark.parametrize("log", [27, 28, 31])
def test_zstandard_with_a_large_window_is_read(tmp_path: Path, log: int):
    """zstd --long=27 is the largest window that decoders accept without an option."""
    write(tmp_path / "a.jsonl.zst", long_window(log, LINES))
    write(tmp_path / "b.json.zstd", long_window(log, packed("json", RECORDS)))
    assert texts(tmp_path / "a.jsonl.zst") == texts(tmp_path / "b.json.zstd") == TEXTS


def test_files_of_several_frames_and_padding_are_read(tmp_path: Path):
    halves = [LINES[: len(LINES) // 2], LINES[len(LINES) // 2 :]]  # the cut is inside a line
    zstd = [zstandard.compress(half) for half in halves]
    xz = [lzma.compress(half) for half in halves]
    files = {
        "a.jsonl.zst": SKIPPABLE + zstd[0] + SKIPPABLE * 2 + zstandard.compress(b"") + zstd[1] + SKIPPABLE,
        "b.jsonl.xz": xz[0] + bytes(8) + xz[1] + bytes(4),
        "c.jsonl.bz2": b"".join(map(bz2.compress, (*halves, b""))),
        "d.jsonl.gz": b"".join(map(gzip.compress, (*halves, b""))) + bytes(512),  # padded, as on tapes
    }
    for name, data in files.items():
        write(tmp_path / name, data)
        assert texts(tmp_path / name) == TEXTS
        for lost in (1, 5):
            stripped = data.rstrip(b"\0") if name != "a.jsonl.zst" else data
            write(tmp_path / name, stripped[:-lost] if name != "d.jsonl.gz" else stripped[:-lost] + b"\xff" * lost)
            with pytest.raises(UserError, match=re.escape(f"{name}:") + r"\d+ is damaged"):
                texts(tmp_path / name)


def test_a_file_that_decompresses_to_much_more_is_read(tmp_path: Path):
    """16 MiB of spaces in a few kB."""
    from tasks.sources.files import Found
    from tasks.sources.records.compression import open_decompressed

    data = (b" " * 1023 + b"\n") * (16 << 10)
    for name, compress in (("a.zst", zstandard.compress), ("a.bz2", bz2.compress), ("a.xz", lzma.compress)):
        (tmp_path / name).write_bytes(compress(data))
        size = (tmp_path / name).stat().st_size
        with open_decompressed(Found(name, str(tmp_path / name), size, "")) as stream:
            assert sum(1 for _ in stream) == 16 << 10
