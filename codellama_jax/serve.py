"""Serves a model to editors and other clients.

    python -m codellama_jax.serve --checkpoint=DIR [--host=127.0.0.1] [--port=8000] [--api_key_file=FILE]
                                  [--adapter=NAME=DIR ...]

The protocols are those of OpenAI, Mistral (infilling), llama.cpp, Ollama and Tabby; docs/editors.md has the settings of
editors, and docs/serving.md the endpoints and limits. A checkpoint is a stage's folder (runs/NAME/STAGE), a checkpoint
in it, an import, or a folder of Hugging Face's, Meta's or llama2.c's format.
"""

import argparse
import contextlib
import dataclasses
import math
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codellama_jax.config import gin_files
from codellama_jax.config.generation import DRAFT_TOKENS, SERVER_BATCHES, Serving
from codellama_jax.config.serving import Server
from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, UserError, first_line
from codellama_jax.runtime import cache, cli, console, filesystem

# The engine's thread and the event loop take turns. Python's 5 ms are longer than a step of a small model.
_SWITCH_SECONDS = 5e-4
_SMALLER = "choose a smaller --context, --slots or --cache_tokens"
API_KEYS = "CODELLAMA_JAX_API_KEYS"  # environment variable: keys, separated by commas


def main(argv: list[str] | None = None) -> int:
    """Serves until a signal; returns the exit code."""
    return cli.run(_parser(), argv, _serve)


def _parser() -> argparse.ArgumentParser:
    server, serving = Server(), Serving()
    parser = cli.Parser(
        prog="python -m codellama_jax.serve",
        description="Serves a model over HTTP, in the protocols of OpenAI, Mistral, llama.cpp, Ollama and Tabby.",
        epilog="docs/editors.md has the settings of editors; docs/serving.md has the endpoints, limits and metrics.",
    )
    add = parser.add_argument_group("model").add_argument
    add("--checkpoint", type=filesystem.to_path, required=True, metavar="DIR", help="the model's folder")
    add(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="adapters (LoRA) of the model, which requests choose by NAME as their model; repeatable",
    )
    add(
        "--tokenizer",
        type=filesystem.to_path,
        metavar="FILE",
        help="a tokenizer.model or tokenizer.json (default: its own)",
    )
    add("--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU, otherwise bfloat16")
    add("--cache_dtype", choices=("float32", "bfloat16", "int8"), help="of keys and values (default: --dtype)")
    add("--tensor", type=int, default=0, metavar="N", help="devices that share the model (default: all that divide it)")
    add("--name", help="the model's name in answers (default: RUN-STAGE, or that of the folder)")
    add("--order", choices=("spm", "psm"), default=server.order, help="of infilling prompts (default: the model's)")
    add("--chat_format", choices=("inst", "source", "template"), help="of dialogues (default: the model's own)")
    add("--no_sentinels", action="store_true", help="do not read infilling markers in raw prompts")
    add = parser.add_argument_group("who reaches it").add_argument
    add("--host", default=server.host, help=f"default: {server.host}, which only this machine reaches")
    add("--port", type=int, default=server.port, metavar="N", help=f"default: {server.port}; 0: a free one")
    add(
        "--api_key_file",
        type=Path,
        metavar="FILE",
        help=f"a key on each line (default: the variable {API_KEYS})",
    )
    add("--without_keys", action="store_true", help="allow other machines (--host) without API keys")
    add("--allowed_host", action="append", default=[], metavar="NAME", help="a name in the Host header; repeatable")
    add("--allowed_origin", action="append", default=[], metavar="URL", help="a site whose pages may call; repeatable")
    add = parser.add_argument_group("limits").add_argument
    add("--context", type=int, default=0, metavar="N", help="tokens of prompt and answer (default: as in training)")
    add("--slots", type=int, default=serving.slots, metavar="N", help=f"answers at a time (default: {serving.slots})")
    add("--cache_tokens", type=int, default=0, metavar="N", help="default: the context for each slot")
    add("--queue", type=int, default=server.queue, metavar="N", help=f"answers that wait (default: {server.queue})")
    add("--timeout", type=float, default=server.timeout, metavar="S", help=f"of a request (default: {server.timeout})")
    parser.add_argument("--log_prompts", action="store_true", help="log prompts and answers (default: neither)")
    return parser


def _serve(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    if flags.gin_files or flags.bindings:
        raise UserError("serve takes no gin files and no --gin flags", EXIT_USAGE)
    keys = _api_keys(options.api_key_file)
    options.adapter = _adapters(options.adapter)
    try:
        settings = Server(
            host=options.host,
            port=options.port,
            without_keys=options.without_keys,
            allowed_hosts=tuple(options.allowed_host),
            allowed_origins=tuple(options.allowed_origin),
            api_keys=keys,
            queue=options.queue,
            timeout=options.timeout,
            order=options.order,
            chat_format=options.chat_format,
            sentinels=not options.no_sentinels,
            log_prompts=options.log_prompts,
        )
        serving = Serving(
            slots=options.slots,
            context=options.context,
            cache_tokens=options.cache_tokens,
            cache_dtype=options.cache_dtype,
            batches=SERVER_BATCHES,
            draft_tokens=DRAFT_TOKENS,
        )
    except ValueError as error:
        message = first_line(error)
        names_flag = message.split("=")[0].isidentifier()
        raise UserError(f"--{message}" if names_flag else message, EXIT_USAGE) from None
    # Bound before the model is opened, which takes long: a port in use should be reported at once.
    with _bound(settings) as listener, _interrupted_by_sigterm():
        return _run(options, settings, serving, listener)


def _adapters(values: list[str]) -> dict[str, Path]:
    """Name -> folder of each --adapter."""
    found: dict[str, Path] = {}
    for value in values:
        name, equals, folder = value.partition("=")
        if not (name and equals and folder):
            raise UserError(f"--adapter={value} is not of the form NAME=DIR", EXIT_USAGE)
        if name in found:
            raise UserError(f"--adapter={value}: there are two adapters with the name {name}", EXIT_USAGE)
        found[name] = filesystem.to_path(folder)
    return found


def _api_keys(file: Path | None) -> tuple[str, ...]:
    """The keys of the file, or of the environment."""
    if file is None:
        return tuple(key.strip() for key in os.environ.get(API_KEYS, "").split(",") if key.strip())
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise UserError(f"--api_key_file={file}: {error.strerror}", EXIT_USAGE) from None
    except UnicodeDecodeError:
        raise UserError(f"--api_key_file={file} is not text: write one key on each line", EXIT_USAGE) from None
    keys = tuple(key for line in lines if (key := line.strip()) and not key.startswith("#"))
    if not keys:
        raise UserError(f"--api_key_file={file} has no keys: write one on each line", EXIT_USAGE)
    return keys


@contextlib.contextmanager
def _bound(settings: Server) -> Iterator[socket.socket]:
    """A socket at the server's address. It does not listen yet: clients should not wait for a model that loads."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        place = f"--host={settings.host} --port={settings.port}"
        try:
            # connections of a server that has just ended must not keep the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((settings.host, settings.port))
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise UserError(f"cannot listen on {place}: {reason}; choose another", EXIT_USAGE) from None
        yield listener


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Ends the command at SIGTERM as at Ctrl-C. While it serves, the server has handlers of its own."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(options: argparse.Namespace, settings: Server, serving: Serving, listener: socket.socket) -> int:
    # Imported here: JAX takes seconds to import, and a wrong flag should be reported at once.
    from jax.errors import JaxRuntimeError

    from codellama_jax.conversion.generation_model import open_model
    from codellama_jax.generation.engine import Engine
    from codellama_jax.serving.api import Api
    from codellama_jax.serving.app import application
    from codellama_jax.serving.connections import HttpServer
    from codellama_jax.serving.service import Service

    cache.keep_programs()
    model = open_model(options.checkpoint, options.tokenizer, options.dtype, options.tensor, options.adapter)
    if (name := options.name or model.name) in model.adapters:
        raise UserError(
            f"the model and an adapter have the name {name}: --name={name}-base renames the model", EXIT_USAGE
        )
    serving = dataclasses.replace(serving, context=serving.context or model.context)
    if serving.context < 2:
        raise UserError(f"--context={serving.context} must be at least 2", EXIT_USAGE)
    try:
        _check_memory(model, serving)
        engine = Engine(model.weights, model.llama, serving, model.tokenizer.rows, model.mesh)
    except (JaxRuntimeError, MemoryError) as error:
        raise UserError(f"the cache does not fit the memory ({first_line(error)}); {_SMALLER}") from None
    service = Service(model.tokenizer, engine, settings)
    api = Api(model, service, settings, name)
    sys.setswitchinterval(_SWITCH_SECONDS)
    service.start()
    print("\n".join(_description(api, listener)), flush=True)
    console.drop_unread_messages()  # an answer must not wait for a reader of the log
    HttpServer(application(api), service, settings).run(sockets=[listener])
    ended = service.stop(seconds=5)
    if service.failure is not None:
        raise UserError(f"the engine failed: {first_line(service.failure)}", EXIT_FAILED) from service.failure
    if not ended:  # it compiles, and ending the process in an orderly way would wait for it
        sys.stdout.flush()
        os._exit(EXIT_DONE)
    return EXIT_DONE


def _check_memory(model: Any, serving: Serving) -> None:
    """Refuses a cache that is larger than the memory of this machine: on a CPU, the system would end the process."""
    import jax

    from codellama_jax.generation import forward

    tokens = serving.cache_tokens or serving.slots * serving.context
    dtype = serving.cache_dtype or model.llama.compute_dtype
    shapes = jax.eval_shape(lambda: forward.new_cache(model.llama, -(-tokens // serving.page), serving.page, dtype))
    size = sum(math.prod(array.shape) * array.dtype.itemsize for array in jax.tree.leaves(shapes))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if jax.default_backend() == "cpu" and size > memory:
        raise UserError(
            f"the cache of {tokens:,} tokens needs {size / 1e9:,.1f} GB, and the machine has {memory / 1e9:,.1f};"
            f" {_SMALLER}"
        )


def _description(api: Any, listener: socket.socket) -> list[str]:
    """What the server says when it starts."""
    host, port = listener.getsockname()[:2]
    settings, serving, pool = api.settings, api.service.engine.serving, api.service.engine.pool
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    keys = "with an API key" if settings.api_keys else "without an API key"
    who = "only this machine reaches it" if settings.is_local else "other machines reach it"
    chat = "chat" if api.model.dialogues else "chat (the checkpoint does not say that it was trained for it)"
    able = ["completion", "infilling" if api.tokenizer.infilling else "no infilling (the model has no ids for it)"]
    if api.settings.chat_format or api.model.chat_format:
        able.append(chat)
    return [
        f"{api.name} at {url} ({who}, {keys})",
        f"  {', '.join(able)}",
        *([f"  adapters: {', '.join(api.model.adapters)}"] if api.model.adapters else []),
        f"  context of {serving.context:,} tokens, {serving.slots} answers at a time,"
        f" cache of {pool.count * pool.size:,} tokens",
        "  editors: docs/editors.md; endpoints, limits and metrics: docs/serving.md",
    ]


if __name__ == "__main__":
    sys.exit(main())
