"""The one exception that is meant for the person at the terminal."""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 75  # stopped by a signal after saving, or for want of another process: start it again, it goes on


def first_line(error: BaseException, longest: int = 200) -> str:
    """The first line of what an error says that is not blank, cut; its class if it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:longest]


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong, where, and the cure.

    Attributes:
        exit_code: what the process should exit with; never EXIT_DONE.
    """

    def __init__(self, message: str, exit_code: int = EXIT_FAILED):
        super().__init__(message)
        self.exit_code = exit_code
