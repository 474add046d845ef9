"""One OpenAI-compatible endpoint: requests and answers over HTTP, with retries."""

import contextlib
import json
import math
import threading
import time
from typing import Any

import requests

from codellama_jax.config.evaluation import Endpoints
from codellama_jax.errors import UserError, first_line
from codellama_jax.evaluation.client import Request
from codellama_jax.evaluation.problem import Chat, Completion, Infilling, Scoring
from codellama_jax.evaluation.sample import Answer

OURS = "codellama_jax"  # who owns the models of this project's server
LONGEST_WAIT = 60.0  # seconds between two attempts
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
        self._answered = False
        self._most_stops = 0  # 0: all
        models = self._models(named=model is not None)
        found = next((entry for entry in models if model in (None, entry.get("id"))), {})
        self.model = model or str(found.get("id"))
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
            problem = str(error)
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
        try:
            answer = self._with_retries(lambda: self._ask(request), stop)
        except _Refused as error:
            if not self._answered:  # the endpoint, and not this prompt, is probably the problem
                raise EndpointFailed(str(error)) from None
            return Answer(finish_reason="refused", refusal=str(error))
        self._answered = True
        return answer

    def _with_retries(self, attempt: Any, stop: threading.Event) -> Any:
        wait = self._settings.backoff
        for last in (number == self._settings.attempts for number in range(1, self._settings.attempts + 1)):
            try:
                return attempt()
            except _Retry as error:
                if last or stop.wait(min(max(wait, error.after), LONGEST_WAIT)):
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
            case Completion(text, None):
                return "/completions", body | exact | {"prompt": text}
            case Completion():
                raise _Refused("the prompt is to be cut to a number of tokens, which needs --checkpoint")
            case Infilling(prefix, suffix, order):
                ordered = {"infill_order": order} if self.ours else {}
                return "/completions", body | exact | ordered | {"prompt": prefix, "suffix": suffix}
            case Chat(messages):
                return "/chat/completions", body | {"messages": list(messages)}
            case Scoring(context, text):
                scoring = {"echo": True, "logprobs": 0, "max_tokens": 0}
                return "/completions", body | scoring | {"prompt": context + text}

    def _call(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """One request.

        Raises:
            _Retry, _Refused, EndpointFailed: see there.
        """
        url, deadline = self.url + path, time.monotonic() + self._settings.timeout
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            with self._session().request(
                method, url, json=body, headers=headers, timeout=self._settings.timeout, stream=True
            ) as response:
                content = b""
                for part in response.iter_content(65536):
                    content += part
                    if time.monotonic() > deadline:
                        raise requests.Timeout
        except requests.Timeout:
            raise _Retry(f"{url} did not answer within {self._settings.timeout:g} s") from None
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            raise _Retry(f"{url} cannot be reached: {_reason(error)}") from None
        except requests.RequestException as error:  # such as a wrong URL
            raise EndpointFailed(f"{url}: {first_line(error)}") from None
        if response.status_code == 429 or response.status_code >= 500:
            raise _Retry(f"{url} answered {response.status_code}: {_shown(content)}", _retry_after(response))
        if response.status_code in _REFUSALS:
            raise _Refused(f"{url} answered {response.status_code}: {_shown(content)}")
        if response.status_code != 200:
            raise EndpointFailed(f"{url} answered {response.status_code}: {_shown(content)}")
        try:
            found = json.loads(content)
            if not isinstance(found, dict):
                raise ValueError
        except ValueError:
            raise _Retry(f"{url} answered something else than a JSON object: {_shown(content)}") from None
        return found

    def _session(self) -> requests.Session:
        """The session of this thread."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session


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
        with contextlib.suppress(ValueError):
            content = json.loads(content)
    if isinstance(content, dict):
        error = content.get("error", content)
        content = error.get("message", error) if isinstance(error, dict) else error
    text = content.decode(errors="replace") if isinstance(content, bytes) else str(content)
    return " ".join(text.split())[:200] or "nothing"


def _reason(error: Exception) -> str:
    """The innermost reason of a connection error."""
    cause: BaseException = error
    while (inner := getattr(cause, "reason", None) or cause.__cause__ or cause.__context__) and inner is not cause:
        if not isinstance(inner, BaseException):
            break
        cause = inner
    return getattr(cause, "strerror", None) or first_line(cause)
