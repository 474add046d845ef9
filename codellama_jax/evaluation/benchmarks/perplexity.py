"""Perplexity of code by the length of its context (arXiv 2308.12950, section 3.3), also with other RoPE settings."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codellama_jax.config.scored_benchmarks import Perplexity as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.packed_logprobs import unpacked
from codellama_jax.evaluation.problem import Problem, TokenScoring
from codellama_jax.evaluation.sample import Answer, Judgement, Sample
from codellama_jax.runtime import filesystem
from codellama_jax.sandbox.jobs import Outcome

OWN = "own"  # the variant with the model's own RoPE base and scale


class Perplexity(Benchmark[Settings]):
    """A task is a file, of which one pass gives the loss at every position: attention is causal.

    Tokens are counted into buckets by the number of tokens of the file before them. The scores "nats/END" and
    "tokens/END" of a file are sums over the bucket that ends before position END.
    """

    name = "perplexity"
    settings_class = Settings
    needs_tokenizer = True

    def problems(self, data: Path) -> list[Problem]:
        """The files in the order of the digests of their content, until they have Perplexity.tokens together."""
        if self.tokenizer is None:
            raise UserError("perplexity needs the model itself, --checkpoint=DIR; with --rescore, its --tokenizer=FILE")
        folder = data / self.settings.folder
        contents = _contents(folder, self.settings.smallest_file)
        chosen, left = list[tuple[str, str, int]](), self.settings.tokens
        for _, name, text in sorted(contents):
            if left <= 0:
                break
            tokens = min(len(self.tokenizer.encode(text)), self.settings.context, left)
            chosen.append((name, text, tokens))
            left -= tokens
        longest = max(tokens for _, _, tokens in chosen)
        variants: list[tuple[float, float] | None] = [(pair[0], pair[1]) for pair in self.settings.variants]
        return [
            Problem(name, TokenScoring(text, tokens, longest, rope), variant=_variant(rope))
            for rope in variants or [None]
            for name, text, tokens in chosen
        ]

    def completion(self, problem: Problem, raw: str) -> str:
        return ""

    def judged(self, problem: Problem, completion: str, outcome: Outcome | None, answer: Answer) -> Judgement:
        logprobs = unpacked(answer.text).tolist()
        width = -(-self.settings.context // self.settings.buckets)
        scores = {}
        for start in range(0, len(logprobs), width):
            part = logprobs[start : start + width]
            scores[f"nats/{start + width}"] = -math.fsum(part)
            scores[f"tokens/{start + width}"] = float(len(part))
        return Judgement(None, scores)

    def refused(self, problem: Problem, refusal: str) -> Judgement:
        return Judgement(None, reason=refusal)

    def variant_summary(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The perplexity of all tokens, and of those of each bucket, by the position at which the bucket ends."""
        nats, tokens = defaultdict[int, float](float), defaultdict[int, float](float)
        for sample in sorted(samples, key=lambda sample: sample.task_id):  # one order of the sums
            for score, value in sample.scores.items():
                kind, _, end = score.partition("/")
                (nats if kind == "nats" else tokens)[int(end)] += value
        ends = sorted(end for end, count in tokens.items() if count)
        counts = {"tasks": len({sample.task_id for sample in samples}), "samples": len(samples)}
        if not ends:
            return counts
        return {
            "perplexity": math.exp(math.fsum(nats.values()) / math.fsum(tokens.values())),
            "context_lengths": ends,
            "perplexity_by_context": [math.exp(nats[end] / tokens[end]) for end in ends],
            "tokens_by_context": [int(tokens[end]) for end in ends],
            **counts,
        }


def _variant(rope: tuple[float, float] | None) -> str:
    return OWN if rope is None else f"theta {rope[0]:g}, scale {rope[1]:g}"


def _contents(folder: Path, smallest: int) -> list[tuple[str, str, str]]:
    """(digest, path below the folder, text) of each file of UTF-8 text that is large enough; equal ones once."""
    if not filesystem.is_folder(folder):
        raise UserError(
            f"{folder} is missing: Perplexity.folder names a folder with source files, below --data or absolute"
        )
    found = dict[str, tuple[str, str]]()
    for place, subfolders, names in filesystem.walk(str(folder)):
        subfolders.sort()
        for name in sorted(names):
            path = Path(place) / name
            if filesystem.size(path) < smallest:
                continue
            content = filesystem.read_bytes(path)
            try:
                text = content.decode()
            except UnicodeDecodeError:
                continue  # a binary file
            if "\0" not in text:
                found.setdefault(hashlib.sha256(content).hexdigest(), (str(path.relative_to(folder)), text))
    if not found:
        raise UserError(
            f"{folder} has no text files of {smallest:,} bytes or more: set --gin.Perplexity.smallest_file=BYTES"
        )
    return [(digest, name, text) for digest, (name, text) in found.items()]
