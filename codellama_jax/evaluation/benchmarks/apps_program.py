"""The program of an APPS answer: the answer itself, and a function apps_run with which its test runs it.

All of it is under the answer's control. Only the test knows what is expected, and it runs in another process.
"""

_IMPORTS = """\
import sys
import time
import itertools
from itertools import accumulate, product, permutations, combinations
import collections
from collections import Counter, OrderedDict, deque, defaultdict, ChainMap
from functools import lru_cache
import math
from math import sqrt, sin, cos, tan, ceil, fabs, floor, gcd, exp, log, log2
import fractions
from typing import List, Tuple
try:
    import numpy as np
except ImportError:
    pass
import random
import heapq
from heapq import *
"""  # which the benchmark's own evaluator puts before each program

# Each test runs the program in a fork of its own, as the main program, with files as standard input and output.
_WITH_STANDARD_INPUT = """
def apps_run(given):
    import os, resource, select, signal, tempfile, threading, traceback
    source = {source!r}
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
        stdin.write(given.encode(errors="surrogateescape"))
        stdin.seek(0)
        child = os.fork()
        if not child:
            code = 1
            try:
                os.dup2(stdin.fileno(), 0)
                os.dup2(stdout.fileno(), 1)
                resource.setrlimit(resource.RLIMIT_CPU, ({whole_seconds}, {whole_seconds}))
                signal.setitimer(signal.ITIMER_PROF, {seconds})
                import builtins, sys, types
                builtins.exit = builtins.quit = sys.exit
                sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
                sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
                main = sys.modules["__main__"] = types.ModuleType("__main__")
                try:
                    exec(compile({imports!r} + source, "<program>", "exec"), main.__dict__)
                except SystemExit:
                    pass
                for thread in threading.enumerate():
                    if thread is not threading.current_thread() and not thread.daemon:
                        thread.join()
                sys.stdout.flush()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        ended = os.pidfd_open(child)
        if not select.select([ended], [], [], {wall_seconds})[0]:
            os.kill(child, signal.SIGKILL)
        os.close(ended)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status in (-signal.SIGPROF, -signal.SIGXCPU, -signal.SIGKILL):
            raise TimeoutError("a test took more than {seconds:g} seconds")
        if status:
            raise RuntimeError(f"the program ended with exit code {{status}}")
        stdout.seek(0)
        return stdout.read().decode(errors="replace")
"""

_WITH_CALLS = """
def apps_run(given):
    import signal
    def stop(number, frame):
        raise TimeoutError("a test took more than {seconds:g} seconds")
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, {seconds})
    try:
        return apps_function(*given)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
"""


def program_of(answer: str, function: str, seconds: float) -> str:
    """The program that defines apps_run(given).

    Args:
        answer: the program that a model wrote.
        function: name of the function that is called, of the module or of its class Solution, with the arguments in
            the list `given`; "": apps_run takes the text of standard input, and returns that of standard output.
        seconds: processor time of a test; elapsed time is limited to ten times this.
    """
    if not function:
        return _WITH_STANDARD_INPUT.format(
            source=answer,
            imports=_IMPORTS,
            seconds=seconds,
            whole_seconds=int(seconds) + 1,
            wall_seconds=10 * seconds,
        )
    found = f"Solution().{function}" if "class Solution" in answer else function
    return f"{_IMPORTS}{answer}\n{_WITH_CALLS.format(seconds=seconds)}\napps_function = {found}\n"
