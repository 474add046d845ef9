"""The folder of all runs, here or in a bucket, and what a stage in it says of itself."""

import os
import tempfile
from pathlib import Path

from codellama_jax.errors import UserError
from codellama_jax.runtime import checksums
from launch import cloud

NOTES = ("config.gin", "done.json", "stage.json")  # small files that tell what became of a stage


class RunDir:
    """The folder of all runs.

    Args:
        path: a folder of this machine, or one of a bucket (gs://...).
        offline: a bucket that cannot be read, for want of gcloud or of leave, is taken for empty.

    Attributes:
        path: absolute.
        bucket: whether it is in one.
    """

    def __init__(self, path: str, *, offline: bool = False):
        self.bucket = path.startswith("gs://")
        self.path = path.rstrip("/") if self.bucket else os.path.abspath(path)
        self._offline = offline
        self._copies: tempfile.TemporaryDirectory | None = None

    def stage(self, name: str, stage: str) -> Path:
        """A folder of this machine with NOTES of a stage and its checkpoints' folders, those of whole ones: the stage's
        own, or a copy.

        Raises:
            UserError: the bucket cannot be read.
        """
        if not self.bucket:
            return Path(self.path, name, stage)
        self._copies = self._copies or tempfile.TemporaryDirectory(prefix="codellama_jax_runs_")
        folder = Path(self._copies.name, name, stage)
        if not folder.exists():
            folder.mkdir(parents=True)
            self._copy(f"{self.path}/{name}/{stage}", folder)
        return folder

    def _copy(self, source: str, folder: Path) -> None:
        if self._offline and not cloud.installed():
            return
        try:
            names = {entry.rstrip("/").rpartition("/")[2] for entry in cloud.listed(f"{source}/")}
            for note in names.intersection(NOTES):
                (folder / note).write_bytes(cloud.read(f"{source}/{note}"))
            if "checkpoints" in names:  # a checkpoint is whole when its checksums are there (run_folder.saved_steps)
                for entry in cloud.listed(f"{source}/checkpoints/*/{checksums.NAME}"):
                    (folder / "checkpoints" / entry.split("/")[-2]).mkdir(parents=True)
        except UserError:
            if not self._offline:
                raise

    def stages(self, name: str) -> list[str]:
        """Names of the folders of a run.

        Raises:
            UserError: the bucket cannot be read.
        """
        if self.bucket:
            found = [entry for entry in cloud.listed(f"{self.path}/{name}/") if entry.endswith("/")]
            return [entry.rstrip("/").rpartition("/")[2] for entry in found]
        folders = [path for path in Path(self.path, name).glob("*") if path.is_dir()]
        return [path.name for path in sorted(folders, key=lambda path: path.stat().st_ctime)]

    def names(self) -> list[str]:
        """Names of the runs.

        Raises:
            UserError: the bucket cannot be read.
        """
        if self.bucket:
            return sorted(entry.rstrip("/").rpartition("/")[2] for entry in cloud.listed(f"{self.path}/"))
        return sorted(path.name for path in Path(self.path).glob("*") if path.is_dir())
