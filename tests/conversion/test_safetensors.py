"""Files that the safetensors library refuses are refused, and files that it accepts are read."""

import json
import struct

import numpy as np
import pytest
from random_models import SIZES, Random

from codellama_jax.conversion import hf, safetensors
from codellama_jax.conversion.tensor_file import InputFile
from codellama_jax.errors import UserError


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def packed(header, data, length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


A = entry("F32", [2], 0, 8)
TEXT = json.dumps({"a": A}).encode()
FILES = {
    "valid": packed({"a": A, "b": entry("F16", [2], 8, 12)}, bytes(12)),
    "another order": packed({"b": entry("F16", [2], 8, 12), "a": A}, bytes(12)),
    "a scalar and an empty tensor": packed({"a": entry("F32", [], 0, 4), "b": entry("BF16", [0], 4, 4)}, bytes(4)),
    "no tensors": packed({}, b""),
    "metadata": packed({"__metadata__": {"format": "pt"}, "a": A}, bytes(8)),
    "spaces around the header": packed(b" " + TEXT + b"  ", bytes(8)),
    "an unknown field": packed({"a": A | {"x": 1}}, bytes(8)),
    "overlapping tensors": packed({"a": A, "b": entry("F16", [2], 4, 8)}, bytes(8)),
    "two tensors in one place": packed({"a": A, "b": A}, bytes(8)),
    "a gap": packed({"a": A, "b": entry("F16", [2], 12, 16)}, bytes(16)),
    "a gap at the start": packed({"a": entry("F32", [2], 4, 12)}, bytes(12)),
    "an empty tensor within another": packed({"a": A, "b": entry("F32", [0], 4, 4)}, bytes(8)),
    "trailing bytes": packed({"a": A}, bytes(9)),
    "trailing bytes without tensors": packed({}, b"x"),
    "truncated": packed({"a": A}, bytes(7)),
    "wrong size": packed({"a": entry("F32", [3], 0, 8)}, bytes(8)),
    "negative shape": packed({"a": entry("F32", [-2], 0, 8)}, bytes(8)),
    "negative offset": packed({"a": entry("F32", [2], -8, 0)}, bytes(8)),
    "reversed offsets": packed({"a": entry("F32", [2], 8, 0)}, bytes(8)),
    "overflow": packed({"a": entry("F32", [1 << 40, 1 << 40], 0, 8)}, bytes(8)),
    "overflow to zero": packed({"a": entry("F32", [1 << 63, 4, 0], 0, 0)}, b""),
    "an offset beyond 64 bits": packed({"a": entry("F32", [2], 1 << 70, (1 << 70) + 8)}, bytes(8)),
    "a fraction in a shape": packed({"a": entry("F32", [2.0], 0, 8)}, bytes(8)),
    "a bool in a shape": packed({"a": entry("F32", [True, 2], 0, 8)}, bytes(8)),
    "a shape that is a string": packed({"a": entry("F32", "2", 0, 8)}, bytes(8)),
    "an unknown dtype": packed({"a": entry("F99", [2], 0, 8)}, bytes(8)),
    "a dtype in lower case": packed({"a": entry("f32", [2], 0, 8)}, bytes(8)),
    "no dtype": packed({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "no offsets": packed({"a": {"shape": [2], "dtype": "F32"}}, bytes(8)),
    "three offsets": packed({"a": A | {"data_offsets": [0, 8, 8]}}, bytes(8)),
    "metadata that is a number": packed({"__metadata__": {"a": 1}, "a": A}, bytes(8)),
    "a list": packed([1], b""),
    "null": packed(b"null", b""),
    "a null tensor": packed({"a": None}, b""),
    "not UTF-8": packed(TEXT.replace(b"a", b"\xff", 1), bytes(8)),
    "a lone surrogate": packed(TEXT.replace(b'"a"', b'"\\ud800"'), bytes(8)),
    "a byte order mark": packed(b"\xef\xbb\xbf" + TEXT, bytes(8)),
    "NaN": packed(TEXT[:-2] + b', "x": NaN}}', bytes(8)),
    "zeros after the header": packed(TEXT + b"\0\0", bytes(8)),
    "two headers": packed(TEXT + TEXT, bytes(8)),
    "deep nesting": packed(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", b""),
    "a header longer than the file": packed(TEXT, bytes(8), 1 << 20),
    "a header of 200 MB": packed(TEXT, bytes(8), 200_000_000),
    "a header of 2^64 bytes": packed(TEXT, bytes(8), (1 << 64) - 1),
    "an empty header": packed(b"", b""),
    "an empty file": b"",
    "seven bytes": b"1234567",
}
ACCEPTED = list(FILES)[:7]


@pytest.mark.parametrize("name", FILES)
def test_the_verdict_is_that_of_the_safetensors_library(tmp_path, name):
    library = pytest.importorskip("safetensors")
    path = tmp_path / "model.safetensors"
    path.write_bytes(FILES[name])
    try:
        with library.safe_open(path, "np") as opened:
            names = set(opened.keys())
    except Exception:
        names = None
    assert (names is not None) == (name in ACCEPTED)
    file = InputFile(path)
    if names is not None:
        assert safetensors.read(file).keys() == names
    else:
        with pytest.raises(UserError, match=rf"^{path} is (damaged|truncated)[^\n]+fetch it again$"):
            safetensors.read(file)
    file.close()


@pytest.mark.parametrize("text", [
    TEXT[:-1] + b"," + TEXT[1:],
    TEXT.replace(b'"dtype"', b'"dtype": "F16", "dtype"'),
    b'{"__metadata__": {"a": "b", "a": "c"},' + TEXT[1:],
])  # fmt: skip
def test_keys_that_occur_twice_are_refused(tmp_path, text):
    """The library refuses only some of them, and takes the last value of the others."""
    (tmp_path / "a").write_bytes(packed(text, bytes(8)))
    with pytest.raises(UserError, match="occurs twice"):
        safetensors.read(InputFile(tmp_path / "a"))


@pytest.mark.parametrize("bits, code", [(8, "F8_E4M3"), (8, "BOOL"), (16, "I16"), (32, "U32"), (64, "F64"), (4, "F4")])
def test_dtypes_of_other_models_are_named(tmp_path, bits, code):
    (tmp_path / "a").write_bytes(packed({"a": entry(code, [8], 0, bits)}, bytes(bits)))
    with pytest.raises(UserError, match=f"a is {code}: only F32, BF16 and F16 are supported"):
        safetensors.read(InputFile(tmp_path / "a"))


def test_damaged_files_of_a_checkpoint_are_named(tmp_path, run):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    hf.write(Random(SIZES["7b"]), theirs)
    path = theirs / hf.SINGLE
    raw = path.read_bytes()
    np.testing.assert_array_equal(np.frombuffer(raw[:8], "<u8") % 8, 0)
    path.write_bytes(raw + b"\0")
    output = run("import", "--from", theirs, "--to", tmp_path / "ours", code=1)
    assert f"{path} is damaged: its header is invalid (1 bytes follow the last tensor)" in output
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
