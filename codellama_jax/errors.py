"""Exit codes, and the exception whose message is written for the user."""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 75  # stopped by a signal after saving, or another process was lost: start again to resume


def first_line(error: BaseException, max_length: int = 200) -> str:
    """The first non-blank line of an error's message, truncated; the name of its class if the message is blank."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:max_length]


class UserError(Exception):
    """An error that the user can fix. The message is one line: what is wrong, where, and the fix.

    Attributes:
        exit_code: the exit code of the process; never EXIT_DONE.
    """

    def __init__(self, message: str, exit_code: int = EXIT_FAILED):
        super().__init__(message)
        self.exit_code = exit_code
