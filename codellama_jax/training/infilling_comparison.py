"""Held-out infilling of a stage: the loss of every evaluation, and the comparison of the model before and after.

STAGE/infilling/before.jsonl, after.jsonl    bits and generated text of each hole
STAGE/infilling.json                         the comparison, for the report
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from codellama_jax.config.model import Llama
from codellama_jax.config.training import Evaluation, Stage
from codellama_jax.errors import UserError
from codellama_jax.evaluation.before_after import Filled, changes, summary
from codellama_jax.evaluation.gold import GoldText
from codellama_jax.runtime import distributed, filesystem
from codellama_jax.tokenizer import Tokenizer
from codellama_jax.training.bits_per_byte import BitsPerByte
from codellama_jax.training.infilling_cases import HELD_OUT, KINDS, Case, encoded
from codellama_jax.training.infilling_samples import answers, make_engine
from codellama_jax.training.step import Params

FOLDER, RESULT = "infilling", "infilling.json"
BEFORE, AFTER = "before", "after"
SLOTS = 16  # holes that are filled at a time
STORED_AFTER = 64  # holes that are filled before their texts are stored
SHOWN = 6  # holes whose texts the report shows


class InfillingComparison:
    """Measures how a model fills holes.

    Args:
        llama: the model.
        mesh: mesh of its parameters.
        stage: the stage, whose windows and micro-batches bound the batches.
        tokenizer: the run's tokenizer.
        settings: infilling_context and infilling_tokens.
        cases: the holes.
        stage_dir: the stage's folder.
        writes: whether this process writes files.
        log: called with messages for the user.
        on_answers: called after every few holes: the stage makes progress.

    Attributes:
        cases: the holes.

    Raises:
        UserError: the tokenizer has no infilling ids, or there is no hole in held-out files.
    """

    def __init__(
        self,
        llama: Llama,
        mesh: Mesh,
        stage: Stage,
        tokenizer: Tokenizer,
        settings: Evaluation,
        cases: Sequence[Case],
        stage_dir: Path,
        writes: bool,
        log: Callable[[str], None],
        on_answers: Callable[[], None],
    ):
        self._llama, self._mesh, self._tokenizer, self._settings = llama, mesh, tokenizer, settings
        self._stage_dir, self._writes, self._log, self.cases = stage_dir, writes, log, cases
        self._on_answers = on_answers
        if not tokenizer.infilling:
            raise UserError(
                "Evaluation.infilling_cases needs infilling ids: bind INFILLING=True, or --gin.Evaluation.infilling_"
                "cases=0"
            )
        length = min(settings.infilling_context, stage.sequence_length)
        self._texts = encoded(cases, tokenizer, length)
        held_out = [text for text, case in zip(self._texts, cases, strict=True) if case.corpus == HELD_OUT]
        if not held_out:
            raise UserError(
                "the held-out files have no line to fill in: name a folder with more code, or --gin.Evaluation."
                "infilling_cases=0"
            )
        others = [text for text, case in zip(self._texts, cases, strict=True) if case.corpus != HELD_OUT]
        self._held_out = BitsPerByte(llama, mesh, stage, held_out)
        self._others = BitsPerByte(llama, mesh, stage, others) if others else None

    def evaluation(self, params: Params, step: int) -> dict[str, Any]:
        """The line of evaluations.jsonl: bits per byte of the holes in held-out files, and of each kind of them.

        Every process of the mesh must call it, and the methods below.
        """
        bits = self._bits(self._held_out, params)
        result: dict[str, Any] = {"kind": "infilling", "step": step, "loss": self._per_byte(bits, list(bits))}
        for kind in KINDS:
            if of_kind := [index for index in bits if self.cases[index].kind == kind]:
                result[f"bits_per_byte/{kind}s"] = self._per_byte(bits, of_kind)
        return result

    def measure(self, when: str, params: Params, model: str) -> None:
        """Stores the bits and the generated text of each hole. An interrupted measurement resumes.

        Args:
            when: BEFORE or AFTER.
            params: the parameters.
            model: identifies them; stored results of another model are measured again.
        """
        path, fingerprint = self._path(when), self._fingerprint(model)
        done = self._read(when, fingerprint) if self._writes else []
        count = int(distributed.from_host_0(np.asarray(len(done))))
        if count == len(self.cases):
            return
        self._log(f"filling {len(self.cases):,} holes {when} the stage")
        if self._writes and not done:
            path.parent.mkdir(parents=True, exist_ok=True)
            filesystem.write_atomically(path, json.dumps({"fingerprint": fingerprint}) + "\n")
        bits = self._bits(self._held_out, params)
        if self._others:
            bits |= self._bits(self._others, params)
        tokens, stop = self._settings.infilling_tokens, self._tokenizer.eot_id
        assert stop is not None
        context = max(len(text.prompt) for text in self._texts) + tokens
        engine = make_engine(self._llama, self._mesh, params, context, min(SLOTS, len(self.cases)))
        for start in range(count, len(self.cases), STORED_AFTER):
            prompts = [text.prompt for text in self._texts[start : start + STORED_AFTER]]
            generated = answers(engine, prompts, tokens, stop)
            done += [
                {"bits": bits[start + index], "generated": self._tokenizer.decode_continuation(ids)}
                for index, ids in enumerate(generated)
            ]
            self._on_answers()
            if self._writes:
                lines = [{"fingerprint": fingerprint}, *done]
                filesystem.write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))

    def compare(self, before: str, after: str) -> list[str]:
        """Writes infilling.json, and returns lines with its conclusion; on the process that writes.

        Args:
            before, after: what `measure` was called with.
        """
        first, second = self._read(BEFORE, self._fingerprint(before)), self._read(AFTER, self._fingerprint(after))
        if len(first) < len(self.cases) or len(second) < len(self.cases):
            return [f"no comparison: {self._path(BEFORE)} is missing, or belongs to another stage"]
        filled = [
            Filled(
                *(case.corpus, case.kind, case.path, case.middle),
                generated=(a["generated"], b["generated"]),
                bits=(a["bits"], b["bits"]),
            )
            for case, a, b in zip(self.cases, first, second, strict=True)
        ]
        found = changes(filled)
        samples = [
            dataclasses.asdict(case) | {"before": hole.generated[0], "after": hole.generated[1]}
            for case, hole in zip(self.cases, filled, strict=True)
            if case.corpus == HELD_OUT and hole.generated[0] != hole.generated[1]
        ]
        result = {
            "changes": [change.json() for change in found],
            "samples": [_shortened(sample) for sample in samples[:SHOWN]],
        }
        filesystem.write_atomically(self._stage_dir / RESULT, json.dumps(result, indent=1))
        return summary(found)

    def _bits(self, texts: BitsPerByte, params: Params) -> dict[int, float]:
        """Index of a case -> bits of its middle."""
        measured = texts.measure(params)
        prefix = "bits_per_byte/"
        return {
            int(name.removeprefix(prefix)): value * self._texts[int(name.removeprefix(prefix))].nbytes
            for name, value in measured.items()
            if name.startswith(prefix)
        }

    def _per_byte(self, bits: dict[int, float], indices: Sequence[int]) -> float:
        return math.fsum(bits[index] for index in indices) / sum(self._texts[index].nbytes for index in indices)

    def _path(self, when: str) -> Path:
        return self._stage_dir / FOLDER / f"{when}.jsonl"

    def _read(self, when: str, fingerprint: str) -> list[dict[str, Any]]:
        """The stored results of the first cases; [] if there are none, or if they are of other cases or models."""
        path = self._path(when)
        if not path.exists():
            return []
        lines = [json.loads(line) for line in filesystem.read_text(path).splitlines()]
        return lines[1:] if lines and lines[0].get("fingerprint") == fingerprint else []

    def _fingerprint(self, model: str) -> str:
        """Hash of the cases as token ids, the settings and the model."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((model, self._settings.infilling_tokens, self._tokenizer.fingerprint)).encode())
        for text in self._texts:
            digest.update(_identity(text))
        return digest.hexdigest()


def _identity(text: GoldText) -> bytes:
    return repr((list(map(int, text.prompt)), list(map(int, text.gold)))).encode()


def _shortened(sample: dict[str, Any]) -> dict[str, Any]:
    return sample | {"prefix": sample["prefix"][-1200:], "suffix": sample["suffix"][:800]}
