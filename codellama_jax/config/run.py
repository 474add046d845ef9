"""The configuration of a run as one value, and its text form."""

import dataclasses
import typing
from typing import Any

from codellama_jax.config.curation import Build, Decontamination, Quality
from codellama_jax.config.data import Chat, Corpus, DataLoader, Filters, Fim, Mixture, Packing, Tokenizer
from codellama_jax.config.model import Llama
from codellama_jax.config.training import AdamW, Checkpoints, Evaluation, LossSpikes, Mesh, Monitoring, Stage

UNRESOLVED: Any = None


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a run. A part that was not asked for is UNRESOLVED (None).

    Attributes:
        imports: modules to import before the data is opened, such as those that register SeqIO tasks of one's own.
    """

    stage: Stage = UNRESOLVED
    llama: Llama = UNRESOLVED
    adamw: AdamW = UNRESOLVED
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
    imports: tuple[str, ...] = ()


# Attribute of Config -> its class.
PARTS: dict[str, type] = {name: kind for name, kind in typing.get_type_hints(Config).items() if name != "imports"}
CURATION_PARTS = (Build, Quality, Decontamination)  # settings of tasks.build, not of a training run
SETTINGS = {f"{kind.__name__}.{field.name}" for kind in PARTS.values() for field in dataclasses.fields(kind)}

# Setting -> its default, without the settings that are required.
DEFAULTS: dict[str, Any] = {
    f"{kind.__name__}.{field.name}": field.default_factory() if callable(field.default_factory) else field.default
    for kind in PARTS.values()
    for field in dataclasses.fields(kind)
    if callable(field.default_factory) or field.default is not dataclasses.MISSING
}

# Prefixes of the settings that do not change what is computed: two configurations that differ in these alone are the
# same run.
RESULT_NEUTRAL = (
    # how often to save and to validate
    *("Checkpoints.every", "Checkpoints.keep", "Checkpoints.grace_seconds", "Evaluation.every", "Evaluation.sample"),
    *("Mesh.", "Corpus.on_damage", "LossSpikes.", "Monitoring."),
    # how the same numbers are computed: last digits may change
    *("Stage.micro_batches", "Llama.remat", "Llama.offload", "Llama.ffn_parts", "Llama.unroll", "Llama.attention"),
    *("Llama.gathered_heads", "Llama.splash_block", "Llama.loss_chunk"),
)

# Settings of earlier versions -> their names now, so that configurations saved by them can still be read.
RENAMED_CLASSES = {"Stream": "DataLoader", "BadSteps": "LossSpikes", "Evidence": "Decontamination"}
RENAMED_SETTINGS = {"DataLoader.lanes": "DataLoader.readers"}
# Settings that earlier versions did not have -> the value with which these behave as those versions.
ADDED_SETTINGS: dict[str, Any] = {"Mixture.seqio": None}


def current_name(setting: str) -> str:
    """The name that a setting, as it may have been called in an earlier version, has now."""
    kind, dot, field = setting.rpartition(".")
    setting = RENAMED_CLASSES.get(kind, kind) + dot + field
    return RENAMED_SETTINGS.get(setting, setting)


def operative_text(config: Config) -> str:
    """Every setting of `config` with its value, as a gin file that needs no other file and resolves to `config`."""
    text = "# The complete configuration of a run: --gin_file=THIS_FILE alone sets every value of it again.\n"
    text += "".join(f"import {module}\n" for module in config.imports)
    for attribute, kind in PARTS.items():
        if (part := getattr(config, attribute)) is not UNRESOLVED:
            text += f"\n# {kind.__name__}\n"
            for field in dataclasses.fields(kind):
                text += f"{kind.__name__}.{field.name} = {getattr(part, field.name)!r}\n"
    return text
