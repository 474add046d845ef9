"""What all commands share: exit codes and one-line errors."""

import argparse
import signal
import subprocess
import sys
import time

import pytest

from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, UserError, first_line
from codellama_jax.runtime import cli


def run(body, argv=(), **arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--name")
    return cli.run(parser, argv, body, **arguments)


def test_passes_flags_and_options_and_returns_the_exit_code():
    def body(flags, options):
        assert flags.gin_files == ["gin/code.gin"] and flags.bindings == ["Stage.steps=3"] and options.name == "x"
        return 75

    assert run(body, ["--gin_file=gin/code.gin", "--name=x", "--gin.Stage.steps=3"]) == 75


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no corpus"), EXIT_FAILED, "no corpus"),
        (UserError("no such flag", EXIT_USAGE), EXIT_USAGE, "no such flag"),
        (OSError(28, "No space left on device", "/a/file"), EXIT_FAILED, "No space left on device: /a/file"),
        (OSError("the store failed"), EXIT_FAILED, "the store failed"),
        (KeyboardInterrupt(), EXIT_FAILED, "interrupted"),
    ],
)
def test_errors_for_the_user_are_one_line(capsys, error, code, line):
    def body(flags, options):
        raise error

    assert run(body) == code
    assert capsys.readouterr().err == f"error: {line}\n"
    assert run(body, ["--verbose"]) == code
    output = capsys.readouterr().err
    assert output.startswith("Traceback") and output.endswith(f"error: {line}\n")


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "the following arguments are required: action"),
        (["sing"], "invalid choice: 'sing'"),
        (["run"], "the following arguments are required: --steps"),
        (["run", "--steps=many"], "argument --steps: invalid int value: 'many'"),
        (["run", "--steps=1", "--setps=2"], "unrecognized arguments: --setps=2"),
    ],
)
def test_wrong_flags_are_one_line_too(capsys, arguments, said):
    parser = cli.Parser(prog="command")
    parser.add_subparsers(required=True, metavar="action").add_parser("run").add_argument(
        "--steps", type=int, required=True
    )
    assert cli.run(parser, arguments, lambda *_: EXIT_DONE) == EXIT_USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.endswith(" --help explains the flags\n")
    assert error.count("\n") == 1


def test_bugs_are_raised():
    def body(flags, options):
        raise error

    for error in (RuntimeError("a bug"), ValueError("a bug")):
        with pytest.raises(type(error), match="a bug"):
            run(body)
    assert run(lambda *_: EXIT_DONE) == EXIT_DONE


def test_a_command_can_explain_further_errors(capsys):
    def body(flags, options):
        raise RuntimeError

    assert run(body, explain=lambda error: "out of memory") == EXIT_FAILED
    assert capsys.readouterr().err == "error: out of memory\n"


def test_the_first_non_blank_line_of_an_error_is_shown():
    assert first_line(ValueError("\n \nfirst\nsecond")) == "first"
    assert first_line(ValueError("x" * 300), 10) == "x" * 10
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is a system call of Linux")
def test_a_process_ends_with_its_parent():
    child = "import signal, time; from codellama_jax.runtime import cli; cli.die_with_parent(signal.SIGTERM)"
    child += "; print('ready', flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    process.send_signal(signal.SIGKILL)
    assert process.stdout.read() == ""  # the child, which holds the other end of the pipe, has ended
    assert time.monotonic() - started < 30
    process.wait()
