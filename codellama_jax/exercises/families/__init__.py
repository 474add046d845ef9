"""The ten families of functions."""

from collections.abc import Mapping

from codellama_jax.exercises.exercise import Family
from codellama_jax.exercises.families.conditions import Conditions
from codellama_jax.exercises.families.dictionaries import Dictionaries
from codellama_jax.exercises.families.numbers import Lists, Ranges
from codellama_jax.exercises.families.pairs import Pairs
from codellama_jax.exercises.families.predicates import Predicates
from codellama_jax.exercises.families.rows import Rows
from codellama_jax.exercises.families.steps import Steps
from codellama_jax.exercises.families.texts import Characters, Words

_ALL: tuple[Family, ...] = (
    *(Lists(), Ranges(), Words(), Characters(), Conditions()),
    *(Predicates(), Dictionaries(), Pairs(), Rows(), Steps()),
)

# Name -> the family.
FAMILIES: Mapping[str, Family] = {family.name: family for family in _ALL}
