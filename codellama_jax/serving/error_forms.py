"""Errors in each protocol's own form. What is refused before its request is read has the form of its path."""

from typing import Any

from codellama_jax.serving.http import ApiError, ErrorForm, error_form

_LLAMA_CPP_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
_LLAMA_CPP_KINDS |= {501: "not_supported_error", 429: "rate_limit_error", 500: "server_error", 503: "unavailable_error"}
_LLAMA_CPP_PATHS = ("/infill", "/completion", "/completions", "/tokenize", "/detokenize", "/props", "/slots", "/health")


def mistral(problem: ApiError) -> dict[str, Any]:
    kind = "invalid_request_error" if problem.status < 500 else "server_error"
    fields = {"param": problem.parameter, "code": str(problem.status)}
    return {"object": "error", "message": problem.message, "type": kind, **fields}


def llama_cpp(problem: ApiError) -> dict[str, Any]:
    kind = _LLAMA_CPP_KINDS.get(problem.status, "invalid_request_error")
    return {"error": {"code": problem.status, "message": problem.message, "type": kind}}


def ollama(problem: ApiError) -> dict[str, Any]:
    return {"error": problem.message}


def tabby(problem: ApiError) -> dict[str, Any]:
    return {"error": {"message": problem.message, "code": problem.status}}


def of_path(path: str) -> ErrorForm:
    """The form of errors at a path; that of OpenAI's API where no other protocol is known."""
    if path.startswith("/api/"):
        return ollama
    if path == "/v1/fim/completions":
        return mistral
    return llama_cpp if path in _LLAMA_CPP_PATHS else error_form
