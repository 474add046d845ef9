"""Import and export of Meta's files: the same bits in any number of parts, and pickles cannot execute code."""

import dataclasses
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from random_models import SIZES, Random

from codellama_jax.conversion import canonical, formats, meta, torch_file
from codellama_jax.conversion.canonical import Tensor
from codellama_jax.conversion.tensor_file import InputFile
from codellama_jax.errors import UserError

COLUMNS = ("wo", "w2", "embedding")
ROWS = ("wq", "wk", "wv", "w1", "w3", "head")


@pytest.mark.parametrize("change, words", [
    ({"rope_scale": 0.25}, "no position interpolation (Llama.rope_scale): use --format=hf"),
    ({"rope_type": "llama3", "rope_factor": 8.0, "rope_original_positions": 64}, "no rotary scaling of type 'llama3'"),
    ({"qkv_bias": True}, "no biases (Llama.qkv_bias): use --format=hf"),
    ({"head_width": 8}, "no heads of another width than dim / n_heads (Llama.head_width)"),
])  # fmt: skip
def test_what_the_format_cannot_express_is_refused(tmp_path, change, words):
    with pytest.raises(UserError) as caught:
        meta.write(Random(dataclasses.replace(SIZES["7b"], **change)), tmp_path)
    assert words in str(caught.value) and not list(tmp_path.iterdir())


def written(folder, source, parts=1):
    folder.mkdir()
    meta.write(source, folder, parts)
    return folder


def content(folder):
    """dtype, shape and bytes of every tensor of every file."""
    found = {}
    for path in sorted(folder.glob("*.pth")):
        file = InputFile(path)
        for name, stored in torch_file.read(file).items():
            found[path.name, name] = (stored.dtype.name, stored.shape, stored.rows(0, stored.shape[0]).tobytes())
        file.close()
    return found


@pytest.mark.parametrize("size, dtype, parts", [
    ("7b", "bfloat16", 1),
    ("7b", "float16", 2),
    ("7b", "float32", 4),
    ("70b", "bfloat16", 8),
    ("70b", "float32", 2),
])  # fmt: skip
def test_export_of_import_is_the_identity(tmp_path, run, size, dtype, parts):
    theirs = written(tmp_path / "theirs", Random(SIZES[size], dtype), parts)
    run("import", "--from", theirs, "--to", tmp_path / "ours")
    run("export", "--from", tmp_path / "ours", "--to", tmp_path / "back", "--format=meta")
    assert len(content(theirs)) == parts * (9 * SIZES[size].layers + 3)
    assert content(tmp_path / "back") == content(theirs)
    assert (tmp_path / "back/params.json").read_text() == (theirs / "params.json").read_text()


@pytest.mark.parametrize("size, parts", [("7b", 1), ("70b", 8)])
def test_torch_loads_exported_files(tmp_path, size, parts):
    """With memory mapping. Each part has the rows or columns that Meta's layers expect, with adjacent rotary pairs."""
    torch = pytest.importorskip("torch")
    llama = SIZES[size]
    source = Random(llama, "float32")
    theirs = written(tmp_path / "theirs", source, parts)
    for part in range(parts):
        loaded = torch.load(theirs / f"consolidated.{part:02d}.pth", weights_only=True, mmap=True)
        for tensor, array in source.arrays.items():
            if tensor.name in canonical.ROTARY:
                heads = array.reshape(-1, 2, llama.head_dim // 2, llama.dim)
                array = np.stack([heads[:, 0], heads[:, 1]], axis=2).reshape(array.shape)
            if tensor.name in COLUMNS + ROWS:
                array = np.split(array, parts, axis=tensor.name in COLUMNS)[part]
            there = loaded.pop(meta.name_of(tensor))
            np.testing.assert_array_equal(there.numpy(), array)
            assert there.data_ptr() % 64 == 0
        assert not loaded


@pytest.mark.parametrize("embedding_axis", [0, 1])
def test_imports_files_of_torch_save(tmp_path, run, embedding_axis):
    """Two parts with details of real checkpoints: rotary frequencies, and a vocab_size of -1."""
    torch = pytest.importorskip("torch")
    llama = SIZES["70b"]
    source = Random(llama, "bfloat16")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for part in range(2):
        state = {"rope.freqs": torch.ones(4)}
        for tensor, array in source.arrays.items():
            if tensor.name in canonical.ROTARY:
                array = canonical.adjacent_pairs(array, llama.head_dim)
            if tensor.name in COLUMNS + ROWS:
                axis = embedding_axis if tensor.name == "embedding" else int(tensor.name in COLUMNS)
                array = np.split(array, 2, axis)[part]
            bits = torch.from_numpy(np.ascontiguousarray(array).view(np.uint16).copy())
            state[meta.name_of(tensor)] = bits.view(torch.bfloat16)
        torch.save(state, theirs / f"consolidated.{part:02d}.pth")
    words = {"dim": 128, "n_layers": 2, "n_heads": 16, "n_kv_heads": 8, "norm_eps": 1e-5, "vocab_size": -1}
    words |= {"multiple_of": 256, "ffn_dim_multiplier": 1.3, "rope_theta": 1e6}
    (theirs / "params.json").write_text(json.dumps(words))
    run("import", "--from", theirs, "--to", tmp_path / "ours")
    ours = formats.open_checkpoint(tmp_path / "ours").source
    assert ours.model.llama == llama
    for tensor, array in source.arrays.items():
        assert ours.rows(tensor, 0, len(array)).tobytes() == array.tobytes()
    run("export", "--from", tmp_path / "ours", "--to", tmp_path / "back", "--format=meta")
    for part in range(2):
        name = f"consolidated.{part:02d}.pth"
        before, after = (torch.load(folder / name, weights_only=True) for folder in (theirs, tmp_path / "back"))
        assert before.keys() - after.keys() == {"rope.freqs"} and not after.keys() - before.keys()
        assert all(torch.equal(after[key], before[key]) for key in after)


def test_rotary_pairs_are_reordered():
    """Channel 2i of Meta's head becomes i, channel 2i + 1 becomes i + K/2; adjacent_pairs is the inverse."""
    rows = np.arange(2 * 8 * 3).reshape(16, 3)  # two heads of eight channels
    split = canonical.half_split(rows, 8)
    for head in range(2):
        for i in range(4):
            np.testing.assert_array_equal(split[8 * head + i], rows[8 * head + 2 * i])
            np.testing.assert_array_equal(split[8 * head + 4 + i], rows[8 * head + 2 * i + 1])
    np.testing.assert_array_equal(canonical.adjacent_pairs(split, 8), rows)


@pytest.mark.parametrize("dim, ffn", [(4096, 11008), (5120, 13824), (8192, 22016), (8192, 28672), (64, 172), (64, 97)])
def test_params_json_expresses_the_feed_forward_width(dim, ffn):
    words = meta._ffn_settings(dim, ffn)
    assert meta._ffn_dim(dim, words["multiple_of"], words.get("ffn_dim_multiplier")) == ffn
    if ffn == 28672:
        assert words == {"multiple_of": 4096, "ffn_dim_multiplier": 1.3}  # as in Meta's 70B


class Malicious:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function, arguments, name", [
    (os.system, ("touch {}",), ".system"),
    (eval, ("open('{}', 'w')",), ".eval"),
    (pickle.loads, (b"",), ".loads"),
    (getattr, (dict, "fromkeys"), ".getattr"),
])  # fmt: skip
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_malicious_pickle_is_refused_and_named(tmp_path, run, function, arguments, name, protocol):
    theirs = written(tmp_path / "theirs", Random(SIZES["7b"]))
    proof = tmp_path / "proof"
    arguments = [argument.format(proof) if isinstance(argument, str) else argument for argument in arguments]
    with zipfile.ZipFile(theirs / "consolidated.00.pth", "w") as archive:
        archive.writestr("consolidated.00/data.pkl", pickle.dumps({"a": Malicious(function, *arguments)}, protocol))
    output = run("import", "--from", theirs, "--to", tmp_path / "ours", code=1)
    assert "consolidated.00.pth is refused" in output and name in output
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize("name, share, words", [
    ("consolidated.01.pth", 0.5, "is truncated"),
    ("consolidated.01.pth", 0, "is truncated"),
    ("consolidated.00.pth", None, "is missing"),
    ("consolidated.01.pth", None, "consolidated.01.pth is missing"),
    ("params.json", 0.5, "is damaged"),
    ("params.json", None, "params.json is missing"),
])  # fmt: skip
def test_damaged_files_are_named(tmp_path, run, name, share, words):
    theirs = written(tmp_path / "theirs", Random(SIZES["70b"]), 2)
    raw = (theirs / name).read_bytes()
    (theirs / name).unlink()
    if share is not None:
        (theirs / name).write_bytes(raw[: int(len(raw) * share)])
    output = run("import", "--from", theirs, "--to", tmp_path / "ours", code=1)
    assert words in output and str(theirs) in output
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_changed_bit_in_the_pickle_is_reported_in_one_line(tmp_path, run):
    theirs = written(tmp_path / "theirs", Random(SIZES["7b"]))
    path = theirs / "consolidated.00.pth"
    raw = path.read_bytes()
    begin = raw.index(b"tok_embeddings") - 20
    for offset in range(0, 120, 7):
        path.write_bytes(raw[: begin + offset] + bytes([raw[begin + offset] ^ 0x21]) + raw[begin + offset + 1 :])
        assert str(theirs) in run("import", "--from", theirs, "--to", tmp_path / "ours", code=1)


def test_parts_that_would_split_heads_are_refused(tmp_path, run):
    theirs = written(tmp_path / "theirs", Random(SIZES["7b"]))
    run("import", "--from", theirs, "--to", tmp_path / "ours")
    output = run("export", "--from", tmp_path / "ours", "--to", tmp_path / "out", "--format=meta", "--shards=8", code=1)
    assert "heads 4 cannot be split into 8 parts" in output
    interpolated = Random(dataclasses.replace(SIZES["7b"], rope_scale=0.25))
    assert interpolated.rows(Tensor("norm"), 0, 1).shape == (1,)
    with pytest.raises(Exception, match="no position interpolation"):
        meta.write(interpolated, tmp_path, 1)
