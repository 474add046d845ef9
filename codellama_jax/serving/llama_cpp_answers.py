"""Answers in the form of llama.cpp's server."""

import dataclasses
import re
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from codellama_jax.generation.logprobs import TokenLogprobs
from codellama_jax.generation.stopping import TokenTexts
from codellama_jax.serving import error_forms, http
from codellama_jax.serving.jobs import Choice, Delta, Running

_LINE = re.compile(r"\r?\n([ \t]*)(?=[^ \t])")  # a line end, and the indentation of the line that follows
_LINE_START = re.compile(r"(?:\r?\n[ \t]*|\r)\Z")  # a line end whose next line is not known yet


class Indentation:
    """Ends a text before the first line, after the one of the cursor, that is indented less than required.

    Args:
        least: number of blanks and tabs; 0: every line is accepted.

    Attributes:
        ended: whether there was such a line.
    """

    def __init__(self, least: int):
        self._least, self._text, self._shown, self._checked = least, "", 0, 0
        self.ended = False

    def add(self, text: str, last: bool) -> str:
        """Adds text; returns the text that may be shown now.

        Args:
            text: the next part.
            last: whether no text follows.
        """
        if self.ended or not self._least:
            return "" if self.ended else text
        self._text += text
        end = len(self._text)
        for line in _LINE.finditer(self._text, self._checked):
            if len(line[1]) < self._least:
                self.ended, end = True, line.start()
                break
            self._checked = line.end()
        if not self.ended and not last and (start := _LINE_START.search(self._text, self._checked)):
            end = start.start()
        shown, self._shown = self._text[self._shown : end], end
        return shown


@dataclasses.dataclass(frozen=True)
class Form:
    """What a request asked its answers to be, besides the settings of sampling.

    Attributes:
        model: the model's name.
        prompt: the prompt, which answers repeat.
        settings: the settings of generation, as answers report them.
        texts: the texts of tokens.
        indentation: least indentation of the lines after the first.
        return_tokens: whether answers have token ids.
        fields: paths of the fields of answers; none: all.
        slot: the slot that was asked for, which means nothing here.
    """

    model: str
    prompt: str
    settings: dict[str, Any]
    texts: TokenTexts
    indentation: int = 0
    return_tokens: bool = False
    fields: tuple[str, ...] = ()
    slot: int = -1


class Answer:
    """One answer while it is generated.

    Args:
        choice: the answer in the service.
        form: what the request asked for.
        truncated: whether the prompt was cut.
    """

    def __init__(self, choice: Choice, form: Form, truncated: bool):
        self._choice, self._form, self._truncated = choice, form, truncated
        self._indentation = Indentation(form.indentation)
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._text = ""
        self._stop: tuple[str, str] | None = None  # type and word

    @property
    def ended(self) -> bool:
        return self._stop is not None

    def add(self, delta: Delta) -> str:
        """Adds a delta; returns the text that is new."""
        if self.ended:
            return ""
        self._tokens += delta.tokens
        self._logprobs += delta.logprobs
        text = self._indentation.add(delta.text, delta.finish_reason is not None)
        self._text += text
        if self._indentation.ended:
            self._stop = ("limit", "")
        elif delta.finish_reason is not None:
            kind = ("word" if delta.stop is not None else "eos") if delta.finish_reason == "stop" else "limit"
            self._stop = (kind, delta.stop or "")
        return text

    def part(self, text: str, delta: Delta) -> dict[str, Any]:
        """One part of a stream."""
        part = {
            "index": self._choice.number,
            "content": text,
            "tokens": delta.tokens,
            "stop": False,
            "id_slot": self._form.slot,
            "tokens_predicted": len(self._tokens),
            "tokens_evaluated": len(self._choice.prompt.ids),
        }
        return part | self._probabilities(delta.logprobs)

    def whole(self, streamed: bool) -> dict[str, Any]:
        """The answer; after a stream, without its text. Only the fields that the request asked for."""
        kind, word = self._stop or ("none", "")
        evaluated = len(self._choice.prompt.ids)
        answer = {
            "index": self._choice.number,
            "content": "" if streamed else self._text,
            "tokens": self._tokens if self._form.return_tokens and not streamed else [],
            "id_slot": self._form.slot,
            "stop": True,
            "model": self._form.model,
            "tokens_predicted": len(self._tokens),
            "tokens_evaluated": evaluated,
            "generation_settings": self._form.settings,
            "prompt": self._form.prompt,
            "has_new_line": "\n" in self._text,
            "truncated": self._truncated,
            "stop_type": kind,
            "stopping_word": word,
            "tokens_cached": evaluated + len(self._tokens),
            "timings": timings(self._choice, len(self._tokens)),
        }
        answer |= {} if streamed else self._probabilities(self._logprobs)
        return selected(answer, self._form.fields) if self._form.fields else answer

    def _probabilities(self, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """The log-probabilities of tokens, if they were asked for."""
        if not logprobs:
            return {}
        top = [[self._probability(*pair) for pair in token.top] for token in logprobs]
        tokens = [self._probability(token.token, token.logprob) for token in logprobs]
        both = zip(tokens, top, strict=True)
        return {"completion_probabilities": [{**token, "top_logprobs": others} for token, others in both]}

    def _probability(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._form.texts(token)
        return {"id": token, "token": text.decode(errors="replace"), "bytes": list(text), "logprob": logprob}


def timings(choice: Choice, predicted: int) -> dict[str, Any]:
    """Counts and times, in milliseconds. The time of the prompt includes that of the first token."""
    request, now = choice.request, time.monotonic()
    started = choice.started or now
    first, ended = choice.first or now, choice.ended or now
    cached = request.cached if request is not None else 0
    return (
        {"cache_n": cached}
        | _rate("prompt", len(choice.prompt.ids) - cached, (first - started) * 1e3)
        | _rate("predicted", predicted, (ended - first) * 1e3)
    )


def _rate(name: str, count: int, milliseconds: float) -> dict[str, Any]:
    return {
        f"{name}_n": count,
        f"{name}_ms": round(milliseconds, 3),
        f"{name}_per_token_ms": round(milliseconds / count, 3) if count else 0.0,
        f"{name}_per_second": round(count / milliseconds * 1e3, 3) if milliseconds > 0 else 0.0,
    }


def selected(answer: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """The fields of an answer with these paths, such as "timings/prompt_n", as keys of one flat object.

    Paths of fields that do not exist are left out, so [""] gives an empty object.
    """
    flat: dict[str, Any] = {}
    for path in paths:
        value: Any = answer
        for key in path.split("/"):
            value = value.get(key, _MISSING) if isinstance(value, dict) else _MISSING
        if value is not _MISSING:
            flat[path] = value
    return flat


_MISSING = object()


async def finished(running: Running, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Waits for all answers. Cancels what is still generated once all have ended."""
    async for delta in running:
        answers[delta.choice].add(delta)
        if all(answer.ended for answer in answers):
            running.cancel()
            break
    return [answer.whole(streamed=False) for answer in answers]


async def events(running: Running, answers: Sequence[Answer]) -> AsyncGenerator[bytes, None]:
    """The answers as server-sent events: parts with text and ids, and at the end of each answer all other fields."""
    try:
        async for delta in running:
            answer = answers[delta.choice]
            if answer.ended:
                continue
            text = answer.add(delta)
            if text or (delta.tokens and not answer.ended):
                yield http.event(answer.part(text, delta))
            if answer.ended:
                yield http.event(answer.whole(streamed=True))
            if all(answer.ended for answer in answers):
                running.cancel()
                break
    except Exception as problem:
        yield http.event(error_forms.llama_cpp(http.api_error(problem)))
