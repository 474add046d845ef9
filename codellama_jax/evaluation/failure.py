"""Why a sample did not pass, as one of a few classes that can be counted."""

import builtins
import re

from codellama_jax.evaluation.sample import Sample

NO_ANSWER, EMPTY, ASSERTION, SYNTAX, WRONG = "no answer", "empty", "assertion", "syntax error", "wrong answer"
COMPILATION, OTHER_EXCEPTION, OTHER_ERROR = "compilation", "other exception", "other error"

_BY_STATUS = {
    "failed": ASSERTION,
    "no_test": "no test",
    "cpu_time": "time",
    "wall_time": "time",
    "memory": "memory",
    "output": "output",
}
_COMPILER = re.compile(
    r"(g\+\+|javac|mcs|csc|dotnet|node|tsc): "
)  # before the message of a command that is not the last
_SYNTAX_ERRORS = ("SyntaxError", "IndentationError", "TabError")
_EXCEPTIONS = {
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
}

# class -> what it means
MEANING = {
    ASSERTION: "an assertion of the test is false",
    SYNTAX: "the program cannot be parsed",
    COMPILATION: "the program cannot be compiled",
    WRONG: "the text is not the expected one",
    EMPTY: "nothing but white space counts of the output",
    "no test": "the test asserts nothing about the program",
    "time": "more processor time or elapsed time than allowed",
    "memory": "more memory than allowed",
    "output": "more output than allowed",
    OTHER_EXCEPTION: "an exception that is not one of Python's own",
    OTHER_ERROR: "an exit, a signal, or another message",
    NO_ANSWER: "the model was not asked, or did not answer",
}


def failure_of(sample: Sample) -> str:
    """The class of a failed sample: one of MEANING, or the name of one of Python's own exceptions.

    Names of other exceptions are the program's, so there may be any number of them: they are one class.

    Returns:
        "" for a sample that passed, or that has scores only.
    """
    if sample.passed is not False:
        return ""
    if sample.finish_reason == "refused":
        return NO_ANSWER
    if not sample.completion.strip():
        return EMPTY
    status, _, message = sample.reason.partition(": ")
    if status not in (
        *_BY_STATUS,
        "error",
    ):  # the reason begins with a status, which may be stricter than the sandbox's
        status, message = sample.status, sample.reason
    if status != "error":
        return _BY_STATUS.get(status, WRONG)
    if _COMPILER.match(message):
        return COMPILATION
    name = re.match(r"(?:\w+\.)*(\w+)(?=:|$)", message)
    if name and name[1] in _SYNTAX_ERRORS:
        return SYNTAX
    if name and name[1] in _EXCEPTIONS:
        return name[1]
    return OTHER_EXCEPTION if re.search(r"(Error|Exception)\b", message) else OTHER_ERROR


def cut_off(sample: Sample) -> bool:
    """Whether an answer reached max_tokens, or the end of the context, before what counts of it ended."""
    counted = sample.completion.rstrip()
    return sample.finish_reason == "length" and bool(counted) and sample.raw.rstrip().endswith(counted)
