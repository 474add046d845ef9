"""Exported tokenizer files tokenize every text as the original does, with any library."""

import json

import numpy as np
import pytest
import sentencepiece

from codellama_jax.conversion import tokenizer_files
from codellama_jax.tokenizer import INFILLING_PIECES, SentencePieceTokenizer
from codellama_jax.training import assets


@pytest.fixture(scope="module")
def texts(fuzzed):
    rng = np.random.default_rng(0)
    return [fuzzed(rng, int(rng.integers(1, 400))) for _ in range(300)]


@pytest.mark.parametrize("fixture", ["small_tokenizer", "llama_tokenizer"])
def test_infilling_pieces_do_not_change_how_texts_are_tokenized(request, texts, fixture):
    tokenizer = request.getfixturevalue(fixture)
    model = tokenizer_files.sentencepiece_model(tokenizer)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert processor.get_piece_size() == tokenizer.rows
    assert processor.id_to_piece([tokenizer.prefix_id, tokenizer.eot_id]) == ["▁<PRE>", "▁<EOT>"]
    for text in texts:
        np.testing.assert_array_equal(processor.encode(text), tokenizer.encode(text))
    assert SentencePieceTokenizer(model, infilling=True).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("fixture", ["small_tokenizer", "llama_tokenizer"])
def test_hugging_faces_tokenizers_library_gives_the_same_ids(request, texts, fixture):
    library = pytest.importorskip("tokenizers")
    tokenizer = request.getfixturevalue(fixture)
    theirs = library.Tokenizer.from_str(json.dumps(tokenizer_files.tokenizer_json(tokenizer)))
    assert theirs.get_vocab_size() == tokenizer.rows
    for text in texts:
        if any(piece in text for piece in ("<s>", "</s>", "<unk>")):  # special tokens for the library, plain text here
            continue
        ids = theirs.encode(text).ids
        assert ids == [tokenizer.bos_id, *tokenizer.encode(text)], text
        assert theirs.decode(ids) == tokenizer.decode(ids)


def test_transformers_gives_the_same_ids(tmp_path, llama_tokenizer, texts):
    transformers = pytest.importorskip("transformers")
    assets.write(tokenizer_files.generated(llama_tokenizer), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (1, 2, 0)
    assert theirs.convert_tokens_to_ids(tokenizer_files.infilling_names()) == list(range(32_000, 32_016))
    assert theirs.convert_tokens_to_ids(INFILLING_PIECES[7:]) == list(range(32_007, 32_016))
    assert len(theirs) == 32_016
    for text in texts:
        if any(piece in text for piece in ("<s>", "</s>", "<unk>")):
            continue
        assert theirs(text)["input_ids"] == [1, *llama_tokenizer.encode(text)], text
    assert theirs.decode([1, *llama_tokenizer.encode("def f():\n\treturn 1"), 2], skip_special_tokens=True) == (
        "def f():\n\treturn 1"
    )


@pytest.mark.parametrize("fixture", ["small_tokenizer", "llama_tokenizer"])
@pytest.mark.parametrize("step", [False, True])
def test_no_merge_of_two_pieces_results_in_an_infilling_piece(request, fixture, step):
    """llama.cpp merges any two neighbours whose concatenation is a piece, of whatever type."""
    tokenizer = request.getfixturevalue(fixture)
    model = tokenizer_files.sentencepiece_model(tokenizer, tokenizer_files.infilling_names(step))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = {processor.id_to_piece(id) for id in range(processor.get_piece_size())}
    for name in (processor.id_to_piece(id) for id in range(tokenizer.pieces, tokenizer.rows)):
        assert not [cut for cut in range(1, len(name)) if name[:cut] in pieces and name[cut:] in pieces], name


def test_metas_code_finds_the_infilling_ids(llama_tokenizer):
    """It looks the markers up by name, and takes id 0, that of <unk>, to mean that there is none."""
    for step in (False, True):
        names = tokenizer_files.infilling_names(step)
        model = tokenizer_files.sentencepiece_model(llama_tokenizer, names)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        markers = ["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>", "<step>"]
        expected = [32_007, 32_009, 32_008, 32_010, 32_015 if step else 0]
        assert [processor.piece_to_id(name) for name in markers] == expected
