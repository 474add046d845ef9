"""Which compositions are for training, for the test, and for the questions of self-instruct."""

import functools
from collections.abc import Mapping

from codellama_jax.exercises.draws import fraction
from codellama_jax.exercises.exercise import Key
from codellama_jax.exercises.families import FAMILIES

SPLITS = ("train", "test", "questions")
_SHARES = {"train": 0.72, "test": 0.16, "questions": 0.12}  # of the compositions


def split_of(key: Key) -> str:
    """The split of a key: a hash of its composition."""
    position = fraction("split of exercises", *FAMILIES[key[0]].composition(key))
    for split, share in _SHARES.items():
        position -= share
        if position < 0:
            return split
    return SPLITS[-1]


@functools.cache
def keys() -> Mapping[str, Mapping[str, tuple[Key, ...]]]:
    """Split -> family -> its keys."""
    found: dict[str, dict[str, list[Key]]] = {split: {name: [] for name in FAMILIES} for split in SPLITS}
    for name, family in FAMILIES.items():
        for key in family.all_keys():
            found[split_of(key)][name].append(key)
    return {split: {name: tuple(of) for name, of in families.items()} for split, families in found.items()}
