"""The holes of the infilling samples are of the kind that the model was trained to fill."""

import pytest

from codellama_jax.training.infilling_samples import punch_holes

TEXT = "import os\n\n\ndef listed(folder):\n    names = os.listdir(folder)\n    names.sort()\n    return names\n"


@pytest.mark.parametrize("cut", ["character", "line"])
def test_a_hole_is_a_line_or_the_end_of_one(cut: str) -> None:
    (hole,) = punch_holes([("nl", "short\n"), ("code", TEXT * 9)], 3, 300, cut)
    assert hole.stream == "code" and hole.prefix + hole.middle + hole.suffix == (TEXT * 9)[:300]
    assert hole.prefix.endswith("\n") == hole.middle.endswith("\n") == (cut == "line")
    assert hole.middle.strip() and hole.middle.count("\n") <= 1
