"""Tabby's API: /v1/completions with segments, /v1/health and /v1/events.

Answers end as Tabby's do: at an empty line, and at a line that starts with a comment or a keyword of the top level.
"""

import os
import platform
import secrets

import jax
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama_jax.config.generation import Sampling
from codellama_jax.serving import error_forms, http, raw_prompts
from codellama_jax.serving.api import Api
from codellama_jax.serving.http import ApiError, Fields
from codellama_jax.serving.jobs import Job
from codellama_jax.serving.lenient_fields import LenientFields

_TOKENS = 64  # Tabby's default
_TEMPERATURE = 0.1  # Tabby's default
_SNIPPET_CHARACTERS = 768  # of all snippets together, as in Tabby

_HASH = ("python", "ruby", "shellscript", "perl", "r", "yaml", "toml", "dockerfile", "makefile", "elixir", "julia")
_SLASHES: tuple[str, ...] = (
    "c",
    "cpp",
    "csharp",
    "dart",
    "go",
    "java",
    "javascript",
    "javascriptreact",
    "kotlin",
    "objective-c",
)
_SLASHES += ("php", "rust", "scala", "swift", "typescript", "typescriptreact", "zig")
_DASHES = ("lua", "haskell", "sql", "elm", "ada")
LINE_COMMENTS = {name: "#" for name in _HASH} | {name: "//" for name in _SLASHES} | {name: "--" for name in _DASHES}

# Words with which a line of the top level starts; at the start of a line they end an answer.
_SCRIPT = ("function", "class", "export", "import", "interface", "type", "enum")
TOP_LEVEL: dict[str, tuple[str, ...]] = {
    "python": ("def", "class", "from", "import", "async def", "@"),
    "go": ("func", "type", "import", "package"),
    "rust": ("fn", "pub", "impl", "trait", "enum", "struct", "use", "mod"),
    "java": ("public", "private", "class", "import", "package", "interface"),
    "ruby": ("def", "class", "module"),
    "javascript": _SCRIPT,
    "javascriptreact": _SCRIPT,
    "typescript": _SCRIPT,
    "typescriptreact": _SCRIPT,
}


def routes(api: Api) -> list[Route]:
    @http.endpoint(error_forms.tabby)
    async def health(request: Request) -> Response:
        if api.service.failure is not None or not api.service.ready:
            raise ApiError(503, "the engine has ended" if api.service.failure is not None else "Loading model")
        return http.json_response(
            {
                "status": "ok",
                "model": api.name,
                "chat_model": None,
                "device": jax.default_backend(),
                "arch": platform.machine(),
                "cpu_info": platform.processor() or platform.machine(),
                "cpu_count": os.cpu_count() or 1,
                "cuda_devices": [],
                "version": {"build_date": "", "build_timestamp": "", "git_sha": "", "git_describe": "codellama_jax"},
            }
        )

    @http.endpoint(error_forms.tabby)
    async def events(request: Request) -> Response:
        """What a user accepted. It is not stored."""
        return Response()

    @http.endpoint(error_forms.tabby)
    async def settings(request: Request) -> Response:
        return http.json_response({"disable_client_side_telemetry": True})

    return [
        Route("/v1/health", health, methods=["GET", "POST"]),
        Route("/v1/events", events, methods=["POST"]),
        Route("/v1beta/server_setting", settings),
    ]


async def completions(api: Api, request: Request, strict: Fields) -> Response:
    """Answers a request with segments."""

    @http.endpoint(error_forms.tabby)
    async def answer(request: Request) -> Response:
        return await _completions(api, request, LenientFields.of(strict))

    return await answer(request)


async def _completions(api: Api, request: Request, fields: LenientFields) -> Response:
    language = fields.text("language", "unknown")
    segments = fields.object("segments")
    prefix, suffix = segments.text("prefix"), segments.text("suffix", "")
    snippets = _snippets(segments)
    segments.finish(("filepath", "git_url", "clipboard", "edit_history"))
    fields.refuse("mode", "only the mode standard is", ("standard",))
    options = fields.object("debug_options")
    options.refuse("raw_prompt", "send prompt instead of segments")
    options.finish(("return_snippets", "return_prompt", "disable_retrieval_augmented_code_completion"))
    sampling = Sampling(
        max_tokens=_TOKENS,
        temperature=fields.number("temperature", _TEMPERATURE, 0),
        seed=fields.integer("seed", secrets.randbits(63), 0, 2**64 - 1),
        stop=stop_strings(language),
    )
    fields.finish(("user",))
    # An empty text after the cursor means the end of a line.
    fitted = await raw_prompts.hole(api, commented(language, snippets) + prefix, suffix or "\n", _TOKENS)
    running = api.submit(request, Job((fitted.prompt,), sampling))
    answers = await http.until_disconnect(request, running.finish())
    choices = [{"index": answer.choice, "text": answer.text} for answer in answers]
    return http.json_response({"id": f"cmpl-{secrets.token_hex(12)}", "choices": choices})


def stop_strings(language: str) -> tuple[str, ...]:
    """The strings that end an answer in a language (an identifier of VS Code)."""
    comment = LINE_COMMENTS.get(language)
    starts = [comment] if comment else []
    return ("\n\n", *(f"\n{word}" for word in [*starts, *TOP_LEVEL.get(language, ())]))


def commented(language: str, snippets: list[tuple[str, str]]) -> str:
    """Snippets of other files, paths and texts, as comments before the text. A language without line comments: none."""
    comment = LINE_COMMENTS.get(language)
    if comment is None or not snippets:
        return ""
    blocks = ["\n".join([f"Path: {path}", *text.splitlines()]) for path, text in snippets]
    lines = "\n\n".join(blocks).split("\n")
    return "".join(f"{comment} {line}\n" if line else f"{comment}\n" for line in lines)


def _snippets(segments: Fields) -> list[tuple[str, str]]:
    """Paths and texts: declarations first, then what was changed, then what was opened, as long as there is room."""
    names = ("declarations", "relevant_snippets_from_changed_files", "relevant_snippets_from_recently_opened_files")
    kept, characters = [], 0
    for name in names:
        values = segments.raw(name, [])
        if not isinstance(values, list):
            raise ApiError(400, f"{name} must be a list", name)
        for value in values:
            path = value.get("filepath") if isinstance(value, dict) else None
            text = value.get("body") if isinstance(value, dict) else None
            if not isinstance(path, str) or not isinstance(text, str):
                raise ApiError(400, f"an element of {name} has no filepath and body", name)
            if characters + len(text) > _SNIPPET_CHARACTERS:
                break
            characters += len(text)
            kept.append((path, text))
    return kept
