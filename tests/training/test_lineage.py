"""What checkpoints record of their lineage: the longest window, infilling, the dialogue format, special ids."""

import dataclasses

import pytest

from codellama_jax.config import data
from codellama_jax.config.run import Config, operative_text
from codellama_jax.config.training import Stage
from codellama_jax.errors import UserError
from codellama_jax.training import inheritance
from codellama_jax.training.lineage import Lineage, after

SPECIAL = {"eos_token_id": [2, 7], "pad_token_id": 0}


def config(length, *, chat="inst", infilling=True, shares=None):
    return Config(
        stage=Stage(name="a", size="local", parent=None, steps=1, batch_tokens=length, sequence_length=length),
        tokenizer=data.Tokenizer(infilling=infilling),
        chat=data.Chat(format=chat),
        mixture=data.Mixture(shares={"code": 1.0} if shares is None else shares),
    )


def metadata(length, **fields):
    return {"sequence_length": length, "llama": {}, "config": "", **fields}


def test_the_longest_window_of_the_lineage_is_kept():
    """code, lcft, instruct: an export of the last one has the positions of the second."""
    lineage = None
    for length, positions in ((4096, 4096), (16_384, 16_384), (4096, 16_384)):
        lineage = after(lineage, config(length), dialogues=False)
        lineage = Lineage.of(metadata(length, lineage=lineage.json()))
        assert lineage.positions == positions
    imported = metadata(16_384, imported={"notes": {}})
    assert after(Lineage.of(imported), config(4096), dialogues=True).positions == 16_384


def test_checkpoints_of_newer_versions_are_refused_in_one_line():
    """This version would lose what it does not know."""
    recorded = metadata(512, lineage={"positions": 512, "rotation": "other"})
    with pytest.raises(UserError, match="records rotation, which a newer version wrote"):
        Lineage.of(recorded)
    with pytest.raises(UserError, match=r"/a records a model that this version does not know .*'experts'"):
        inheritance.recorded_model("/a", {"llama": {"experts": 8}})


def test_facts_of_earlier_stages_are_kept():
    imported = Lineage.of(metadata(512, imported={"notes": {"params": {}, **SPECIAL}}))
    assert imported == Lineage(512, special_ids=SPECIAL)
    code = after(imported, config(256), dialogues=False)
    assert code == Lineage(512, infilling=True, special_ids=SPECIAL)
    instruct = after(code, config(256, chat="source", infilling=False), dialogues=True)
    assert instruct == Lineage(512, infilling=True, step=True, dialogues="source", special_ids=SPECIAL)
    assert after(instruct, config(256), dialogues=False) == instruct
    assert after(instruct, config(256), dialogues=True) == dataclasses.replace(instruct, dialogues="inst")


@pytest.mark.parametrize("parent, positions", [
    (None, 4096),
    ({"sequence_length": 16_384}, 16_384),
    ({"sequence_length": 1024}, 4096),
])  # fmt: skip
def test_checkpoints_of_earlier_versions_say_the_window_of_their_parent(parent, positions):
    instruct = config(4096, chat="source", shares={"instruct": 0.9, "code": 0.1})
    lineage = Lineage.of(metadata(4096, config=operative_text(instruct), parent=parent))
    assert lineage == Lineage(positions, infilling=True, step=True, dialogues="source")
    code = config(4096, infilling=False)
    assert Lineage.of(metadata(4096, config=operative_text(code), parent=parent)) == Lineage(positions)
    assert Lineage.of(metadata(4096, parent=parent)) == Lineage(positions)  # without a configuration
