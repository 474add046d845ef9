"""A model on this machine: the engine's running batch, whose slots are kept full."""

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np

from codellama_jax.errors import UserError
from codellama_jax.evaluation.client import Client, Request
from codellama_jax.evaluation.clients.request_reader import RequestReader
from codellama_jax.evaluation.packed_logprobs import packed
from codellama_jax.evaluation.problem import Chat, Completion, Infilling, Scoring, TokenScoring
from codellama_jax.evaluation.sample import Answer
from codellama_jax.evaluation.text_scoring import TextScorer
from codellama_jax.generation import engine as engines
from codellama_jax.generation import forward, prompts
from codellama_jax.generation.engine import Engine
from codellama_jax.generation.prompts import Prompt
from codellama_jax.generation.stopping import TextStream, TokenTexts
from codellama_jax.tokenizer import Tokenizer


class LocalModel(Client):
    """Answers with an engine that nothing else uses.

    Args:
        engine: of the model.
        tokenizer: of the model.
        name: of the model.
        weights: of the model.
        dialogue_format: returns the format of dialogues; raises UserError if the model has none.
        trained_context: the longest window of its training, in tokens; None: the engine's context.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        name: str,
        weights: forward.Weights,
        dialogue_format: Callable[[], str],
        trained_context: int | None = None,
    ):
        self.name = name
        self.tokenizer = tokenizer
        llama, serving = engine.llama, engine.serving
        self.identity = {
            "model": name,
            "weights": weights_digest(weights),
            "tokenizer": hashlib.sha256(tokenizer.model).hexdigest()[:16],
            "dtype": llama.compute_dtype,
            "cache_dtype": serving.cache_dtype or llama.compute_dtype,
            "context": str(serving.context),
        }
        self._trained_context = trained_context or serving.context
        self._weights = weights
        self._scorer: TextScorer | None = None
        self._engine, self._texts, self._dialogue_format = engine, TokenTexts(tokenizer), dialogue_format

    def answers(self, requests: Iterator[Request], stop: threading.Event) -> Iterator[tuple[Request, Answer]]:
        running = dict[engines.Request, _Running]()
        arrival = threading.Condition()
        reader = RequestReader(requests, arrival, self._engine.serving.slots)
        try:
            while not stop.is_set():
                while len(running) < self._engine.serving.slots and not stop.is_set():
                    with arrival:
                        request = reader.take()
                        if request is None and not running and not reader.exhausted:
                            arrival.wait(0.2)
                            continue
                    if request is None:
                        break
                    if isinstance(request.problem.input, TokenScoring):
                        if (scores := self._token_scores(request.problem.input, stop)) is not None:
                            yield request, Answer(scores)
                        continue
                    self._check_kind(request)
                    try:
                        new = self._started(request)
                    except UserError as error:
                        yield request, Answer(finish_reason="refused", refusal=str(error))
                        continue
                    running[new.request] = new
                if not running:
                    return
                for changed in self._engine.step():
                    answer = running[changed].read(self._engine)
                    if answer is not None:
                        yield running.pop(changed).asked, answer
        finally:
            reader.close()
            for unfinished in running:
                self._engine.finish(unfinished)

    def _check_kind(self, request: Request) -> None:
        """Raises UserError if this model can answer no request of this kind: that is not a wrong answer."""
        if isinstance(request.problem.input, Infilling):
            try:
                self.tokenizer.infilling_prompt("", "", request.problem.input.order)
            except UserError:
                raise UserError(
                    "the benchmark asks for infilling, and the tokenizer has no infilling ids (34B and Python models"
                    " were trained without): leave the benchmark out, or choose another checkpoint"
                ) from None
        elif isinstance(request.problem.input, Chat):
            self._dialogue_format()

    def _token_scores(self, asked: TokenScoring, stop: threading.Event) -> str | None:
        """The packed log-probabilities of the tokens of a text; None: stopped."""
        if self._scorer is None or self._scorer.length <= asked.longest:
            engine = self._engine
            arguments = self._weights, engine.llama, engine.vocabulary, asked.longest + 1, engine.mesh
            self._scorer = TextScorer(*arguments)
        tokens = self.tokenizer.encode(asked.text)[: asked.tokens].tolist()
        ids = [*self.tokenizer.prompt_ids(""), *tokens]
        found = self._scorer.logprobs(ids, asked.rope, stop.is_set)
        return None if found is None else packed(found)

    def _started(self, asked: Request) -> "_Running":
        prompt, scored = self._prompt(asked)
        sampling = asked.sampling
        if scored:
            sampling = dataclasses.replace(sampling, max_tokens=0, min_tokens=0, prompt_logprobs=True)
        request = self._engine.submit(prompt.ids, sampling, prompt.stop_ids, prompt.allowed)
        return _Running(asked, request, prompts.text_stream(prompt, self._texts, sampling.stop), scored)

    def _prompt(self, asked: Request) -> tuple[Prompt, int]:
        """The prompt, and the number of tokens at its end whose log-probabilities are asked for."""
        tokenizer = self.tokenizer
        match asked.problem.input:
            case Completion(text, last_tokens, long_context):
                if last_tokens is not None and long_context is not None:
                    room = max(self._engine.serving.context - asked.sampling.max_tokens - 1, 1)
                    last_tokens = None if self._trained_context >= long_context else min(last_tokens, room)
                ids = tokenizer.encode(text).tolist()
                ids = ids if last_tokens is None else ids[-last_tokens:]
                return prompts.of_ids(tokenizer, [*tokenizer.start_ids, *ids] or [tokenizer.eos_id]), 0
            case Infilling(prefix, suffix, order):
                return prompts.infill(tokenizer, self._texts, prefix, suffix, order, healing=False), 0
            case Chat(messages):
                room = prompts.chat_room(self._engine.serving.context, asked.sampling.max_tokens)
                prompt, left_out = prompts.chat(tokenizer, messages, self._dialogue_format(), room)
                if left_out:
                    raise UserError(f"the dialogue does not fit {room:,} tokens: use a larger context")
                return prompt, 0
            case Scoring(context, text):
                before = tokenizer.encode(context).tolist() if context else []
                ids = (tokenizer.encode_continuation(text) if context else tokenizer.encode(text)).tolist()
                start = tokenizer.start_ids if before else tokenizer.prompt_ids("")
                return Prompt([*start, *before, *ids], ()), len(ids)
            case TokenScoring():
                raise AssertionError("_token_scores answers it")


class _Running:
    """A request that is being answered."""

    def __init__(self, asked: Request, request: engines.Request, stream: TextStream, scored: int):
        self.asked, self.request = asked, request
        self._stream, self._scored, self._read = stream, scored, 0

    def read(self, engine: Engine) -> Answer | None:
        """Reads new tokens; returns the answer when it has ended."""
        self._stream.add(self.request.tokens[self._read :])
        self._read = len(self.request.tokens)
        if self._stream.stopped is not None:
            engine.finish(self.request)
        if not self.request.finished:
            return None
        self._stream.finish()
        if self._scored:
            entries = self.request.prompt_logprobs[-self._scored :]
            return Answer(logprobs=tuple(entry.logprob for entry in entries if entry is not None))
        return Answer(self._stream.text, str(self.request.finish_reason))


def weights_digest(weights: forward.Weights) -> str:
    """A digest of the weights of the norms, which every step of training changes: it identifies a checkpoint."""
    digest = hashlib.sha256()
    for path, array in jax.tree_util.tree_leaves_with_path(weights):
        if "norm" in (name := jax.tree_util.keystr(path)):
            digest.update(name.encode() + np.asarray(array, np.float32).tobytes())
    return digest.hexdigest()[:16]
