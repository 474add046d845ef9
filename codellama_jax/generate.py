"""Completes text, and fills holes in files, with a trained or converted model.

    python -m codellama_jax.generate complete --checkpoint=DIR --prompt=TEXT | --file=FILE
    python -m codellama_jax.generate infill --checkpoint=DIR --file=FILE [--diff] [--order=spm|psm] [--out=FILE]
    common: [--max_tokens=256] [--temperature=0] [--top_p=1] [--top_k=0] [--min_p=0] [--repetition_penalty=1]
            [--seed=0] [--stop=TEXT]... [--json] [--tokenizer=PATH] [--dtype=float32|bfloat16]
            [--cache_dtype=float32|bfloat16|int8] [--tensor=N]

A checkpoint is a stage's folder (runs/NAME/STAGE), a checkpoint in it, an import, or a folder of Hugging Face's,
Meta's or llama2.c's format. infill fills every mark <FILL_ME> of a file, in order; the file itself is not changed.
"""

import argparse
import difflib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codellama_jax.config import gin_files
from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.errors import EXIT_DONE, EXIT_USAGE, UserError, first_line
from codellama_jax.runtime import cache, cli, filesystem

FILL_ME = "<FILL_ME>"  # the mark of a hole


def main(argv: list[str] | None = None) -> int:
    """Generates; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m codellama_jax.generate", description="Generates text.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="complete|infill")
    complete = commands.add_parser("complete", help="continue a text")
    source = complete.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", help="the text to continue")
    source.add_argument("--file", type=Path, help="a file with the text to continue")
    infill = commands.add_parser("infill", help=f"fill the marks {FILL_ME} of a file")
    infill.add_argument("--file", type=Path, required=True, help="the file; it is not changed")
    infill.add_argument("--order", choices=("spm", "psm"), default="spm", help="order of the prompt (default: spm)")
    infill.add_argument("--diff", action="store_true", help="print a diff instead of the filled file")
    infill.add_argument("--out", type=Path, help="write the filled file here, which must not exist")
    for command in (complete, infill):
        command.add_argument("--checkpoint", type=filesystem.to_path, required=True, help="the model's folder")
        command.add_argument("--tokenizer", type=filesystem.to_path, help="a tokenizer.model (default: its own)")
        command.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU")
        command.add_argument(
            "--tensor", type=_positive, default=0, help="devices that share the model (default: all that divide it)"
        )
        command.add_argument(
            "--cache_dtype", choices=("float32", "bfloat16", "int8"), help="of keys and values (default: --dtype)"
        )
        command.add_argument("--context", type=int, default=0, help="tokens of prompt and answer")
        command.add_argument("--json", action="store_true", help="print {text, tokens, finish_reason}")
        command.add_argument("--max_tokens", type=int, default=256)
        command.add_argument("--temperature", type=float, default=0.0, help="0: the most likely token (default)")
        command.add_argument("--top_p", type=float, default=1.0)
        command.add_argument("--top_k", type=int, default=0, help="0: all tokens (default)")
        command.add_argument("--min_p", type=float, default=0.0)
        command.add_argument("--repetition_penalty", type=float, default=1.0)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--stop", action="append", default=[], help="a text that ends the answer; may be repeated")
    return cli.run(parser, argv, _generate)


def _generate(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    if flags.gin_files or flags.bindings:
        raise UserError("generate takes no gin files and no --gin flags", EXIT_USAGE)
    names = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
    try:
        sampling = Sampling(**{name: getattr(options, name) for name in names}, stop=tuple(options.stop))
    except ValueError as error:
        raise UserError(f"--{first_line(error)}", EXIT_USAGE) from None
    text = options.prompt if options.command == "complete" and options.file is None else _read(options.file)
    if options.command == "infill" and FILL_ME not in text:
        raise UserError(f"{options.file} has no mark {FILL_ME}: put one where text is missing", EXIT_USAGE)
    if options.command == "infill" and options.out is not None and options.out.exists():
        raise UserError(f"--out={options.out} exists: name a new file", EXIT_USAGE)
    session = _Session(options)
    return session.complete(text, sampling) if options.command == "complete" else session.infill(text, sampling)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a number, at least 1")
    return int(text)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None


class _Session:
    """The model and its engine, with one slot."""

    def __init__(self, options: argparse.Namespace):
        # Imported here: JAX takes seconds to import, and a wrong flag should be reported at once.
        import jax

        from codellama_jax.conversion.generation_model import open_model
        from codellama_jax.generation.engine import Engine
        from codellama_jax.generation.stopping import TokenTexts

        if (programs := cache.directory("programs")) is not None:
            jax.config.update("jax_compilation_cache_dir", str(programs))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        self._options = options
        model = open_model(options.checkpoint, options.tokenizer, options.dtype, options.tensor)
        self.tokenizer, self._texts = model.tokenizer, TokenTexts(model.tokenizer)
        serving = Serving(slots=1, context=options.context or model.context, cache_dtype=options.cache_dtype)
        self._engine = Engine(model.weights, model.llama, serving, model.tokenizer.rows, model.mesh)

    def complete(self, text: str, sampling: Sampling) -> int:
        """Prints the continuation of a text, as it is generated."""
        from codellama_jax.generation import prompts

        answer = _Answer()
        for part in self._stream(prompts.complete(self.tokenizer, self._texts, text), sampling, answer):
            if not self._options.json:
                print(part, end="", flush=True)
        print(json.dumps(answer.as_json()) if self._options.json else "")
        return EXIT_DONE

    def infill(self, text: str, sampling: Sampling) -> int:
        """Fills every mark, each with the marks before it filled, and prints the file or a diff."""
        from codellama_jax.generation import prompts

        answers = []
        filled, *rest = text.split(FILL_ME)
        for index, after in enumerate(rest):
            suffix = after + "".join(rest[index + 1 :])
            prompt = prompts.infill(self.tokenizer, self._texts, filled, suffix, self._options.order)
            answer = _Answer()
            filled += "".join(self._stream(prompt, sampling, answer)) + after
            answers.append(answer.as_json())
        if self._options.out is not None:
            with self._options.out.open("xb") as file:
                file.write(filled.encode())
        if self._options.json:
            print(json.dumps({"text": filled, "holes": answers}))
        elif self._options.diff:
            name = str(self._options.file)
            before, changed = text.splitlines(keepends=True), filled.splitlines(keepends=True)
            sys.stdout.writelines(difflib.unified_diff(before, changed, name, name))
        elif self._options.out is None:
            print(filled, end="")
        return EXIT_DONE

    def _stream(self, prompt: Any, sampling: Sampling, answer: "_Answer") -> Iterator[str]:
        """The text of an answer in parts."""
        from codellama_jax.generation.stopping import TextStream

        request = self._engine.submit(prompt.ids, sampling, prompt.stop_ids, prompt.allowed)
        stream, read = TextStream(self._texts, sampling.stop, prompt.skip), 0
        while not request.finished:
            self._engine.step()
            part = stream.add(request.tokens[read:])
            read = len(request.tokens)
            if stream.stopped is not None:
                self._engine.finish(request)
            if part:
                yield answer.add(part, prompt.crlf)
        if part := stream.finish():
            yield answer.add(part, prompt.crlf)
        answer.tokens, answer.finish_reason = request.tokens, request.finish_reason


class _Answer:
    """An answer as --json prints it."""

    def __init__(self) -> None:
        self.text, self.tokens = "", list[int]()
        self.finish_reason: str | None = None

    def add(self, part: str, crlf: bool) -> str:
        part = part.replace("\n", "\r\n") if crlf else part
        self.text += part
        return part

    def as_json(self) -> dict[str, Any]:
        return {"text": self.text, "tokens": self.tokens, "finish_reason": self.finish_reason}


if __name__ == "__main__":
    sys.exit(main())
