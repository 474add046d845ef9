"""An interactive dialogue with a model, line by line, with commands on its history."""

import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from codellama_jax.chat import Message
from codellama_jax.errors import EXIT_DONE, UserError
from codellama_jax.generation import prompts
from codellama_jax.generation.answers import Answer
from codellama_jax.generation.prompts import Prompt
from codellama_jax.tokenizer import Tokenizer

HELP = """\
/system TEXT   sets the system message; without TEXT, removes it
/paste         starts a message of several lines, which a line /end ends
/regenerate    answers the last question again, with the next seed
/undo          removes the last question and its answer
/reset         removes all questions and answers; the system message stays
/save FILE     writes the dialogue to a new file FILE.json or FILE.jsonl, which the instruct stage reads
/help          prints this list
/quit          ends the session, as Ctrl-D does
//TEXT         sends /TEXT as a message
Ctrl-C stops an answer and keeps what there is of it; a second Ctrl-C ends the session"""


@dataclasses.dataclass(frozen=True)
class ChatModel:
    """What a session needs of a model.

    Attributes:
        tokenizer: the model's.
        chat_format: "inst", "source" or "template".
        room: the most tokens of a prompt (prompts.chat_room).
        answer: starts the answer to a prompt. Its second argument is added to the seed.
        greedy: whether the seed has no effect.
    """

    tokenizer: Tokenizer
    chat_format: str
    room: int
    answer: Callable[[Prompt, int], Answer]
    greedy: bool


class ChatSession:
    """Reads messages from standard input, and writes answers to standard output and notes to standard error.

    Without a terminal, each line is a message or a command, and no prompt is printed.

    Args:
        model: the model.
        system: the system message; "": none.
        as_json: whether to print one JSON object for each message instead: text, tokens, finish_reason and
            turns_left_out, or error.

    Raises:
        UserError: the model cannot have a dialogue in this format, or not with this system message.
    """

    def __init__(self, model: ChatModel, system: str = "", as_json: bool = False):
        self._model, self._system, self._as_json = model, system, as_json
        self._turns: list[tuple[str, str]] = []
        self._tries = self._interrupts = 0
        self._check_system(system)
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()

    @property
    def messages(self) -> list[Message]:
        """The dialogue so far."""
        system = [{"role": "system", "content": self._system}] if self._system else []
        turns = [
            {"role": role, "content": text}
            for turn in self._turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        return system + turns

    def run(self) -> None:
        """Runs the session until /quit, the end of the input, or a second Ctrl-C.

        Raises:
            KeyboardInterrupt: Ctrl-C while it waits for input that is not a terminal.
        """
        if isinstance(sys.stdin, io.TextIOWrapper):
            # bytes that are not UTF-8 concern one message only
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        if self.interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  # line editing and history for input()
        for line in self._lines():
            try:
                if line.strip() and not self._handle(line):
                    return
            except UserError as error:
                self._refuse(str(error))

    def _lines(self) -> Iterator[str]:
        """The lines of the input. An interruption while waiting is the first or the second Ctrl-C."""
        while True:
            try:
                line = self._read(">>> ")
            except EOFError:
                if self.interactive:
                    print()
                return
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self._interrupts += 1
                print()
                if self._interrupts > 1:
                    return
                self._note("Ctrl-C again, Ctrl-D or /quit ends the session")
                continue
            self._interrupts = 0
            yield line

    def _read(self, prompt: str) -> str:
        return input(prompt if self.interactive else "")

    def _handle(self, line: str) -> bool:
        """Executes a command or answers a message. Returns whether the session continues."""
        if not line.startswith("/") or line.startswith("//"):
            return self._ask(line[1:] if line.startswith("//") else line)
        command, _, text = line.strip().partition(" ")
        text = text.strip()
        if command == "/quit":
            return False
        if command == "/paste":
            message = self._pasted()
            return not message.strip() or self._ask(message)
        if command == "/regenerate":
            return self._regenerate()
        commands: dict[str, Callable[[], object]] = {
            "/help": lambda: self._note(HELP),
            "/system": lambda: self._set_system(text),
            "/undo": self._undo,
            "/reset": self._reset,
            "/save": lambda: self._save(text),
        }
        if command not in commands:
            raise UserError(
                f"there is no command {command[:40]}: /help lists them, and //TEXT sends a line with a slash"
            )
        commands[command]()
        return True

    # --- answers

    def _ask(self, question: str, tries: int = 0) -> bool:
        """Answers a question. Returns whether the session continues."""
        _check_utf8(question)
        messages = [*self.messages, {"role": "user", "content": question}]
        prompt, left_out = prompts.chat(self._model.tokenizer, messages, self._model.chat_format, self._model.room)
        if left_out:
            turns = "turn was" if left_out == 1 else f"{left_out} turns were"
            self._note(f"the oldest {turns} left out: the prompt may have {self._model.room:,} tokens")
        answer = self._model.answer(prompt, tries)
        for part in answer.until_signal(EXIT_DONE):
            if not self._as_json:
                print(part, end="", flush=True)
        self._interrupts = int(answer.signal is not None)
        if self._as_json:
            print(json.dumps(answer.as_json() | {"turns_left_out": left_out}), flush=True)
        else:
            print(flush=True)
        if answer.filled_context:
            self._note("the answer ended because the dialogue fills the context")
        if answer.text:
            self._turns.append((question, answer.text))
            self._tries = tries
        else:
            self._note("the answer is empty: the question is not kept")
        return answer.signal in (None, "SIGINT")

    def _regenerate(self) -> bool:
        kept = self._turns.copy()
        question, _ = self._last_turn()
        if self._model.greedy:
            self._note("with --temperature=0, the answer is the same again")
        try:
            return self._ask(question, self._tries + 1)
        finally:
            if len(self._turns) < len(kept):  # there was no answer
                self._turns = kept

    def _last_turn(self) -> tuple[str, str]:
        """Removes the last turn."""
        if not self._turns:
            raise UserError("there is no question yet")
        return self._turns.pop()

    def _pasted(self) -> str:
        """The lines up to /end; none if Ctrl-C was pressed."""
        lines = []
        try:
            while (line := self._read("... ")).rstrip() != "/end":
                lines.append(line)
        except EOFError:
            pass
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            print()
            return ""
        return "\n".join(lines)

    # --- commands

    def _check_system(self, system: str) -> None:
        """Raises UserError if a dialogue with this system message is not possible."""
        _check_utf8(system)
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": "?"})
        prompts.chat(self._model.tokenizer, messages, self._model.chat_format, self._model.room)

    def _set_system(self, text: str) -> None:
        self._check_system(text)
        self._system = text
        self._note("the system message is set" if text else "the system message is removed")

    def _undo(self) -> None:
        question, _ = self._last_turn()
        self._note(f"removed: {question.strip().splitlines()[0][:60]}")

    def _reset(self) -> None:
        self._turns.clear()
        self._note("the dialogue is empty")

    def _save(self, name: str) -> None:
        path = Path(name).expanduser()
        if path.suffix not in (".json", ".jsonl"):
            raise UserError("/save FILE takes a new file FILE.json or FILE.jsonl")
        if not self._turns:
            raise UserError("there is no question yet")
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
        except FileExistsError:
            raise UserError(f"{path} exists: name a new file") from None
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None
        self._note(f"wrote {path}")

    # --- output

    def _refuse(self, message: str) -> None:
        if self._as_json:
            print(json.dumps({"error": message}), flush=True)
        else:
            self._note(f"error: {message}")

    def _note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _check_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError("the message is not UTF-8 text") from None
