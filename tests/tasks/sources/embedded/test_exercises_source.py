"""The place embedded:exercises: documents and dialogues of generated functions."""

import ast

import pytest
from written_folders import everything

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.exercises import training
from tasks import sources
from tasks.sources import base
from tasks.sources.base import Source


def opened(
    stream: str = "code", split: str = "validation", place: object = "embedded:exercises", **settings: object
) -> Source:
    return sources.open(place, stream, split, Corpus(**settings), Filters())


def test_every_function_is_in_one_split_once():
    paths = [path for split in ("train", "validation") for path in range(len(opened(split=split)))]
    assert len(paths) == -(-training.count() // 64)
    documents = everything(opened())
    train = [item for shard in range(40) for item in base.items(opened(split="train"), shard)]
    texts = [item.text for item in documents + train]
    assert len(set(texts)) == len(texts) and not {i.path for i in documents} & {i.path for i in train}
    functions = sum(len([n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]) for text in texts)
    assert functions == 64 * (len(opened()) + 40)
    assert {item.language for item in documents} == {"Python"}
    assert 0.02 < sum("\nassert " in text for text in texts) / functions < 0.06
    assert 0.07 < (functions - len(texts)) / functions < 0.13


def test_assertions_of_documents_hold():
    texts = [item.text for item in everything(opened()) if "\nassert " in item.text]
    assert len(texts) > 50
    for text in texts:
        exec(text, {})


def test_documents_of_two_functions_are_not_made_to_be_cut():
    source = opened(document_characters=400)
    assert all("#" not in document.path and len(document.text) <= 400 for document in everything(source))
    assert source.fingerprint() == opened(document_characters=400).fingerprint() != opened().fingerprint()


def test_dialogues_ask_for_a_function_and_answer_with_it():
    source = opened("instruct")
    assert base.has_dialogues(source)
    for dialogue in list(base.items(source, 0)):
        request, answer = dialogue.messages
        [function] = ast.parse(answer["content"]).body
        assert f"`{function.name}(" in request["content"] and ast.get_docstring(function) in request["content"]


def test_the_library_and_exercises_are_one_corpus():
    source = opened(place=["embedded:library", "embedded:exercises"])
    assert [place.place for place in source.inventory()] == ["embedded:library", "embedded:exercises"]
    assert len(source) == len(opened()) + len(opened(place=None))


@pytest.mark.parametrize(
    ("stream", "place", "settings", "message"),
    [
        ("nl", "embedded:exercises", {}, "exercises are code and dialogues: name another corpus for nl"),
        ("code", "embedded:exercise", {}, "no embedded corpus 'exercise': write embedded:library or"),
        ("code", ["embedded:exercises", "embedded:exercises"], {}, "repeats embedded:exercises"),
        ("code", "embedded:exercises", {"languages": ("C",)}, "Filters.languages excludes"),
    ],
)
def test_places_that_cannot_be_read_are_reported(stream, place, settings, message):
    with pytest.raises(UserError, match=message):
        sources.open(place, stream, "train", Corpus(), Filters(**settings))
