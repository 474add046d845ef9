"""What a checkpoint records of the stages before it, because an export states it."""

import ast
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from codellama_jax.config.run import Config
from codellama_jax.errors import UserError

# Ids in config.json of Hugging Face, which an import records and an export states again.
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclasses.dataclass(frozen=True)
class Lineage:
    """Facts about a checkpoint and all stages that its parameters went through, as JSON values.

    Attributes:
        positions: the longest window of any of them, or the number of positions of an import if that is larger. An
            export gives it as the maximum number of positions: a stage with short windows does not take back the
            longer contexts of its parent.
        infilling: whether the rows after the tokenizer's pieces are those of infilling.
        step: whether the last of these rows is <step>, as in the dialogue format "source".
        dialogues: the dialogue format, "inst" or "source", of the last stage that was trained on dialogues; None: none.
        special_ids: the ids of SPECIAL_IDS that an import named.
        model_type: the model_type of Hugging Face that an import named, which an export of the same model states again.
    """

    positions: int
    infilling: bool = False
    step: bool = False
    dialogues: str | None = None
    special_ids: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model_type: str = "llama"

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "Lineage":
        """Reads it from the metadata of a checkpoint.

        Checkpoints of earlier versions record their own stage and the window of its parent, but nothing before that;
        an import of those versions has infilling rows if its tokenizer's file or their number shows it.

        Raises:
            UserError: a newer version wrote it, with facts that this version would lose.
        """
        if (recorded := metadata.get("lineage")) is not None:
            known = {field.name for field in dataclasses.fields(cls)}
            if unknown := sorted(recorded.keys() - known):
                raise UserError(f"the checkpoint records {unknown[0]}, which a newer version wrote: use that version")
            return cls(**recorded)
        positions = int(metadata["sequence_length"])
        if (imported := metadata.get("imported")) is not None:
            notes = imported.get("notes", {})
            ids = {key: notes[key] for key in SPECIAL_IDS if key in notes}
            return cls(positions, special_ids=ids, model_type=notes.get("model_type", "llama"))
        settings = _settings(metadata.get("config", ""))
        chat_format = settings.get("Chat.format", "inst")
        has_dialogues = settings.get("Mixture.seqio") is None and settings.get("Mixture.shares", {}).get("instruct")
        return cls(
            max(positions, int((metadata.get("parent") or {}).get("sequence_length", 0))),
            infilling=bool(settings.get("Tokenizer.infilling", False)),
            step=chat_format == "source",
            dialogues=chat_format if has_dialogues else None,
        )

    @property
    def notes(self) -> dict[str, Any]:
        """What an export to Hugging Face's format states (canonical.Model.notes)."""
        return {**self.special_ids, "model_type": self.model_type}

    def json(self) -> dict[str, Any]:
        """The value that the metadata of a checkpoint has under "lineage"."""
        return dataclasses.asdict(self)


def after(parent: Lineage | None, config: Config, dialogues: bool) -> Lineage:
    """The lineage of a stage's own checkpoints.

    Args:
        parent: that of the checkpoint that the stage starts from; None: it starts from random parameters.
        config: the configuration of the stage.
        dialogues: whether its mixture has dialogues.
    """
    parent = parent or Lineage(0)
    return Lineage(
        max(parent.positions, config.stage.sequence_length),
        infilling=parent.infilling or config.tokenizer.infilling,
        step=parent.step or config.chat.format == "source",
        dialogues=config.chat.format if dialogues else parent.dialogues,
        special_ids=parent.special_ids,
        model_type=parent.model_type,
    )


def _settings(text: str) -> dict[str, Any]:
    """The settings in an operative configuration (config.run.operative_text), which has one in each line."""
    settings = {}
    for name, value in re.findall(r"^([A-Z]\w+\.\w+) = (.+)$", text, re.MULTILINE):
        try:
            settings[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            continue  # such as inf
    return settings
