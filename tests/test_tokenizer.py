"""The tokenizer: published ids, properties of encoding, rejected models, and training (tasks.tokenizer_training)."""

import dataclasses
import hashlib
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.config.data import Tokenizer as Settings
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import INFILLING_PIECES, SentencePieceTokenizer, Tokenizer
from tasks import tokenizer_training

ROOT = Path(__file__).parents[1]
DEFAULT_FILTERS = Filters()
SOURCE = Path(json.__file__).with_name("decoder.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    """A tokenizer that is trained here, so that tests that need no published vocabulary run without test data."""
    return SentencePieceTokenizer(tokenizer_training.train([SOURCE], 400), infilling=True)


@pytest.fixture(scope="module")
def llama(shared_data: Path) -> Tokenizer:
    return SentencePieceTokenizer.from_file(shared_data / "tokenizers/llama2_tokenizer.model", infilling=True)


def unusual_texts(number: int) -> list[str]:
    """Texts that consist of problematic parts (white space, line ends, control and wide characters, tags), and every
    character below U+3000 except U+2581."""
    rng = random.Random(7)
    parts = [
        "",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\0",
        "x",
        "Hello",
        "def f(a):",
        "1234",
        "é",
        "e\u0301",
        "生活",
        "🙂",
        "\ufeff",
    ]
    parts += [" <EOT>", "<s>", "</s>", "<unk>", "<0x0A>", "[INST]", "\x7f", "\u2028", "\U0010ffff", "\u00a0"]
    texts = ["".join(rng.choices(parts, k=rng.randrange(12))) for _ in range(number)]
    singles = [chr(c) for c in range(0x3000) if c != 0x2581]
    return texts + singles


def long_texts(number: int) -> list[str]:
    """Texts of many lines, short and long, with every kind of line end; some are one line only."""
    rng = random.Random(11)
    lines = [*unusual_texts(200)[:200], *SOURCE.split("\n"), "", " ", "x" * 3_000, "é生🙂" * 700, "\t" * 40]
    ends = ["\n"] * 8 + ["\n\n", "\r\n", "\r", "\n" * 1_500, ""]
    texts = ["".join(rng.choice(lines) + rng.choice(ends) for _ in range(rng.randrange(200))) for _ in range(number)]
    return [*texts, "\n" * 5_000, "a" * 1_000 + "\n", "a" * 999 + "\n", "a" * 1_000 + "\nb", "x\r" * 900]


# --- the published ids ------------------------------------------------------------------------------------------------


def test_ids_equal_those_of_the_published_models(llama: Tokenizer, shared_data: Path):
    golden = json.loads((shared_data / "tokenizers/codellama_tokenizer_golden.json").read_text(encoding="utf-8"))
    for case in golden["plain"]:
        assert llama.encode(case["text"]).tolist() == case["ids"], case["text"]
        assert llama.decode(case["ids"]) == case["text"]
    special = golden["special_ids"]
    assert (llama.prefix_id, llama.suffix_id, llama.middle_id, llama.eot_id) == tuple(
        special[f"▁<{name}>"] for name in ("PRE", "SUF", "MID", "EOT")
    )
    assert (llama.bos_id, llama.eos_id, llama.unk_id) == (1, 2, 0)
    assert (llama.pieces, llama.rows, llama.step_id) == (32000, 32016, 32015)
    assert llama.encode("\n").tolist()[-1] == 13


def test_infilling_prompt_equals_the_published_one(llama: Tokenizer, shared_data: Path):
    golden = json.loads((shared_data / "tokenizers/codellama_tokenizer_golden.json").read_text(encoding="utf-8"))
    case = golden["psm_infill"]
    assert llama.infilling_prompt(case["prefix"], case["suffix"], "psm").tolist() == case["prompt_ids"]
    # The published output of CodeLlama-7b, whose first token continues the last line of the prefix.
    answer = llama.decode_continuation(case["codellama_7b_hf_greedy_ids"])
    assert answer.startswith("Remove non-ASCII characters from a string.\n")
    assert answer.endswith("result += c")


def test_rows_and_ids_without_infilling(llama: Tokenizer):
    plain = SentencePieceTokenizer(llama.model, infilling=False)
    assert plain.rows == plain.pieces == 32000
    assert plain.prefix_id is plain.suffix_id is plain.middle_id is plain.eot_id is plain.step_id is None
    assert plain.fingerprint != llama.fingerprint
    with pytest.raises(UserError, match=r"no infilling ids .* use complete, or load 7B/13B base"):
        plain.infilling_prompt("a", "b", "psm")


def test_model_file_of_code_llama_gives_the_tokenizer_of_llama(llama: Tokenizer, shared_data: Path):
    code_llama = SentencePieceTokenizer.from_file(
        shared_data / "tokenizers/codellama_tokenizer_RECONSTRUCTED.model", infilling=True
    )
    assert code_llama.fingerprint == llama.fingerprint
    assert code_llama.rows == 32016


def with_pieces(tokenizer: Tokenizer, names: list[str], kind: int) -> bytes:
    proto = model_pb2.ModelProto.FromString(tokenizer.model)
    for name in names:
        proto.pieces.add(piece=name, score=-1e6, type=kind)
    return proto.SerializeToString()


@pytest.mark.parametrize("kind", [1, 3, 4, 5], ids=["normal", "control", "user-defined", "unused"])
@pytest.mark.parametrize("names", [
    INFILLING_PIECES,  # 7B and 13B
    [*INFILLING_PIECES[:-1], "<step>"],  # 70B
    [f"<helper_{n}>" for n in range(7)] + INFILLING_PIECES[7:],  # exports of this project
    [f"<FU_{n}>" for n in range(15)] + ["<step>"],
    [f"<unnamed {n}>" for n in range(16)],
])  # fmt: skip
def test_sixteen_pieces_after_llamas_are_those_of_infilling(llama: Tokenizer, names: list[str], kind: int):
    extended = SentencePieceTokenizer(with_pieces(llama, names, kind), infilling=True)
    assert (extended.pieces, extended.rows, extended.step_id) == (32_000, 32_016, 32_015)
    assert extended.extra_pieces == names
    assert extended.encode("a <EOT> <step>").tolist() == llama.encode("a <EOT> <step>").tolist()


def test_other_pieces_after_a_vocabulary_belong_to_it(llama: Tokenizer, small: Tokenizer):
    assert SentencePieceTokenizer(with_pieces(llama, ["<a>", "<b>"], 4), infilling=False).pieces == 32_002
    unnamed = with_pieces(small, [f"<unnamed {n}>" for n in range(16)], 4)
    assert (
        SentencePieceTokenizer(unnamed, infilling=False).pieces == 416
    )  # nothing shows that they are those of infilling
    for last in (INFILLING_PIECES[-1], "<step>"):
        named = with_pieces(small, [*INFILLING_PIECES[:-1], last], 3)
        assert SentencePieceTokenizer(named, infilling=True).rows == 416


# --- encoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small", "llama"])
def test_encoding_and_decoding_are_inverse(name: str, request: pytest.FixtureRequest):
    tokenizer = request.getfixturevalue(name)
    for text in [*unusual_texts(3000), SOURCE]:
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32 and ids.ndim == 1
        assert tokenizer.decode(ids) == text
        assert ids.size == 0 or (ids.min() >= 3 and ids.max() < tokenizer.pieces)  # never a control id
        continued = tokenizer.encode_continuation(text)
        assert tokenizer.decode_continuation(continued) == text
        if text:
            assert np.array_equal(ids, tokenizer.encode_continuation(" " + text))


def check_parts(tokenizer: SentencePieceTokenizer, texts: list[str]):
    """Encoding in parts gives the ids of SentencePiece for the whole text."""
    for model, encode in (
        (tokenizer.model, tokenizer.encode),
        (tokenizer.continuation_model, tokenizer.encode_continuation),
    ):
        whole = sentencepiece.SentencePieceProcessor()
        whole.LoadFromSerializedProto(model)
        for text in texts:
            assert encode(text).tolist() == whole.encode(text), text[:100]


@pytest.mark.parametrize("name", ["small", "llama"])
def test_a_long_text_has_the_ids_of_the_whole_text(name: str, request: pytest.FixtureRequest):
    tokenizer = request.getfixturevalue(name)
    assert tokenizer._cuts_lines
    check_parts(tokenizer, long_texts(60))


def test_nothing_is_cut_where_a_piece_goes_on_after_a_line_feed(small: SentencePieceTokenizer):
    for pieces, kind, cut in (
        (["\n"], 4, True),
        ([":\n", ")\n"], 4, True),
        (["\n\n"], 4, False),
        (["\n▁▁▁▁"], 4, False),
        (["\n", "\n\n", "\n\n\n\n", "\n▁", "\n▁▁"], 1, False),
    ):
        tokenizer = SentencePieceTokenizer(with_pieces(small, pieces, kind), infilling=False)
        assert tokenizer._cuts_lines == cut, pieces
        check_parts(tokenizer, long_texts(20))


def test_nothing_is_cut_for_models_that_are_not_bpe(small: SentencePieceTokenizer):
    proto = model_pb2.ModelProto.FromString(small.model)
    proto.trainer_spec.model_type = proto.trainer_spec.UNIGRAM
    tokenizer = SentencePieceTokenizer(proto.SerializeToString(), infilling=False)
    assert not tokenizer._cuts_lines
    check_parts(tokenizer, long_texts(10))


def test_decoding_drops_ids_without_text(small: Tokenizer):
    ids = small.encode(" a <EOT>")
    wrapped = [small.bos_id, small.prefix_id, *ids, small.eot_id, small.step_id, small.eos_id, 0, 0, -1, 10**6]
    assert small.decode(wrapped) == " a <EOT>"
    assert small.decode([]) == small.decode_continuation([]) == small.decode([1, 2]) == ""
    assert small.decode([3 + 0xC3]) == "\ufffd"  # half a character


@pytest.mark.parametrize("prefix, suffix", [("def f(", "\n"), ("", ""), (" x", "  y"), ("a\r", "\nb"), ("<EOT>", "")])
def test_infilling_prompts_in_both_orders(small: Tokenizer, prefix: str, suffix: str):
    before, after = small.encode(prefix).tolist(), small.encode_continuation(suffix).tolist()
    psm, spm = small.infilling_prompt(prefix, suffix, "psm"), small.infilling_prompt(prefix, suffix, "spm")
    assert psm.tolist() == [1, small.prefix_id, *before, small.suffix_id, *after, small.middle_id]
    assert spm.tolist() == [1, small.prefix_id, small.suffix_id, *after, small.middle_id, *before]
    with pytest.raises(ValueError, match="psm"):
        small.infilling_prompt(prefix, suffix, "mps")  # type: ignore[arg-type]


def test_importing_the_tokenizer_loads_no_tensorflow_gin_or_jax():
    code = (
        "import sys, codellama_jax.tokenizer, tasks.sources.embedded.corpus, tasks.tokenizer_training;"
        "assert not {'tensorflow', 'seqio', 'gin', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# --- rejected models --------------------------------------------------------------------------------------------------


INVALID_FILES = {
    "empty": lambda model: b"",
    "text": lambda model: SOURCE.encode(),
    "json": lambda model: b'{"version": "1.0", "model": {"type": "BPE"}}',
    "first_half": lambda model: model[: len(model) // 2],
    "without_its_last_byte": lambda model: model[:-1],
    "random": lambda model: random.Random(1).randbytes(5000),
    "another_protobuf": lambda model: b"\xaa\x06\x05hello",
}


def truncated_between_pieces(proto):
    """A file truncated between two pieces is still a valid protobuf message."""
    del proto.pieces[300:]
    proto.ClearField("trainer_spec")
    proto.ClearField("normalizer_spec")


def no_pieces(proto):
    proto.ClearField("pieces")


def bos_and_eos_swapped(proto):
    proto.pieces[1].piece, proto.pieces[2].piece = "</s>", "<s>"


def padding_first(proto):
    """A padding piece comes first, as in T5: all ids are shifted by one."""
    piece = type(proto.pieces[0])(piece="<pad>", score=0, type=3)
    proto.pieces.insert(0, piece)


def no_byte_pieces(proto):
    del proto.pieces[3:259]
    proto.trainer_spec.byte_fallback = False


def extra_spaces_removed(proto):
    proto.normalizer_spec.remove_extra_whitespaces = True


def no_implicit_space(proto):
    proto.normalizer_spec.add_dummy_prefix = False


UNLIKE_LLAMA = {
    truncated_between_pieces: "is truncated",
    no_pieces: "has no pieces",
    bos_and_eos_swapped: r"ids \(0, 2, 1\)",
    padding_first: r"ids \(1, 2, 3\)",
    no_byte_pieces: "no byte pieces",
    extra_spaces_removed: "normalises text",
    no_implicit_space: "does not add an implicit leading space",
}


def error_message(tmp_path: Path, model: bytes) -> str:
    """The message of the error that loading a model file raises."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(model)
    with pytest.raises(UserError) as caught:
        SentencePieceTokenizer.from_file(path, infilling=True)
    message = str(caught.value)
    assert str(path) in message and "--gin.TOKENIZER=" in message and "\n" not in message
    return message


@pytest.mark.parametrize("kind", INVALID_FILES)
def test_files_that_are_not_models_are_rejected(small: Tokenizer, tmp_path: Path, kind: str):
    assert "SentencePiece model" in error_message(tmp_path, INVALID_FILES[kind](small.model))


@pytest.mark.parametrize("change", UNLIKE_LLAMA, ids=lambda change: change.__name__)
def test_models_unlike_llama_are_rejected_with_the_reason(small: Tokenizer, tmp_path: Path, change):
    proto = model_pb2.ModelProto.FromString(small.model)  # type: ignore[attr-defined]
    change(proto)
    assert re.search(UNLIKE_LLAMA[change], error_message(tmp_path, proto.SerializeToString()))


def test_missing_files_are_errors(tmp_path: Path):
    for path, reason in ((tmp_path / "none.model", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=f"{reason}.*--gin.TOKENIZER="):
            SentencePieceTokenizer.from_file(path, infilling=False)


def test_damaged_model_is_rejected_or_usable(small: Tokenizer):
    """A model with one changed byte raises UserError, or is accepted and can encode: a score or a piece has changed."""
    rng = random.Random(3)
    accepted = 0
    for _ in range(300):
        model = bytearray(small.model)
        model[rng.randrange(len(model))] = rng.randrange(256)
        try:
            tokenizer = SentencePieceTokenizer(bytes(model), infilling=True)
        except UserError:
            continue
        accepted += 1
        assert len(tokenizer.encode("def f():\n")) > 0
    assert accepted


def test_bytes_and_path_give_the_same_tokenizer(small: Tokenizer, tmp_path: Path):
    path = tmp_path / "a.model"
    path.write_bytes(small.model)
    assert (
        SentencePieceTokenizer(str(path), True).fingerprint
        == SentencePieceTokenizer.from_file(path, True).fingerprint
        == small.fingerprint
    )
    assert len(small.fingerprint) == 64


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Small folders for all streams. The cache is an empty folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for stream, name in (("code", "a.c"), ("python", "b.py"), ("nl_code", "c.md"), ("nl", "d.txt")):
        (tmp_path / stream).mkdir()
        (tmp_path / stream / name).write_text(SOURCE, encoding="utf-8")
    line = json.dumps(
        {"messages": [{"role": "user", "content": "Say hello"}, {"role": "assistant", "content": "hello"}]}
    )
    (tmp_path / "instruct").mkdir()
    (tmp_path / "instruct/e.jsonl").write_text(line + "\n")
    return Corpus(**{stream: str(tmp_path / stream) for stream in ("code", "python", "nl_code", "nl", "instruct")})


def test_trained_tokenizer_has_the_ids_of_llama_and_is_deterministic(small: Tokenizer):
    again = tokenizer_training.train([SOURCE], 400)
    assert hashlib.sha256(again).digest() == hashlib.sha256(small.model).digest()
    assert (small.pieces, small.rows, small.eot_id) == (400, 416, 410)
    assert small.encode("\n").tolist()[-1] == 13
    assert small.encode("12")[-2:].tolist() == [small.encode("1")[-1], small.encode("2")[-1]]  # each digit is a piece
    assert len(small.encode("        ")) < 8  # runs of spaces have pieces


def test_trained_tokenizer_is_cached(corpus: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture):
    messages: list[str] = []
    first = tokenizer_training.trained_tokenizer(corpus, DEFAULT_FILTERS, Settings(vocab_size=400), messages.append)
    (cached,) = (tmp_path / "cache/codellama_jax/tokenizers").iterdir()
    assert len(messages) == 2 and str(cached) in messages[1]
    second = tokenizer_training.trained_tokenizer(
        corpus, DEFAULT_FILTERS, Settings(vocab_size=400, infilling=False), messages.append
    )
    assert len(messages) == 2 and second.model == first.model and second.rows == 400
    for changes in ({"document_characters": 100}, {"group_by_repository": True}):
        other_settings = dataclasses.replace(corpus, **changes)
        third = tokenizer_training.trained_tokenizer(
            other_settings, DEFAULT_FILTERS, Settings(vocab_size=400), messages.append
        )
        assert len(messages) == 2 and third.model == first.model, changes
    cached.write_bytes(b"damaged")
    assert (
        tokenizer_training.trained_tokenizer(corpus, DEFAULT_FILTERS, Settings(vocab_size=400), messages.append).model
        == first.model
    )
    assert len(messages) == 4 and cached.read_bytes() == first.model
    Path(corpus.code or "", "new.c").write_text("int x;\n" * 9)
    tokenizer_training.trained_tokenizer(corpus, DEFAULT_FILTERS, Settings(vocab_size=400), messages.append)
    assert len(messages) == 6  # different text needs a different tokenizer
    assert capfd.readouterr() == ("", "")  # SentencePiece's own log is not printed


def test_unwritable_cache_is_not_an_error(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    messages: list[str] = []
    assert (
        tokenizer_training.trained_tokenizer(corpus, DEFAULT_FILTERS, Settings(vocab_size=400), messages.append).pieces
        == 400
    )
    assert "not kept" in messages[-1]


def test_too_little_text_or_too_few_pieces_is_an_error(corpus: Corpus, capfd: pytest.CaptureFixture):
    for vocab_size in (100_000, 260):
        with pytest.raises(UserError, match=r"--gin.Tokenizer.vocab_size=\d+") as caught:
            tokenizer_training.trained_tokenizer(
                corpus, DEFAULT_FILTERS, Settings(vocab_size=vocab_size), lambda line: None
            )
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_model_file_of_the_settings_is_loaded(corpus: Corpus, small: Tokenizer, tmp_path: Path):
    (tmp_path / "a.model").write_bytes(small.model)
    settings = Settings(model=str(tmp_path / "a.model"), infilling=False)
    assert tokenizer_training.trained_tokenizer(corpus, DEFAULT_FILTERS, settings).model == small.model
    with pytest.raises(UserError, match="no such file"):
        tokenizer_training.trained_tokenizer(corpus, DEFAULT_FILTERS, Settings(model="none.model"))


def test_two_processes_can_train_at_the_same_time(corpus: Corpus, tmp_path: Path):
    code = (
        "from codellama_jax.config.data import Corpus, Filters, Tokenizer;"
        "from tasks.tokenizer_training import trained_tokenizer;"
        f"print(trained_tokenizer({corpus!r}, Filters(), Tokenizer(vocab_size=400), lambda line: None).fingerprint)"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    outputs = {run.communicate()[0] for run in runs}
    assert len(outputs) == 1 and outputs != {b""}
    assert len(list((tmp_path / "cache/codellama_jax/tokenizers").iterdir())) == 1
