"""How tests of conversion run the command."""

import pytest

from codellama_jax import convert


@pytest.fixture
def run(capsys):
    """Runs a command, expects an exit code, and returns what the user saw."""

    def runs(*argv: object, code: int = 0) -> str:
        try:
            found = convert.main([str(argument) for argument in argv])
        except SystemExit as error:
            found = error.code
        seen = capsys.readouterr()
        assert found == code, seen.out + seen.err
        if code == 1 and seen.err:
            assert seen.err.startswith("error: ") and seen.err.count("\n") == 1, seen.err
        return seen.out + seen.err

    return runs
