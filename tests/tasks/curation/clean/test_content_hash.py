"""The content hash by which exact duplicates are found."""

import string

from tasks.curation.clean.content_hash import content_hash


def test_ignores_line_ends_trailing_white_space_and_the_byte_order_mark() -> None:
    same = ["a\n  b\n", "a\n  b", "a  \n  b\t\n\n\n", "a\r\n  b\r\n", "a\r  b\r", "\ufeffa\n  b\n"]
    assert len({content_hash(text) for text in same}) == 1
    others = ["a\n b\n", "a\n\n  b\n", "\na\n  b", "A\n  b\n", "a   b", ""]
    assert len({content_hash(text) for text in [*others, same[0]]}) == 7
    assert set(content_hash("\ud800")) <= set(string.hexdigits)


def test_is_the_same_on_any_machine_and_in_any_version_of_python() -> None:
    assert content_hash("a = 1\n") == "fec2d2ff4c3b3c0a858a3942c8873129"
