"""One OpenAI-compatible endpoint: requests and answers over HTTP, with retries."""

import contextlib
import dataclasses
import json
import logging
import math
import threading
import time
from typing import Any

import requests
import urllib3

from codellama_jax.config.evaluation import Endpoints
from codellama_jax.errors import UserError, first_line
from codellama_jax.evaluation.client import Request
from codellama_jax.evaluation.problem import Chat, Completion, Infilling, Scoring, TokenScoring
from codellama_jax.evaluation.sample import Answer

logger = logging.getLogger(__name__)

OURS = "codellama_jax"  # who owns the models of this project's server
LONGEST_WAIT = 60.0  # seconds between two attempts
LISTING_SECONDS = 30.0  # for the list of models, which no server has to compute
MOST_BYTES = 2**26  # of an answer
WARNING_SECONDS = 30.0  # interval between two warnings about an endpoint
FEWEST_STOPS = 4  # the stop strings that every endpoint accepts
_REFUSALS = (400, 413, 422)  # of one request; other codes are about the endpoint


class EndpointFailed(Exception):
    """The endpoint does not answer any more. The message is one line."""


class _Retry(Exception):
    """A failure that may pass.

    Attributes:
        after: seconds that the endpoint asks to wait.
    """

    def __init__(self, message: str, after: float = 0.0):
        super().__init__(message)
        self.after = after


class _Refused(Exception):
    """The endpoint does not accept this request."""


class HttpEndpoint:
    """An endpoint. Its methods may be called by several threads.

    Args:
        url: with or without /v1 at its end.
        model: name of the model; None: the endpoint's first one.
        key: API key; "": none.
        settings: time-outs and retries.

    Attributes:
        url: ends in /v1.
        model: name of the model.
        ours: whether it is this project's server, which takes the order of infilling and exact prompts.

    Raises:
        UserError: the endpoint cannot be reached, or does not say which models it has.
    """

    def __init__(self, url: str, model: str | None, key: str, settings: Endpoints):
        self.url = url.rstrip("/") if url.rstrip("/").endswith("/v1") else url.rstrip("/") + "/v1"
        self._key, self._settings = key, settings
        self._local = threading.local()
        self._warned = -math.inf
        self._accepted = set[type]()  # the kinds of inputs of which one was accepted
        self._most_stops = 0  # 0: all
        models = self._models(named=model is not None)
        found = next((entry for entry in models if model in (None, entry.get("id"))), {})
        self.model = model or str(found.get("id"))
        if models and not found:
            names = ", ".join(str(entry["id"]) for entry in models[:3])
            logger.warning("warning: %s does not list the model %s; it has %s", self.url, model, names)
        self.ours = found.get("owned_by") == OURS

    def _models(self, named: bool) -> list[dict[str, Any]]:
        """The list of models; [] if the endpoint has none and the model is named."""
        never = threading.Event()
        try:
            data = self._with_retries(lambda: self._call("GET", "/models", None), never).get("data")
            if isinstance(data, list) and data and all(isinstance(entry, dict) and "id" in entry for entry in data):
                return data
            problem = "lists no models"
        except EndpointFailed as error:
            raise UserError(f"--endpoint: {error}") from None
        except _Refused as error:
            problem = str(error).removeprefix(f"{self.url} ")
        if named:
            return []
        raise UserError(f"--endpoint={self.url} {problem}: --model=NAME names the model")

    def answer(self, request: Request, stop: threading.Event) -> Answer:
        """Answers a request.

        Args:
            stop: when it is set, no further attempt is made.

        Raises:
            EndpointFailed: it does not, after all attempts.
        """
        kind = type(request.problem.input)
        try:
            answer = self._with_retries(lambda: self._ask(request), stop)
        except _Refused as error:
            if kind not in self._accepted:  # is it this prompt, or does the endpoint accept none of its kind?
                try:
                    self._with_retries(lambda: self._ask(_short(request)), stop)
                except _Refused:
                    raise EndpointFailed(str(error)) from None
            answer = Answer(finish_reason="refused", refusal=str(error))
        self._accepted.add(kind)
        return answer

    def _with_retries(self, attempt: Any, stop: threading.Event) -> Any:
        wait = self._settings.backoff
        for last in (number == self._settings.attempts for number in range(1, self._settings.attempts + 1)):
            try:
                return attempt()
            except _Retry as error:
                pause = min(max(wait, error.after), LONGEST_WAIT)
                if not last and time.monotonic() - self._warned > WARNING_SECONDS:
                    self._warned = time.monotonic()
                    logger.warning("warning: %s: tried again after %.3g s", error, pause)
                if last or stop.wait(pause):
                    tries = f"{self._settings.attempts} attempts" if last else "a stop"
                    raise EndpointFailed(f"{error} (after {tries})") from None
                wait *= 2
        raise AssertionError

    def _ask(self, request: Request) -> Answer:
        path, body = self._body(request)
        if self._most_stops:
            body["stop"] = body["stop"][: self._most_stops]
        try:
            found = self._call("POST", path, body)
        except _Refused as error:
            # The text is cut at all stop strings afterwards: an endpoint that takes fewer only generates more.
            if "stop" not in str(error) or len(body.get("stop", ())) <= FEWEST_STOPS:
                raise
            self._most_stops = FEWEST_STOPS
            return self._ask(request)
        try:
            choice = found["choices"][0]
            if isinstance(request.problem.input, Scoring):
                return _scored(choice["logprobs"], len(request.problem.input.context))
            text = choice["message"]["content"] if path.startswith("/chat") else choice["text"]
            if not isinstance(text, str):
                raise TypeError
            text = text.encode(errors="replace").decode()  # JSON can have halves of surrogate pairs
            return Answer(text, str(choice.get("finish_reason") or "stop"))
        except (KeyError, IndexError, TypeError, ValueError):
            raise _Retry(f"{self.url}{path} answered something else than a completion: {_shown(found)}") from None

    def _body(self, request: Request) -> tuple[str, dict[str, Any]]:
        """The path and the fields of a request."""
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
        }
        body |= {"top_p": sampling.top_p} if sampling.top_p < 1 else {}
        body |= {"stop": list(sampling.stop)} if sampling.stop else {}
        exact = {"token_healing": False} if self.ours else {}
        match request.problem.input:
            case Completion(text, last_tokens, long_context) if last_tokens is None or long_context is not None:
                return "/completions", body | exact | {"prompt": text}
            case Completion():
                raise UserError("the prompts are to be cut to a number of tokens, which needs --checkpoint")
            case Infilling(prefix, suffix, order):
                ordered = {"infill_order": order} if self.ours else {}
                return "/completions", body | exact | ordered | {"prompt": prefix, "suffix": suffix}
            case Chat(messages):
                return "/chat/completions", body | {"messages": list(messages)}
            case TokenScoring():
                raise UserError("a text is scored token by token, which needs --checkpoint")
            case Scoring(context, text):
                scoring = {"echo": True, "logprobs": 0, "max_tokens": 0}
                return "/completions", body | scoring | {"prompt": context + text}

    def _call(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """One request.

        Raises:
            _Retry, _Refused, EndpointFailed: see there.
        """
        url, seconds = self.url + path, self._settings.timeout
        if body is None:
            seconds = min(seconds, LISTING_SECONDS)
        deadline = time.monotonic() + seconds
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            with self._session().request(
                method, url, json=body, headers=headers, timeout=seconds, stream=True
            ) as response:
                content = _content(response, deadline)
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            raise _Retry(f"{url} did not answer within {seconds:g} s") from None
        except (requests.ConnectionError, urllib3.exceptions.ProtocolError) as error:
            raise _Retry(f"{url} cannot be reached: {_reason(error)}") from None
        except urllib3.exceptions.HTTPError as error:  # content that cannot be decompressed
            raise _Retry(f"{url} answered something that cannot be read: {first_line(error)}") from None
        except (requests.RequestException, ValueError) as error:  # such as a wrong URL, or a key that is not Latin-1
            raise EndpointFailed(f"{url}: {first_line(error)}") from None
        if response.status_code == 429 or (response.status_code >= 500 and response.status_code != 501):
            raise _Retry(f"{url} answered {response.status_code}: {_shown(content)}", _retry_after(response))
        if response.status_code in _REFUSALS or (body is None and response.status_code in (404, 405, 501)):
            raise _Refused(f"{url} answered {response.status_code}: {_shown(content)}")
        if response.status_code != 200:
            raise EndpointFailed(f"{url} answered {response.status_code}: {_shown(content)}")
        try:
            found = json.loads(content)
            if not isinstance(found, dict):
                raise ValueError
        except (ValueError, RecursionError):
            raise _Retry(f"{url} answered something else than a JSON object: {_shown(content)}") from None
        return found

    def _session(self) -> requests.Session:
        """The session of this thread."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session


def _content(response: requests.Response, deadline: float) -> bytes:
    """The content of a response, as it arrives: an endpoint may send a byte now and then, or never end."""
    content = bytearray()
    while part := response.raw.read1(65536, decode_content=True):
        content += part
        if time.monotonic() > deadline:
            raise requests.Timeout
        if len(content) > MOST_BYTES:
            raise EndpointFailed(f"{response.url} answered more than {MOST_BYTES:,} bytes")
    return bytes(content)


def _short(request: Request) -> Request:
    """The same request with a text that every context has room for."""
    match request.problem.input:
        case Completion() as asked:
            short: Any = dataclasses.replace(asked, text="a =")
        case Infilling() as asked:
            short = dataclasses.replace(asked, prefix="a =", suffix="\n")
        case Scoring() as asked:
            short = dataclasses.replace(asked, context="a =", text=" 1")
        case _:
            short = Chat(({"role": "user", "content": "Hello"},))
    sampling = dataclasses.replace(request.sampling, max_tokens=1)
    return dataclasses.replace(request, problem=dataclasses.replace(request.problem, input=short), sampling=sampling)


def _scored(logprobs: Any, characters: int) -> Answer:
    """The log-probabilities of the tokens after so many characters, of an answer that echoes its prompt."""
    pairs = zip(logprobs["text_offset"], logprobs["token_logprobs"], strict=True)
    values = tuple(float(value) for offset, value in pairs if offset >= characters and value is not None)
    if not all(map(math.isfinite, values)):
        raise ValueError
    return Answer(logprobs=values)


def _retry_after(response: requests.Response) -> float:
    with contextlib.suppress(ValueError):
        return float(response.headers.get("Retry-After", 0))
    return 0.0


def _shown(content: Any) -> str:
    """What an endpoint answered, for a message: its error message if it has one, shortened to one line."""
    if isinstance(content, bytes):
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(content)
    if isinstance(content, dict):
        error = content.get("error", content)
        content = error.get("message", error) if isinstance(error, dict) else error
    text = content.decode(errors="replace") if isinstance(content, bytes) else str(content)
    line = " ".join(text[:2000].split())[:200]
    return "".join(character if character.isprintable() else "\ufffd" for character in line) or "nothing"


def _reason(error: Exception) -> str:
    """The innermost reason of a connection error."""
    cause: BaseException = error
    while (inner := getattr(cause, "reason", None) or cause.__cause__ or cause.__context__) and inner is not cause:
        if not isinstance(inner, BaseException):
            break
        cause = inner
    return getattr(cause, "strerror", None) or first_line(cause)
