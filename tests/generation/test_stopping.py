"""Text while it is generated."""

import numpy as np
import pytest

from codellama_jax.generation.stopping import TextStream


class Bytes:
    """Tokens that are single bytes."""

    def __call__(self, token: int) -> bytes:
        return bytes([token])


def parts(data: bytes, sizes: list[int], **options) -> tuple[list[str], TextStream]:
    stream = TextStream(Bytes(), **options)  # type: ignore[arg-type]
    shown, start = [], 0
    for size in [*sizes, len(data)]:
        shown.append(stream.add(data[start : start + size]))
        start += size
    return [*shown, stream.finish()], stream


@pytest.mark.parametrize("text", ["plain", "é中😀 x", "a\r\nb", "\x00\t"])
def test_characters_are_never_split(text: str):
    shown, stream = parts(text.encode(), [1] * len(text.encode()))
    assert "".join(shown) == stream.text == text and not any("\ufffd" in part for part in shown)


def test_bytes_that_are_not_utf8_are_replaced():
    shown, _ = parts(b"a\xffb\xe4\xb8", [1] * 5)
    assert "".join(shown) == "a\ufffdb\ufffd"


@pytest.mark.parametrize("stop", [["END"], ["\n\n", "END"], ["D"], ["xEND", "E"]])
def test_text_never_shows_what_a_stop_string_takes_back(stop: list[str]):
    text = "def f():\n    return E + EN + x\n# END\n\nmore END"
    first = min((text.find(s), -len(s), s) for s in stop if s in text)
    rng = np.random.default_rng(0)
    for _ in range(30):
        shown, stream = parts(text.encode(), rng.integers(1, 5, 40).tolist(), stop=stop)
        assert "".join(shown) == text[: first[0]] and stream.stopped == first[2]


def test_a_held_beginning_of_a_stop_string_is_shown_at_the_end():
    shown, stream = parts(b"x EN", [1, 1, 1, 1], stop=["END"])
    assert "".join(shown) == "x EN" and stream.stopped is None and shown[2:4] == ["", ""]


def test_the_healed_beginning_is_not_shown():
    shown, _ = parts(b"return x", [3, 5], skip=b"retu")
    assert "".join(shown) == "rn x"


@pytest.mark.parametrize("options", [{}, {"stop": ["\n\n", "END"]}, {"skip": b" "}])
def test_white_space_at_both_ends_of_an_answer_is_not_shown(options: dict):
    """It is held back until other text follows; stop strings do not see that at the start."""
    data = "\n\n  a b \n é \t\n ".encode()
    rng = np.random.default_rng(0)
    for _ in range(20):
        shown, stream = parts(data, rng.integers(1, 5, 40).tolist(), strip=True, **options)
        assert "".join(shown) == stream.text == "a b \n é"
        assert not any("".join(shown[:count]).endswith((" ", "\n")) for count in range(len(shown)))
    assert parts(b" \n", [1], strip=True)[1].text == ""
    assert parts(b" a \n\nEND", [2, 1, 1], strip=True, stop=["END"])[1].text == "a"
