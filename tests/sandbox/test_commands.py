"""What commands in the sandbox see."""

from pathlib import Path

import pytest

from codellama_jax.sandbox.jobs import Commands, Outcome, Step
from codellama_jax.sandbox.pool import Pool


def run(pool: Pool, *argv: str) -> Outcome:
    return pool.submit(Commands({}, (Step(argv),))).result()


def test_commands_have_a_proc_of_their_own_and_see_given_tools_alone():
    tool = Path(__file__)
    if tool.is_relative_to("/tmp"):
        pytest.skip("the checkout is in /tmp, which programs have as their own folder")
    with Pool(1, tools=[tool]) as pool:
        assert run(pool, "cat", str(tool)).stdout == tool.read_text()
        assert run(pool, "ls", str(tool.parent)).stdout.split() == [tool.name]
        processes = run(pool, "ls", "/proc").stdout.split()
        assert "self" in processes and len([name for name in processes if name.isdecimal()]) == 2
        assert run(pool, "ls", "-A", "/container").stdout == ""
