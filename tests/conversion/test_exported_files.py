"""The tokenizer, the chat template and the generation defaults of an import come out again in an export."""

import dataclasses
import json

import pytest
import sentencepiece
from random_models import SIZES, Random

from codellama_jax.conversion import exported_files, formats, hf, tokenizer_files
from codellama_jax.conversion.chat_templates import TEMPLATES
from codellama_jax.tokenizer import INFILLING_PIECES, SentencePieceTokenizer
from codellama_jax.training import assets
from codellama_jax.training.lineage import Lineage

GENERATION = b'{"eos_token_id": [2, 7],\n   "temperature": 0.2}'
ADDED = {"<|im_start|>": 512, "<|im_end|>": 513}


@pytest.fixture
def make_folder(tmp_path, small_tokenizer):
    """A function that writes a model of Hugging Face with 512 pieces, a number of rows, and the given files."""

    def make(rows, files=(), model=None):
        folder = tmp_path / "theirs"
        folder.mkdir()
        hf.write(Random(dataclasses.replace(SIZES["7b"], vocab_size=rows)), folder)
        (folder / "tokenizer.model").write_bytes(model or small_tokenizer.model)
        assets.write(dict(files), folder)
        return folder

    return make


def json_of(folder, name):
    return json.loads((folder / name).read_text())


def pieces_of(folder):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return [processor.id_to_piece(id) for id in range(processor.get_piece_size())]


def converted(run, theirs, *flags, format="hf"):
    """The folder of an export of an import, and the output of both commands."""
    parent = theirs.parent
    output = run("import", "--from", theirs, "--to", parent / "ours", *flags)
    output += run("export", "--from", parent / "ours", "--to", parent / "out", f"--format={format}")
    return parent / "out", output


def every_file(tokenizer):
    """All files that a folder of Hugging Face can have next to its tensors, in unusual spellings."""
    content = tokenizer_files.tokenizer_json(SentencePieceTokenizer(tokenizer.model, infilling=False))
    content["added_tokens"] += [{"id": id, "content": text, "special": True} for text, id in ADDED.items()]
    decoder = {str(id): {"content": text, "special": True} for text, id in ADDED.items()}
    return {
        "tokenizer.json": json.dumps(content).encode(),
        "tokenizer_config.json": json.dumps({"chat_template": "{{ 1 }}", "added_tokens_decoder": decoder}).encode(),
        "special_tokens_map.json": b'{"pad_token":"<|im_end|>" }',
        "added_tokens.json": json.dumps(ADDED, indent=7).encode(),
        "generation_config.json": GENERATION,
        "chat_template.jinja": b"{{ 2 }}\r\n",
        "additional_chat_templates/tools.jinja": b"{{ 3 }}",
    }


@pytest.mark.parametrize("rows, flags", [(514, []), (514, ["--vocab_size=576"]), (576, [])])
def test_every_file_of_an_import_is_exported_byte_for_byte(run, make_folder, small_tokenizer, rows, flags):
    files = every_file(small_tokenizer) | {"tokenizer.model": small_tokenizer.model}
    theirs = make_folder(rows, files)
    config = json_of(theirs, "config.json") | {"pad_token_id": 513, "eos_token_id": [2, 513]}
    (theirs / "config.json").write_text(json.dumps(config))
    out, output = converted(run, theirs, *flags)
    assert assets.find(out) == files
    assert {key: json_of(out, "config.json")[key] for key in ("pad_token_id", "eos_token_id", "bos_token_id")} == {
        "pad_token_id": 513,
        "eos_token_id": [2, 513],
        "bos_token_id": 1,
    }
    padding = "rows 514 to 575 are padding, without a token: a stage does not train them"
    assert (padding in output) == (rows == 576 or bool(flags))


def test_metas_format_names_what_it_has_no_place_for(run, make_folder, small_tokenizer):
    out, output = converted(run, make_folder(514, every_file(small_tokenizer)), format="meta")
    assert (out / "tokenizer.model").read_bytes() == small_tokenizer.model
    line = next(line for line in output.splitlines() if line.startswith("not carried, because Meta's format"))
    assert "chat_template.jinja" in line and "generation_config.json" in line and "added_tokens.json" in line
    assert not (out / "tokenizer_config.json").exists()


def test_a_folder_without_a_model_file_keeps_its_other_files(run, make_folder, small_tokenizer):
    files = every_file(small_tokenizer)
    theirs = make_folder(514, files)
    (theirs / "tokenizer.model").unlink()
    out, _ = converted(run, theirs)
    assert assets.find(out) == files
    output = run("export", "--from", theirs, "--to", out.parent / "meta", "--format=meta")
    assert "the checkpoint has no tokenizer: --tokenizer=PATH adds its files" in output


@pytest.mark.parametrize("rows, flags, pieces", [
    (528, [], 528),  # Code Llama
    (528, ["--vocab_size=576"], 528),  # padded: the infilling ids keep their names
    (512, [], 512),  # Llama 2
    (512, ["--vocab_size=528"], 528),
    (512, ["--vocab_size=576"], 528),
    (512, ["--vocab_size=520"], 512),  # too few for infilling
    (576, [], 512),  # padded by others: nothing says that rows 512 to 527 are those of infilling
])  # fmt: skip
def test_infilling_ids_are_named_whatever_the_padding(run, make_folder, small_tokenizer, rows, flags, pieces):
    out, output = converted(run, make_folder(rows), *flags)
    names = pieces_of(out)
    assert len(names) == pieces
    total = json_of(out, "config.json")["vocab_size"]
    assert ("are padding" in output) == (total > pieces)
    if pieces == 528:
        assert [names.index(name) for name in ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")] == [519, 520, 521, 522]
        added = {token["content"]: token["id"] for token in json_of(out, "tokenizer.json")["added_tokens"]}
        assert added["▁<EOT>"] == 522


def test_tokens_after_the_infilling_ids_do_not_take_them_away(run, make_folder, small_tokenizer):
    """People add <pad> there, and files of Code Llama name <FILL_ME> beyond the model's rows."""
    added = {"▁<PRE>": 519, "▁<EOT>": 522, "<pad>": 528, "<FILL_ME>": 529}
    files = {"added_tokens.json": json.dumps(added).encode(), "tokenizer.model": small_tokenizer.model}
    assert assets.named_rows(files, 529) == 529 and assets.named_rows(files, 576) == 530
    assert not assets.other_infilling_tokens(files, 512)
    assert assets.other_infilling_tokens(files | {"added_tokens.json": b'{"<pad>": 512}'}, 512) == {512: "<pad>"}
    model = tokenizer_files.sentencepiece_model(small_tokenizer)
    out, output = converted(run, make_folder(529, files | {"tokenizer.model": model}))
    assert (out / "tokenizer.model").read_bytes() == model and "padding" not in output
    trained, _, _ = exported(files, Lineage(512, infilling=True), rows=529)
    assert len(SentencePieceTokenizer(trained["tokenizer.model"], infilling=True).extra_pieces) == 16
    assert json.loads(trained["added_tokens.json"]) == added


@pytest.mark.parametrize("last", ["▁<EOT><EOT><EOT><EOT><EOT><EOT>", "<step>"])
def test_a_model_file_with_infilling_pieces_is_exported_byte_for_byte(run, make_folder, small_tokenizer, last):
    names = [*INFILLING_PIECES[:-1], last]
    model = tokenizer_files.sentencepiece_model(small_tokenizer, names)
    out, _ = converted(run, make_folder(528, model=model), "--vocab_size=576")
    assert (out / "tokenizer.model").read_bytes() == model
    assert list(json_of(out, "tokenizer.json")["model"]["vocab"])[-16:] == names  # one name for an id in all files
    again = tokenizer_files.sentencepiece_model(small_tokenizer)
    assert (
        SentencePieceTokenizer(again, infilling=True).fingerprint
        == SentencePieceTokenizer(model, infilling=True).fingerprint
    )


def test_another_tokenizer_replaces_the_files_that_belong_to_the_old_one(run, make_folder, small_tokenizer, tmp_path):
    theirs = make_folder(514, every_file(small_tokenizer))
    other = tmp_path / "other.model"
    other.write_bytes(tokenizer_files.sentencepiece_model(small_tokenizer))
    assert "has 528 pieces, but the model has 514 rows" in run(
        *("import", "--from", theirs, "--to", tmp_path / "no", "--tokenizer", other), code=1
    )
    proto = tokenizer_files.model_pb2.ModelProto.FromString(small_tokenizer.model)
    proto.pieces[300].piece, proto.pieces[301].piece = proto.pieces[301].piece, proto.pieces[300].piece
    other.write_bytes(proto.SerializeToString())
    out, output = converted(run, theirs, "--tokenizer", other)
    assert "not carried, because --tokenizer names another tokenizer: tokenizer.json, tokenizer_config.json," in output
    assert (out / "tokenizer.model").read_bytes() == other.read_bytes()
    assert (out / "generation_config.json").read_bytes() == GENERATION
    assert "added_tokens" in json_of(out, "tokenizer.json") and not (out / "added_tokens.json").exists()


def exported(files, lineage, rows=528, positions=16_384):
    model = dataclasses.replace(
        Random(dataclasses.replace(SIZES["7b"], vocab_size=rows)).model, sequence_length=positions
    )
    return exported_files.exported(files, lineage, model, "hf", trained=True)


def test_training_adds_infilling_to_the_tokenizer_of_an_import(small_tokenizer):
    """Everything else in its files stays."""
    plain = SentencePieceTokenizer(small_tokenizer.model, infilling=False)
    files = tokenizer_files.generated(plain)
    config = json.loads(files["tokenizer_config.json"]) | {
        "mine": 1,
        "model_max_length": 4096,
        "added_tokens_decoder": {"2": {"content": "</s>"}},
    }
    files |= {"tokenizer_config.json": json.dumps(config).encode(), "generation_config.json": GENERATION}
    out, messages, ids = exported(files, Lineage(16_384, infilling=True))
    assert messages == ["named in the tokenizer that was imported: the infilling ids from 512 on"]
    assert (
        SentencePieceTokenizer(out["tokenizer.model"], infilling=True).extra_pieces == tokenizer_files.infilling_names()
    )
    expected = tokenizer_files.tokenizer_json(small_tokenizer)
    assert json.loads(out["tokenizer.json"]) == expected
    config = json.loads(out["tokenizer_config.json"])
    assert config["mine"] == 1 and config["model_max_length"] == 16_384
    assert config["added_tokens_decoder"]["522"]["content"] == "▁<EOT>"
    assert out["generation_config.json"] == GENERATION and ids == {"bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize("chat_format, ends", [("inst", 2), ("source", [2, 527])])
def test_dialogues_set_the_template_and_the_end_of_an_answer(small_tokenizer, chat_format, ends):
    lineage = Lineage(4096, infilling=True, step=chat_format == "source", dialogues=chat_format)
    out, messages, ids = exported({"tokenizer.model": small_tokenizer.model}, lineage, rows=576)
    config = json.loads(out["tokenizer_config.json"])
    assert config["chat_template"] == TEMPLATES[chat_format] and not messages
    assert set(out) == {"tokenizer.model", "tokenizer.json", "tokenizer_config.json"}  # one place for each fact
    assert ids["eos_token_id"] == ends
    assert config["eos_token"] == ("<step>" if chat_format == "source" else "</s>")
    names = json.loads(out["tokenizer.json"])["model"]["vocab"]
    assert ("<step>" in names) == (chat_format == "source")


def test_a_template_of_other_dialogues_is_replaced_with_a_message(small_tokenizer):
    files = every_file(small_tokenizer) | {"tokenizer.model": small_tokenizer.model}
    out, messages, _ = exported(files, Lineage(4096, dialogues="inst"), rows=514)
    assert not any(name.endswith(".jinja") for name in out)
    assert json.loads(out["tokenizer_config.json"])["chat_template"] == TEMPLATES["inst"]
    (message,) = messages
    assert message.startswith("replaced by the dialogue format that the model was trained on, inst: ")
    assert "chat_template.jinja" in message and "additional_chat_templates/tools.jinja" in message
    assert json.loads(out["generation_config.json"]) == json.loads(GENERATION)  # </s> already ends an answer


def test_imports_of_earlier_versions_are_exported(tmp_path, run, make_folder, small_tokenizer):
    """Their metadata has no lineage, and they carry tokenizer.model only."""
    theirs = make_folder(528)
    run("import", "--from", theirs, "--to", tmp_path / "ours")
    path = tmp_path / "ours/metadata/metadata"
    metadata = json.loads(path.read_text())
    del metadata["lineage"], metadata["llama"]["padding_rows"]
    path.write_text(json.dumps(metadata))
    (tmp_path / "ours/checksums.json").unlink()
    assert not (tmp_path / "ours/assets").exists()
    run("export", "--from", tmp_path / "ours", "--to", tmp_path / "out", "--format=hf")
    assert len(pieces_of(tmp_path / "out")) == 528
    assert formats.open_checkpoint(tmp_path / "ours").lineage == Lineage(
        512, special_ids={"bos_token_id": 1, "eos_token_id": 2}
    )
