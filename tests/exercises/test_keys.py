"""Keys: documents whose assertions hold, and pairs that are in one split."""

import ast
import hashlib
import re

from codellama_jax.exercises.draws import Draws
from codellama_jax.exercises.keys import NAMES, WORDS, Key, document, keys, split_of

DOCUMENTS = [document(number, 700) for number in range(300)]
LONG = [document(number, 2_700) for number in range(60)]


def asserted(text: str) -> list[Key]:
    return [Key(*found) for found in re.findall(r'^assert (\w+)\(\) == "(\w+)"$', text, re.MULTILINE)]


def test_every_function_with_a_word_is_asserted_and_the_assertions_hold():
    for text in DOCUMENTS + LONG:
        functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        found = asserted(text)
        names = {key.name for key in found}
        assert names == {node.name for node in functions if node.name in NAMES} and names
        assert len({key.word for key in found}) == len(names) == len(set(found))
        assert max(found.count(key) for key in found) <= 3
        exec(text, {})


def test_documents_have_all_lengths_up_to_the_longest():
    for texts, longest in ((DOCUMENTS, 700), (LONG, 2_700)):
        lengths = [len(text) for text in texts]
        assert longest * 0.85 < max(lengths) <= longest
        for low, high in ((0, 0.25), (0.25, 0.5), (0.5, 1)):
            assert sum(low * longest < length <= high * longest for length in lengths) > 0.15 * len(texts)
    assert len(set(DOCUMENTS)) > 0.97 * len(DOCUMENTS)


def test_functions_and_assertions_are_in_different_orders():
    many = [text for text in LONG if len(asserted(text)) > 8]
    for text in many:
        functions = re.findall(r"^def (\w+)\(\):\n    return \"", text, re.MULTILINE)
        assert functions != list(dict.fromkeys(key.name for key in asserted(text)))
    assert len(many) > 20


def test_documents_have_no_key_of_the_test():
    trained = {key for text in DOCUMENTS + LONG for key in asserted(text)}
    assert all(split_of(key) == "train" for key in trained)
    assert {key.name for key in trained} == set(NAMES) and {key.word for key in trained} == set(WORDS)
    tested = {key for number in range(50) for key in keys("test", Draws(number))}
    assert len(tested) > 100 and not tested & trained


def test_about_an_eighth_of_the_pairs_are_for_the_test():
    pairs = [Key(name, word) for name in NAMES for word in WORDS]
    assert len(set(pairs)) == 32 * 32 and not set(NAMES) & set(WORDS)
    assert 1 / 12 < sum(split_of(key) == "test" for key in pairs) / len(pairs) < 1 / 7


def test_the_bytes_are_the_same_everywhere():
    """Other bytes are another corpus: increase VERSION of tasks/sources/embedded/keys.py, and state new results."""
    digest = hashlib.sha256("".join(DOCUMENTS[:20]).encode()).hexdigest()
    assert digest == "d1906a4a5228e6cd30f921251b10ab6448c45217799e407d406b34aca68ba6af"
