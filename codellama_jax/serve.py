"""Serves a model to editors and other clients.

    python -m codellama_jax.serve --checkpoint=DIR [--host=127.0.0.1] [--port=8000] [--api_key_file=FILE]

The protocols are those of OpenAI, Mistral (infilling), llama.cpp, Ollama and Tabby; docs/editors.md has the settings of
editors. A checkpoint is a stage's folder (runs/NAME/STAGE), a checkpoint in it, an import, or a folder of Hugging
Face's, Meta's or llama2.c's format.
"""

import argparse
import dataclasses
import os
import socket
import sys
from pathlib import Path

from codellama_jax.config import gin_files
from codellama_jax.config.generation import Serving
from codellama_jax.config.serving import Server
from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, UserError, first_line
from codellama_jax.runtime import cache, cli, filesystem

API_KEYS = "CODELLAMA_JAX_API_KEYS"  # environment variable: keys, separated by commas


def main(argv: list[str] | None = None) -> int:
    """Serves until a signal; returns the exit code."""
    server, serving = Server(), Serving()
    parser = argparse.ArgumentParser(prog="python -m codellama_jax.serve", description="Serves a model over HTTP.")
    add = parser.add_argument
    add("--checkpoint", type=filesystem.to_path, required=True, help="the model's folder")
    add("--tokenizer", type=filesystem.to_path, help="a tokenizer.model (default: its own)")
    add("--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU, otherwise bfloat16")
    add("--name", help="the model's name in answers (default: of the folder)")
    add("--host", default=server.host, help="default: 127.0.0.1, which only this machine reaches")
    add("--port", type=int, default=server.port, help="0: a free one")
    add("--api_key_file", type=Path, help=f"a file with a key on each line (or the variable {API_KEYS})")
    add("--allowed_host", action="append", default=[], help="a further value of the Host header; may be repeated")
    add("--allowed_origin", action="append", default=[], help="a further value of the Origin header; may be repeated")
    add("--context", type=int, default=0, help="tokens of prompt and answer (default: the model's longest window)")
    add("--slots", type=int, default=serving.slots, help="answers that are generated together")
    add("--cache_tokens", type=int, default=0, help="tokens in the cache (default: the context for each slot)")
    add("--queue", type=int, default=server.queue, help="answers that may wait")
    add("--timeout", type=float, default=server.timeout, help="seconds after which a request ends")
    add("--order", choices=("spm", "psm"), default=server.order, help="order of infilling prompts")
    add("--no_sentinels", action="store_true", help="do not read infilling markers in raw prompts")
    add("--log_prompts", action="store_true", help="log prompts and answers")
    return cli.run(parser, argv, _serve)


def _serve(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    if flags.gin_files or flags.bindings:
        raise UserError("serve takes no gin files and no --gin flags", EXIT_USAGE)
    try:
        settings = Server(
            host=options.host,
            port=options.port,
            allowed_hosts=tuple(options.allowed_host),
            allowed_origins=tuple(options.allowed_origin),
            api_keys=_api_keys(options.api_key_file),
            queue=options.queue,
            timeout=options.timeout,
            order=options.order,
            sentinels=not options.no_sentinels,
            log_prompts=options.log_prompts,
        )
        serving = Serving(slots=options.slots, context=options.context, cache_tokens=options.cache_tokens)
    except ValueError as error:
        raise UserError(first_line(error), EXIT_USAGE) from None
    # Bound before the model is opened, which takes long: a port in use should be reported at once.
    with _listen(settings) as listener:
        return _run(options, settings, serving, listener)


def _api_keys(file: Path | None) -> tuple[str, ...]:
    """The keys of the file, or of the environment."""
    if file is None:
        return tuple(key.strip() for key in os.environ.get(API_KEYS, "").split(",") if key.strip())
    keys = tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
    if not keys:
        raise UserError(f"{file} has no keys: write one on each line", EXIT_USAGE)
    return keys


def _listen(settings: Server) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        place = f"{settings.host}:{settings.port}"
        raise UserError(f"cannot listen on {place} ({error.strerror}): choose another --port or --host") from None
    listener.listen(128)
    return listener


def _run(options: argparse.Namespace, settings: Server, serving: Serving, listener: socket.socket) -> int:
    # Imported here: JAX takes seconds to import, and a wrong flag should be reported at once.
    import jax
    import uvicorn

    from codellama_jax.conversion.generation_model import open_model
    from codellama_jax.generation.engine import Engine
    from codellama_jax.serving.api import Api
    from codellama_jax.serving.app import application
    from codellama_jax.serving.service import Service

    if (programs := cache.directory("programs")) is not None:
        jax.config.update("jax_compilation_cache_dir", str(programs))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    model = open_model(options.checkpoint, options.tokenizer, options.dtype)
    serving = dataclasses.replace(serving, context=serving.context or model.context)
    engine = Engine(model.weights, model.llama, serving, model.tokenizer.rows)
    service = Service(model.tokenizer, engine, settings)
    api = Api(model, service, settings, options.name or options.checkpoint.name)
    service.start()
    host, port = listener.getsockname()[:2]
    print(f"{api.name} on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    config = uvicorn.Config(
        application(api),
        log_config=None,
        access_log=False,
        limit_concurrency=settings.connections,
        timeout_graceful_shutdown=round(settings.shutdown),
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])
    return EXIT_DONE if service.failure is None else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
