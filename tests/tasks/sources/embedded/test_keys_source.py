"""The place embedded:keys: documents of functions that return a word."""

import pytest

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from tasks import sources
from tasks.sources import base
from tasks.sources.base import Source
from tasks.sources.embedded.keys import DOCUMENTS


def opened(split: str = "validation", **settings: object) -> Source:
    return sources.open("embedded:keys", "code", split, Corpus(**settings), Filters())


def test_documents_are_in_one_split_and_as_long_as_the_setting_says():
    train, validation = (list(base.items(opened(split), 0)) for split in ("train", "validation"))
    assert not {document.text for document in train} & {document.text for document in validation}
    assert (len(opened("train")) + len(opened())) * len(train) == DOCUMENTS
    long = list(base.items(opened(key_characters=2_700), 0))
    for documents, longest in ((train, 700), (validation, 700), (long, 2_700)):
        assert 0.8 * longest < max(len(document.text) for document in documents) <= longest
    assert {document.language for document in train} == {"Python"}


def test_the_length_is_part_of_the_fingerprint():
    assert opened().fingerprint() == opened(document_characters=400).fingerprint()
    assert opened().fingerprint() != opened(key_characters=2_700).fingerprint()


def test_documents_are_not_cut():
    whole, limited = (list(base.items(opened(**limit), 0)) for limit in ({}, {"document_characters": 100}))
    assert whole == limited and all("assert" in document.text for document in whole)


def test_other_streams_and_lengths_are_refused():
    for stream, settings, message in (
        ("nl", {}, "documents with keys are code: name another corpus for nl"),
        ("code", {"languages": ("C",)}, "Filters.languages excludes"),
    ):
        with pytest.raises(UserError, match=message):
            sources.open("embedded:keys", stream, "train", Corpus(), Filters(**settings))
    with pytest.raises(ValueError, match=r"Corpus.key_characters=10 must be at least 100"):
        Corpus(key_characters=10)
