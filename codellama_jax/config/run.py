"""The configuration of a run as one value, and its text form."""

import dataclasses
import typing
from typing import Any

from codellama_jax.config.curation import Build, Decontamination, Quality
from codellama_jax.config.data import (
    FIELDS,
    HASH,
    LAST_TURNS,
    Chat,
    Corpus,
    DataLoader,
    Filters,
    Fim,
    Mixture,
    Packing,
    Tokenizer,
)
from codellama_jax.config.evaluation import MBPP, Endpoints, HumanEval, HumanEvalInfilling, SantaCoderFim
from codellama_jax.config.exercise_benchmarks import Exercises, ExercisesInfilling, ExercisesKeys
from codellama_jax.config.language_benchmarks import APPS, HumanEvalX, MultiPLE
from codellama_jax.config.lora import OFF, Lora
from codellama_jax.config.model import Llama
from codellama_jax.config.rope import SCALING
from codellama_jax.config.scored_benchmarks import (
    SCORED,
    Bold,
    Docstring,
    Gsm8k,
    KeyRetrieval,
    Lcc,
    Perplexity,
    ToxiGen,
    TruthfulQa,
)
from codellama_jax.config.self_instruct import SelfInstruct
from codellama_jax.config.training import AdamW, Checkpoints, Evaluation, LossSpikes, Mesh, Monitoring, Stage

UNRESOLVED: Any = None


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a run. A part that was not requested is UNRESOLVED (None); adapters are off.

    Attributes:
        imports: modules to import before the data is opened, such as those that register custom SeqIO tasks.
    """

    stage: Stage = UNRESOLVED
    llama: Llama = UNRESOLVED
    adamw: AdamW = UNRESOLVED
    lora: Lora = OFF
    mesh: Mesh = UNRESOLVED
    mixture: Mixture = UNRESOLVED
    corpus: Corpus = UNRESOLVED
    filters: Filters = UNRESOLVED
    tokenizer: Tokenizer = UNRESOLVED
    fim: Fim = UNRESOLVED
    packing: Packing = UNRESOLVED
    data_loader: DataLoader = UNRESOLVED
    chat: Chat = UNRESOLVED
    evaluation: Evaluation = UNRESOLVED
    checkpoints: Checkpoints = UNRESOLVED
    loss_spikes: LossSpikes = UNRESOLVED
    monitoring: Monitoring = UNRESOLVED
    build: Build = UNRESOLVED
    quality: Quality = UNRESOLVED
    decontamination: Decontamination = UNRESOLVED
    self_instruct: SelfInstruct = UNRESOLVED
    endpoints: Endpoints = UNRESOLVED
    humaneval: HumanEval = UNRESOLVED
    mbpp: MBPP = UNRESOLVED
    humaneval_infilling: HumanEvalInfilling = UNRESOLVED
    santacoder_fim: SantaCoderFim = UNRESOLVED
    docstring: Docstring = UNRESOLVED
    lcc: Lcc = UNRESOLVED
    key_retrieval: KeyRetrieval = UNRESOLVED
    perplexity: Perplexity = UNRESOLVED
    gsm8k: Gsm8k = UNRESOLVED
    truthfulqa: TruthfulQa = UNRESOLVED
    toxigen: ToxiGen = UNRESOLVED
    bold: Bold = UNRESOLVED
    multipl_e: MultiPLE = UNRESOLVED
    humaneval_x: HumanEvalX = UNRESOLVED
    apps: APPS = UNRESOLVED
    exercises: Exercises = UNRESOLVED
    exercises_infilling: ExercisesInfilling = UNRESOLVED
    exercises_keys: ExercisesKeys = UNRESOLVED
    imports: tuple[str, ...] = ()


# Attribute of Config -> its class.
PARTS: dict[str, type] = {name: kind for name, kind in typing.get_type_hints(Config).items() if name != "imports"}
# settings of tasks.build and tasks.self_instruct, not of a training run
CURATION_PARTS = (Build, Quality, Decontamination, SelfInstruct)
BENCHMARK_PARTS = (
    Endpoints,
    HumanEval,
    MBPP,
    HumanEvalInfilling,
    SantaCoderFim,
    *SCORED,
    MultiPLE,
    HumanEvalX,
    APPS,
    *(Exercises, ExercisesInfilling, ExercisesKeys),
)  # settings of evaluate, not of a training run
SETTINGS = {f"{kind.__name__}.{field.name}" for kind in PARTS.values() for field in dataclasses.fields(kind)}

# Setting -> its default, without the settings that are required.
DEFAULTS: dict[str, Any] = {
    f"{kind.__name__}.{field.name}": field.default_factory() if callable(field.default_factory) else field.default
    for kind in PARTS.values()
    for field in dataclasses.fields(kind)
    if callable(field.default_factory) or field.default is not dataclasses.MISSING
}

# Prefixes of the settings that do not change the result: two configurations that differ only in these describe the same
# run.
RESULT_NEUTRAL = (
    # when to save and to validate
    *("Checkpoints.every", "Checkpoints.keep", "Checkpoints.grace_seconds", "Evaluation.every", "Evaluation.sample"),
    # what is measured of the parameters
    *("Evaluation.infilling_tokens", "Evaluation.general_corpus"),
    *("Evaluation.benchmark", "Evaluation.final_benchmarks", *(f"{kind.__name__}." for kind in BENCHMARK_PARTS)),
    "Checkpoints.allowed_changes",  # compared only when a stage starts
    *("Mesh.", "Corpus.on_damage", "LossSpikes.", "Monitoring."),
    "Corpus.splits",  # a change of the documents changes the data's fingerprint, which a checkpoint contains
    # other ways to compute the same result: last digits may change
    *("Stage.micro_batches", "Llama.remat", "Llama.offload", "Llama.ffn_parts", "Llama.unroll", "Llama.attention"),
    *("Llama.gathered_heads", "Llama.splash_block", "Llama.loss_chunk"),
)

# Settings of earlier versions -> their current names, so that saved configurations can still be read.
RENAMED_CLASSES = {"Stream": "DataLoader", "BadSteps": "LossSpikes", "Evidence": "Decontamination"}
RENAMED_SETTINGS = {
    "DataLoader.lanes": "DataLoader.readers",
    "LossSpikes.in_a_row": "LossSpikes.max_consecutive_skips",
    "LossSpikes.spike": "LossSpikes.threshold",
    "LossSpikes.spike_window": "LossSpikes.window",
    "LossSpikes.rollbacks": "LossSpikes.max_rollbacks",
}
# The settings of Llama that earlier versions did not have -> the values of their models.
LLAMA_ADDED: dict[str, Any] = {
    field.name: field.default
    for field in dataclasses.fields(Llama)
    if field.name in ("head_width", "qkv_bias", "tied", *SCALING)
}
# Settings that earlier versions did not have -> the value that reproduces the behaviour of those versions.
# Packing.long_dialogues changes only the batches of dialogues, which the loader's fingerprint covers.
ADDED_SETTINGS: dict[str, Any] = {
    "Mixture.seqio": None,
    **dict.fromkeys((f"Corpus.{name}_field" for name in FIELDS), None),
    "Corpus.dialogue_fields": None,
    "Checkpoints.allowed_changes": (),
    "Corpus.metadata_line": True,  # the data's fingerprint tells whether the documents are those of that version
    "Llama.padding_rows": 0,
    **{f"Llama.{name}": value for name, value in LLAMA_ADDED.items()},
    "Packing.long_dialogues": LAST_TURNS,
    "Corpus.key_characters": 700,
    "Corpus.held_out": HASH,
    "Corpus.neighbour_bytes": 0,
    "Corpus.ignored_by_git": True,
    "Fim.line_share": 0.5,
    "Stage.epochs": 0.0,
    "Stage.least_steps": 1,
    "Evaluation.patience": 0,
    "Evaluation.infilling_cases": 0,
    "Evaluation.infilling_context": 1024,
    **{f"Lora.{field.name}": field.default for field in dataclasses.fields(Lora)},
}


def current_name(setting: str) -> str:
    """The current name of a setting, given its name in this or an earlier version."""
    kind, dot, field = setting.rpartition(".")
    setting = RENAMED_CLASSES.get(kind, kind) + dot + field
    return RENAMED_SETTINGS.get(setting, setting)


def operative_text(config: Config) -> str:
    """Every setting of `config` with its value: a gin file that includes no other file and resolves to `config`."""
    text = "# The complete configuration of a run: --gin_file=THIS_FILE alone reproduces it.\n"
    text += "".join(f"import {module}\n" for module in config.imports)
    for attribute, kind in PARTS.items():
        if (part := getattr(config, attribute)) is not UNRESOLVED:
            text += f"\n# {kind.__name__}\n"
            for field in dataclasses.fields(kind):
                text += f"{kind.__name__}.{field.name} = {getattr(part, field.name)!r}\n"
    return text
