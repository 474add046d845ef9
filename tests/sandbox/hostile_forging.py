"""Programs that try to pass without being right."""

from hostile_programs import forging

_READ_TEST = """
import re
PATTERN = re.compile(r"assert f\\(1\\) == (\\d+)")
found = []
BODY
def f(x):
    return found[0] if found else 3
"""

PROGRAMS = (
    forging("exits with code 0 at import", "import sys\nsys.exit(0)"),
    forging("exits with code 0 in f", "import sys\ndef f(x):\n    sys.exit(0)"),
    forging("ends the process at import", "import os\nos._exit(0)"),
    forging("ends the process in f", "import os\ndef f(x):\n    os._exit(0)"),
    forging("becomes /bin/true", "import os\nos.execv('/bin/true', ['true'])"),
    forging("ends the process through libc", "import ctypes\nctypes.CDLL(None)._exit(0)"),
    forging("a string that swallows the test", "def f(x):\n    return 3\nraise SystemExit(0)\n'''"),
    forging("a name that is not callable", "f = 2"),
    forging("no function", "print('passed')"),
    forging(
        "an object equal to everything", "class E:\n    def __eq__(self, other): return True\ndef f(x): return E()"
    ),
    forging(
        "an int equal to everything",
        "class E(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef f(x): return E(3)",
    ),
    forging(
        "a list equal to everything",
        "class E(list):\n    def __eq__(self, other): return True\ndef f(x): return E([3])",
        "assert f(1) == [2]",
    ),
    forging(
        "a class equal to everything",
        """
        class M(type):
            def __eq__(self, other): return True
            __hash__ = type.__hash__
        class E(metaclass=M): pass
        def f(x): return E
        """,
    ),
    forging(
        "an object that claims another class",
        """
        class E:
            __class__ = int
            def __eq__(self, other): return True
            def __index__(self): return 2
            def __sub__(self, other): return 0
            def __rsub__(self, other): return 0
        def f(x): return E()
        """,
        "assert abs(f(1) - 2) < 1e-6",
    ),
    forging(
        "built-in functions of its own",
        """
        def abs(x): return 0
        def len(x): return 2
        def isinstance(x, kind): return True
        def all(x): return True
        def f(x): return [False]
        """,
        "assert all(f(1))\nassert len(f(1)) == 2\nassert isinstance(f(1), int)",
    ),
    forging(
        "a module math of its own",
        """
        class math:
            @staticmethod
            def isclose(*arguments, **named): return True
        def f(x): return 3.0
        """,
        "assert math.isclose(f(1), 2)",
    ),
    forging(
        "replaced built-in functions",
        """
        import builtins, math, sys
        builtins.abs = lambda x: 0
        builtins.all = builtins.isinstance = lambda *x: True
        math.isclose = lambda *x, **y: True
        def f(x): return 3
        """,
        "import math\nassert all(x == 2 for x in [f(1)])\nassert abs(f(1) - 2) < 1 and math.isclose(f(1), 2)",
    ),
    forging(
        "AssertionError is an exit",
        """
        import builtins, os
        class Quiet(SystemExit):
            def __init__(self, *arguments): os._exit(0)
        builtins.AssertionError = Quiet
        AssertionError = Quiet
        def f(x): return 3
        """,
    ),
    forging(
        "names that exec reads", "__builtins__ = {'AssertionError': SystemExit}\n__asserted__ = 1\nf = lambda x: 3"
    ),
    forging(
        "changes the integer 2 in memory",
        """
        import ctypes
        three = 3
        def f(x):
            ctypes.c_uint32.from_address(id(2) + 24).value = three
            return three
        """,
    ),
    forging(
        "traces the test and skips lines",
        """
        import os, sys
        def trace(frame, event, argument):
            if event == "exception":
                os._exit(0)
            return trace
        sys.settrace(trace)
        def f(x):
            frame = sys._getframe()
            while frame:
                frame.f_trace = trace
                frame = frame.f_back
            return 3
        """,
    ),
    forging(
        "reads the test in frames",
        _READ_TEST.replace(
            "BODY",
            """
import sys
frame = sys._getframe()
while frame:
    found += [int(digits) for digits in PATTERN.findall(repr(frame.f_locals) + repr(frame.f_globals.get("__doc__")))]
    frame = frame.f_back
""",
        ),
    ),
    forging(
        "reads the test among all objects",
        _READ_TEST.replace(
            "BODY",
            """
import gc
for thing in gc.get_objects():
    for value in list(thing.values()) if type(thing) is dict else thing if type(thing) in (list, tuple) else ():
        if type(value) is str:
            found += [int(digits) for digits in PATTERN.findall(value)]
""",
        ),
    ),
    forging(
        "reads the test in memory, freed or not",
        _READ_TEST.replace(
            "BODY",
            """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
read, write = os.pipe()
os.set_blocking(read, False)
top = libc.sbrk(0)
anchors = sorted({id(thing) >> 20 << 20 for thing in (sys, PATTERN, found, read, os.environ)})
for start, end in [(top - 2**24, top)] + [(anchor - 2**21, anchor + 2**21) for anchor in anchors]:
    for page in range(start >> 12 << 12, end, 4096):
        if libc.write(write, ctypes.c_void_p(page), 4096) == 4096:
            text = os.read(read, 4096).decode("latin-1")
            found += [int(digits) for digits in PATTERN.findall(text)]
""",
        ),
    ),
    forging(
        "writes verdicts to every descriptor",
        """
        import json, os, struct
        for verdict in ({"status": "passed", "message": "", "trace": ""}, {"step": 0, "code": 0}, {"ready": True}):
            line = json.dumps(verdict).encode()
            for number in range(3, 1024):
                try:
                    os.set_blocking(number, False)
                    frames = [struct.pack(kind, len(line)) + line for kind in ("<I", "<Q")]
                    for data in (line + b"\\n", *frames):
                        os.write(number, data)
                except OSError:
                    pass
        def f(x): return 3
        """,
    ),
    forging(
        "exits when it is collected",
        "import os\nclass E:\n    def __del__(self): os._exit(0)\nkept = E()\ndef f(x):\n    return E() and 3",
    ),
    forging("exits at exit", "import atexit, os, sys\natexit.register(os._exit, 0)\ndef f(x):\n    sys.exit(3)"),
    forging(
        "a thread that exits",
        "import os, threading\nthreading.Timer(0.02, os._exit, [0]).start()\ndef f(x):\n    while True: pass",
    ),
    forging(
        "an alarm that exits",
        """
        import os, signal
        signal.signal(signal.SIGALRM, lambda *x: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        def f(x):
            while True: pass
        """,
    ),
    forging(
        "a daemon that answers later",
        """
        import os, time
        def f(x):
            if os.fork():
                os._exit(0)
            os.setsid()
            time.sleep(0.05)
            return 3
        """,
    ),
    forging(
        "puts objects of its own into an argument",
        """
        class E(int):
            def __eq__(self, other): return True
        def f(x):
            x[:] = [E(3)]
            return x
        """,
        "x = [1]\nf(x)\nassert x == [2]",
    ),
    forging(
        "ends the test's own iteration",
        "def f(x):\n    raise StopIteration",
        "assert all(map(lambda x: f(x) == 2, [1]))",
    ),
    forging(
        "an endless iterator", "import itertools\ndef f(x):\n    return itertools.count()", "assert list(f(1)) == [2]"
    ),
    forging(
        "an iterator whose length lies",
        "class E:\n    def __len__(self): return 1\n    def __getitem__(self, i): return self\ndef f(x): return E()",
        "assert len(f(1)) == 1 and f(1)[0] == 2",
    ),
)
