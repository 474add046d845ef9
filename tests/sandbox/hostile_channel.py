"""Programs that answer the test themselves, with messages that a right program would not send."""

import textwrap

from hostile_programs import TEST, Hostile, forging

_CHANNEL = """
import json, os, socket, struct
def f(x):
    return 3
try:
    channel = socket.socket(fileno=3)
    channel.settimeout(5)
    def raw(data):
        channel.sendall(struct.pack("<I", len(data)) + data)
    def send(message):
        raw(json.dumps(message).encode())
    def mapping(**items):
        return {"mapping": "dict", "items": [[key, value] for key, value in items.items()]}
    def names(*found):
        send(mapping(names=[{"tuple": list(name)} for name in found]))
    def value(what):
        send(mapping(value=what, changed=mapping()))
    def answer(what):
        while channel.recv(65536):
            value(what)
    SELF = {"reference": 0}
    BODY
except OSError:
    pass
"""


def channel(name: str, body: str) -> Hostile:
    """A program that runs a body with the means of a process that serves a test."""
    body = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    return forging(name, _CHANNEL.replace("    BODY", body), TEST)


PROGRAMS = (
    channel(
        "sends the names that exec reads",
        """
        names(("__builtins__", "value", mapping()), ("__asserted__", "value", 1), ("f", "value", SELF))
        answer(3)
        """,
    ),
    channel(
        "sends modules as names",
        """
        names(("f", "module", "builtins"), ("check", "module", "os"), ("abs", "module", "unittest.__main__"))
        answer(3)
        """,
    ),
    channel(
        "sends built-in functions",
        """
        names(("f", "value", {"builtin": "exec"}), ("isinstance", "value", {"builtin": "print"}))
        answer(3)
        """,
    ),
    channel(
        "answers with references and agrees",
        """
        names(("f", "value", SELF))
        while channel.recv(65536):
            value(SELF)
            value(True)
        """,
    ),
    channel(
        "sends a number for a message",
        """
        send(1)
        answer(3)
        """,
    ),
    channel(
        "sends a text for a message",
        """
        send("raised")
        answer(3)
        """,
    ),
    channel(
        "sends a reference for a message",
        """
        send(SELF)
        answer(["f"])
        """,
    ),
    channel(
        "sends names that are none",
        """
        send(mapping(names=[1, {"tuple": [SELF, SELF, SELF]}, {"tuple": ["f"]}]))
        answer(3)
        """,
    ),
    channel(
        "sends references as names",
        """
        send(mapping(names=[{"tuple": [SELF, SELF, SELF]}]))
        answer("f")
        """,
    ),
    channel(
        "sends types that are none",
        """
        names(("f", "value", SELF))
        answer({"type": "system", "arguments": ["true"]})
        """,
    ),
    channel(
        "sends arguments that are none",
        """
        names(("f", "value", SELF))
        answer({"type": "set", "arguments": [[[1]]]})
        """,
    ),
    channel(
        "sends an object as an argument",
        """
        names(("f", "value", SELF))
        answer({"type": "deque", "arguments": [SELF, None]})
        """,
    ),
    channel(
        "announces a huge message",
        """
        channel.sendall(struct.pack("<I", 2**32 - 1) + b"x" * 2**20)
        """,
    ),
    channel(
        "sends a huge message",
        """
        raw(b'{"names": "' + b"x" * (40 * 2**20) + b'"}')
        """,
    ),
    channel(
        "sends a deep message",
        """
        raw(b"[" * 10**6)
        """,
    ),
    channel(
        "sends a deep value",
        """
        names(("f", "value", SELF))
        start, end = b'{"mapping":"dict","items":[["value",', b'],["changed",{"mapping":"dict","items":[]}]]}'
        while channel.recv(65536):
            raw(start + b"[" * 900 + b"2" + b"]" * 900 + end)
        """,
    ),
    channel(
        "sends half a message",
        """
        channel.sendall(struct.pack("<I", 100) + b"{")
        channel.shutdown(socket.SHUT_RDWR)
        """,
    ),
    channel(
        "sends half a length and exits",
        """
        names(("f", "value", SELF))
        channel.recv(65536)
        channel.sendall(b"\\1\\0")
        os._exit(0)
        """,
    ),
    channel(
        "answers with NaN",
        """
        names(("f", "value", SELF))
        answer(float("nan"))
        """,
    ),
    channel(
        "answers with text that is no JSON",
        """
        names(("f", "value", SELF))
        channel.recv(65536)
        raw(b"2 == 2")
        """,
    ),
    channel(
        "changes arguments that are not there",
        """
        names(("f", "value", SELF))
        changes = {"mapping": "dict", "items": [[-1, 2], [10**6, 2], ["x", 2], [0, SELF]]}
        while channel.recv(65536):
            send(mapping(value=3, changed=changes))
        """,
    ),
    channel(
        "raises what ends a process",
        """
        names(("f", "value", SELF))
        for kind in ("SystemExit", "KeyboardInterrupt", "GeneratorExit", "exec", ""):
            channel.recv(65536)
            send(mapping(raised=[kind, kind, "0"]))
        """,
    ),
    channel(
        "answers before it is asked",
        """
        names(("f", "value", SELF))
        for _ in range(100):
            value(3)
        """,
    ),
    channel(
        "answers without end",
        """
        names(("f", "value", SELF))
        while True:
            raw(b"x" * 100)
        """,
    ),
    channel(
        "sends descriptors",
        """
        import array
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2, 3]))]
        for _ in range(100):
            channel.sendmsg([struct.pack("<I", 1) + b"2"], rights)
        """,
    ),
    channel(
        "a fraction of a billion digits",
        """
        names(("f", "value", SELF))
        answer({"type": "Fraction", "arguments": ["1e1000000000"]})
        """,
    ),
)
