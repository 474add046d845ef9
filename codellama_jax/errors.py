"""Exit codes, and the exception whose message is written for the user."""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 75  # stopped by a signal after saving, or by the loss of another process: a restart resumes


def first_line(error: BaseException, max_length: int = 200) -> str:
    """The first line of an error's message that is not blank, truncated; the name of its class if there is none."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:max_length]


class UserError(Exception):
    """An error that the user can fix. The message is one line: what is wrong, where, and the fix.

    Attributes:
        exit_code: the exit code of the process; never EXIT_DONE.
    """

    def __init__(self, message: str, exit_code: int = EXIT_FAILED):
        super().__init__(message)
        self.exit_code = exit_code
