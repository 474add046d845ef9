"""Completes text, fills holes in files, and answers in a chat, with a trained or converted model.

    python -m codellama_jax.generate complete --checkpoint=DIR --prompt=TEXT | --file=FILE
    python -m codellama_jax.generate infill --checkpoint=DIR --file=FILE [--diff] [--order=spm|psm] [--out=FILE]
    python -m codellama_jax.generate chat --checkpoint=DIR [--system=TEXT] [--chat_format=inst|source|template]
    common: [--max_tokens=256] [--temperature=0] [--top_p=1] [--top_k=0] [--min_p=0] [--repetition_penalty=1]
            [--seed=0] [--stop=TEXT]... [--json] [--tokenizer=PATH] [--dtype=float32|bfloat16] [--context=N]
            [--cache_dtype=float32|bfloat16|int8] [--tensor=N]

A checkpoint is a stage's folder (runs/NAME/STAGE), a checkpoint in it, an import, or a folder of Hugging Face's,
Meta's or llama2.c's format. infill fills every mark <FILL_ME> of a file, in order; the file itself is not changed.
--file=- reads standard input. chat reads questions from the terminal, or one a line from a pipe; /help lists its
commands.
"""

import argparse
import contextlib
import dataclasses
import difflib
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from codellama_jax.config import gin_files
from codellama_jax.config.data import CHAT_FORMATS
from codellama_jax.config.generation import DRAFT_TOKENS, Sampling, Serving
from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, UserError, first_line
from codellama_jax.runtime import cache, cli, console, filesystem

FILL_ME = "<FILL_ME>"  # the mark of a hole

logger = logging.getLogger("codellama_jax.generate")  # __name__ is "__main__" here


def main(argv: list[str] | None = None) -> int:
    """Generates; returns the exit code."""
    parser = cli.Parser(prog="python -m codellama_jax.generate", description="Generates text.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="complete|infill|chat")
    complete = commands.add_parser("complete", help="continue a text")
    source = complete.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", help="the text to continue")
    source.add_argument("--file", type=Path, help="a file with the text to continue")
    infill = commands.add_parser("infill", help=f"fill the marks {FILL_ME} of a file")
    infill.add_argument("--file", type=Path, required=True, help="the file; it is not changed")
    infill.add_argument(
        "--order", choices=("spm", "psm"), help="order of the prompt (default: the model's, spm for Code Llama)"
    )
    infill.add_argument("--diff", action="store_true", help="print a diff instead of the filled file")
    infill.add_argument("--out", type=Path, help="write the filled file here, which must not exist")
    chat = commands.add_parser("chat", help="answer the questions of a dialogue")
    chat.add_argument("--system", default="", help="the system message")
    chat.add_argument("--chat_format", choices=CHAT_FORMATS, help="the dialogue format (default: the checkpoint's)")
    for command in (complete, infill, chat):
        command.add_argument("--checkpoint", type=filesystem.to_path, required=True, help="the model's folder")
        command.add_argument(
            "--tokenizer", type=filesystem.to_path, help="a tokenizer.model or tokenizer.json (default: its own)"
        )
        command.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU")
        command.add_argument(
            "--tensor", type=_positive, default=0, help="devices that share the model (default: all that divide it)"
        )
        command.add_argument(
            "--cache_dtype", choices=("float32", "bfloat16", "int8"), help="of keys and values (default: --dtype)"
        )
        command.add_argument("--context", type=int, default=0, help="of prompt and answer, in tokens")
        command.add_argument("--json", action="store_true", help="print {text, tokens, finish_reason}")
        command.add_argument("--max_tokens", type=int, default=256)
        command.add_argument("--temperature", type=float, default=0.0, help="0: the most likely token (default)")
        command.add_argument("--top_p", type=float, default=1.0)
        command.add_argument("--top_k", type=int, default=0, help="0: all tokens (default)")
        command.add_argument("--min_p", type=float, default=0.0)
        command.add_argument("--repetition_penalty", type=float, default=1.0)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--stop", action="append", default=[], help="a text that ends the answer; may be repeated")
    return cli.run(parser, argv, _generate, _explain)


def _explain(error: BaseException) -> str | None:
    """One line for the user about an error; None for a bug."""
    if isinstance(error, MemoryError) or re.search("RESOURCE_EXHAUSTED|Out of memory", str(error)):
        return "out of memory: choose a smaller --context, or --dtype=bfloat16"
    return cli.describe_os_error(error)


def _generate(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    if flags.gin_files or flags.bindings:
        raise UserError("generate takes no gin files and no --gin flags", EXIT_USAGE)
    for name in ("prompt", "system", "stop"):
        _check_utf8(name, getattr(options, name, None))
    if options.context and options.context < 2:
        raise UserError(f"--context={options.context} must be at least 2", EXIT_USAGE)
    names = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
    try:
        sampling = Sampling(**{name: getattr(options, name) for name in names}, stop=tuple(options.stop))
    except ValueError as error:
        raise UserError(f"--{first_line(error)}", EXIT_USAGE) from None
    if isinstance(sys.stdout, io.TextIOWrapper):
        # like the files, whatever the locale is; names of files may have other bytes
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    with console.interrupts_are_kept(), console.stdout_may_close():
        if options.command == "chat":
            _Session(options, sampling).chat()
        elif options.command == "complete":
            text = options.prompt if options.file is None else _read(options.file)
            _Session(options, sampling).complete(text)
        else:
            text = _read(options.file)
            if FILL_ME not in text:
                raise UserError(f"{options.file} has no mark {FILL_ME}: put one where text is missing", EXIT_USAGE)
            with _new_file(options.out) as out:
                _Session(options, sampling).infill(text, out)
    return EXIT_DONE


def _check_utf8(name: str, value: Any) -> None:
    """Python gives bytes of the command line that are not UTF-8 as surrogates."""
    try:
        "".join(value or ()).encode()
    except UnicodeEncodeError:
        raise UserError(f"--{name} is not UTF-8 text", EXIT_USAGE) from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a number, at least 1")
    return int(text)


def _read(path: Path) -> str:
    try:
        return (sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start:,}): convert it first") from None


@contextlib.contextmanager
def _new_file(path: Path | None) -> Iterator[IO[bytes] | None]:
    """A new file, opened before the model is, and removed if the block fails. None without a path."""
    if path is None:
        yield None
        return
    try:
        file = path.open("xb")
    except FileExistsError:
        raise UserError(f"--out={path} exists: name a new file", EXIT_USAGE) from None
    except OSError as error:
        raise UserError(f"--out={path} cannot be written: {error.strerror}", EXIT_USAGE) from None
    try:
        yield file
        file.close()
    except BaseException:
        with contextlib.suppress(OSError):  # of a full disk, which is reported already
            file.close()
        path.unlink(missing_ok=True)
        raise


def _diff(before: str, after: str, name: str) -> Iterator[str]:
    """The lines of a diff that patch applies. A line ends with a line feed only, also where it has a form feed."""
    old, new = (list(io.StringIO(text, newline="\n")) for text in (before, after))
    for line in difflib.unified_diff(old, new, name, name):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


class _Session:
    """The model and its engine, with one slot."""

    def __init__(self, options: argparse.Namespace, sampling: Sampling):
        # Imported here: JAX takes seconds to import, and a wrong flag should be reported at once.
        from codellama_jax.conversion.generation_model import open_model
        from codellama_jax.generation.engine import Engine
        from codellama_jax.generation.stopping import TokenTexts

        cache.keep_programs()
        self._options, self._sampling = options, sampling
        self._model = model = open_model(options.checkpoint, options.tokenizer, options.dtype, options.tensor)
        self._tokenizer, self._texts = model.tokenizer, TokenTexts(model.tokenizer)
        self._context = options.context or model.context
        if self._context > model.context:
            logger.warning(
                "warning: --context=%d is longer than the %s positions of the model's training: answers may be worse",
                self._context,
                f"{model.context:,}",
            )
        serving = Serving(slots=1, context=self._context, cache_dtype=options.cache_dtype, draft_tokens=DRAFT_TOKENS)
        self._engine = Engine(model.weights, model.llama, serving, model.tokenizer.rows, model.mesh)

    def complete(self, text: str) -> None:
        """Prints the continuation of a text, as it is generated."""
        from codellama_jax.generation import prompts

        answer = self._answer(prompts.complete(self._tokenizer, self._texts, text))
        for part in self._parts(answer):
            if not self._options.json:
                print(part, end="", flush=True)
        print(json.dumps(answer.as_json()) if self._options.json else "")
        self._warn_of_end(answer)

    def infill(self, text: str, out: IO[bytes] | None) -> None:
        """Fills every mark, each with the marks before it filled, and prints the file or a diff."""
        from codellama_jax.generation import prompts

        answers = []
        filled, *rest = text.split(FILL_ME)
        for index, after in enumerate(rest):
            suffix = after + "".join(rest[index + 1 :])
            prompt = prompts.infill(self._tokenizer, self._texts, filled, suffix, self._options.order)
            answer = self._answer(prompt)
            filled += "".join(self._parts(answer)) + after
            answers.append(answer.as_json())
            self._warn_of_end(answer)
        if out is not None:
            try:
                out.write(filled.encode())
                out.flush()
            except OSError as error:
                print(filled, end="")
                raise UserError(f"--out={out.name} cannot be written ({error.strerror}): printed instead") from None
        if self._options.json:
            print(json.dumps({"text": filled, "holes": answers}))
        elif self._options.diff:
            sys.stdout.writelines(_diff(text, filled, str(self._options.file)))
        elif out is None:
            print(filled, end="")

    def chat(self) -> None:
        """Runs an interactive session."""
        from codellama_jax.generation import prompts
        from codellama_jax.generation.chat_session import ChatModel, ChatSession

        chat_format = self._model.dialogue_format(self._options.chat_format)
        room = prompts.chat_room(self._context, self._sampling.max_tokens)
        model = ChatModel(self._tokenizer, chat_format, room, self._answer, self._sampling.temperature == 0)
        session = ChatSession(model, self._options.system, self._options.json)
        if not self._model.dialogues:
            logger.warning(
                "note: %s does not state that it was trained on dialogues: expect text, not answers", self._model.name
            )
        if session.interactive:
            print(f"{self._model.name}, format {chat_format}, context {self._context:,}; /help lists the commands")
        session.run()

    def _answer(self, prompt: Any, tries: int = 0) -> Any:
        """The answer to a prompt. With other numbers of `tries`, it has other random numbers."""
        from codellama_jax.generation.answers import Answer

        sampling = dataclasses.replace(self._sampling, seed=(self._sampling.seed + tries) % 2**64)
        return Answer(self._engine, self._texts, prompt, sampling)

    def _parts(self, answer: Any) -> Iterator[str]:
        """The text of an answer in parts. Raises KeyboardInterrupt between two steps of the engine, at a signal."""
        yield from answer.until_signal(EXIT_FAILED)
        if answer.signal is not None:
            raise KeyboardInterrupt

    def _warn_of_end(self, answer: Any) -> None:
        if answer.filled_context:
            count = len(answer.tokens)
            size = f"{count:,} token{'s' * (count != 1)}: with the prompt, they fill the context of {self._context:,}"
            logger.warning("warning: the text ends after %s", size)


if __name__ == "__main__":
    sys.exit(main())
