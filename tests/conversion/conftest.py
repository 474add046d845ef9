"""Runs the command `python -m codellama_jax.convert` in this process."""

import pytest

from codellama_jax import convert


@pytest.fixture
def run(capsys):
    """A function that runs the command, checks its exit code, and returns its output."""

    def run_command(*argv: object, code: int = 0) -> str:
        exit_code = convert.main([str(argument) for argument in argv])
        output = capsys.readouterr()
        assert exit_code == code, output.out + output.err
        if code and output.err:
            assert output.err.startswith("error: ") and output.err.count("\n") == 1, output.err
        return output.out + output.err

    return run_command
