"""What a checkpoint of adapters records about the frozen model that they belong to. Without JAX."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codellama_jax.config.lora import Lora
from codellama_jax.errors import UserError
from codellama_jax.runtime import checksums, filesystem


@dataclasses.dataclass(frozen=True)
class AdapterRecord:
    """The value that the metadata of a checkpoint has under "adapter". Its params/ contains adapters only.

    Attributes:
        lora: the settings of the adapters.
        base: the absolute path of the model: a checkpoint folder, or a folder of another format.
        relative: its path relative to the checkpoint if both are in one run, which may be moved; else None.
        digest: digest of the checksums of the model; None if it has none.
    """

    lora: Lora
    base: str
    relative: str | None
    digest: str | None

    @classmethod
    def new(cls, lora: Lora, base: Path, run_dir: Path | None) -> "AdapterRecord":
        """The record of adapters of a model.

        Args:
            lora: their settings.
            base: the model.
            run_dir: folder of the run of the stage that trains them; None: they were imported.
        """
        base = filesystem.absolute(base)
        relative = None
        if run_dir is not None and base.is_relative_to(run := filesystem.absolute(run_dir)):
            relative = str(base.relative_to(run))
        return cls(lora, str(base), relative, checksums.digest(base))

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "AdapterRecord | None":
        """Reads it from the metadata of a checkpoint; None: the checkpoint has all parameters.

        Raises:
            UserError: a newer version wrote it, with settings that this version does not know.
        """
        if (recorded := metadata.get("adapter")) is None:
            return None
        try:
            return cls(**recorded | {"lora": Lora(**recorded["lora"])})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the checkpoint records adapters that this version does not know ({error}): use the version that"
                " wrote it"
            ) from None

    def json(self) -> dict[str, Any]:
        """The value for the metadata."""
        return dataclasses.asdict(self)

    def find_base(self, checkpoint: Path) -> Path:
        """The folder of the model.

        Args:
            checkpoint: the folder with the adapters, RUN/STAGE/checkpoints/STEP or one of an import.

        Raises:
            UserError: it is missing, or has changed.
        """
        base = filesystem.to_path(self.base)
        if not base.exists() and self.relative is not None and checkpoint.parent.name == "checkpoints":
            base = filesystem.absolute(checkpoint).parents[2] / self.relative
        if not base.exists():
            raise UserError(
                f"{checkpoint} has adapters of the model {self.base}, which does not exist: put it back there"
            )
        if self.digest is not None and checksums.digest(base) != self.digest:
            raise UserError(
                f"{base} has changed since the adapters in {checkpoint} were trained on it: restore the folder that"
                " they belong to"
            )
        return base
