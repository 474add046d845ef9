"""The launcher's read access to the folder of all runs, on this machine or in a bucket."""

import os
import tempfile
from pathlib import Path

from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.runtime import checksums, filesystem
from launch import cloud

STATE_FILES = ("config.gin", "done.json", "stage.json")  # small files that describe the state of a stage


class RunDir:
    """The folder of all runs.

    Args:
        path: a folder on this machine, or one in a bucket (gs://...).
        offline: treat a bucket as empty if it cannot be read, because gcloud or a permission is missing.

    Attributes:
        as_given: the path as the user wrote it.
        path: the absolute path.
        is_bucket: whether it is in a bucket.
        offline: as given.

    Raises:
        UserError: the path has a scheme other than gs://.
    """

    def __init__(self, path: str, *, offline: bool = False):
        self.as_given = path
        self.is_bucket = path.startswith(filesystem.GCS_SCHEME)
        if filesystem.is_remote(path) and not self.is_bucket:
            raise UserError(f"--run_dir={path}: the folder must be local or start with gs://", EXIT_USAGE)
        self.path = path.rstrip("/") if self.is_bucket else os.path.abspath(filesystem.expand_home(path))
        self.offline = offline
        self._copies: tempfile.TemporaryDirectory | None = None

    def stage(self, name: str, stage: str) -> Path:
        """Returns a folder on this machine with the STATE_FILES of a stage and the folders of its complete checkpoints.

        It is the stage's own folder or, for a run in a bucket, a copy in which the checkpoint folders are empty.

        Raises:
            UserError: the bucket cannot be read.
        """
        if not self.is_bucket:
            return Path(self.path, name, stage)
        self._copies = self._copies or tempfile.TemporaryDirectory(prefix="codellama_jax_runs_")
        folder = Path(self._copies.name, name, stage)
        if not folder.exists():
            folder.mkdir(parents=True)
            self._copy(f"{self.path}/{name}/{stage}", folder)
        return folder

    def _copy(self, source: str, folder: Path) -> None:
        if self.offline and not cloud.is_installed():
            return
        try:
            names = {_base_name(entry) for entry in cloud.list_folder(f"{source}/")}
            for file in names.intersection(STATE_FILES):
                (folder / file).write_bytes(cloud.read_file(f"{source}/{file}"))
            if "checkpoints" in names:  # a checkpoint with checksums is complete (runtime.run_dir.saved_steps)
                for entry in cloud.list_folder(f"{source}/checkpoints/*/{checksums.NAME}"):
                    (folder / "checkpoints" / entry.split("/")[-2]).mkdir(parents=True)
        except UserError:
            if not self.offline:
                raise

    def stages(self, name: str) -> list[str]:
        """The names of the folders of a run.

        Raises:
            UserError: the bucket cannot be read.
        """
        if self.is_bucket:
            return [_base_name(entry) for entry in cloud.list_folder(f"{self.path}/{name}/") if entry.endswith("/")]
        folders = [path for path in Path(self.path, name).glob("*") if path.is_dir()]
        return [path.name for path in sorted(folders, key=lambda path: path.stat().st_ctime)]

    def names(self) -> list[str]:
        """The names of the runs.

        Raises:
            UserError: the bucket cannot be read.
        """
        if self.is_bucket:
            return sorted(_base_name(entry) for entry in cloud.list_folder(f"{self.path}/"))
        return sorted(path.name for path in Path(self.path).glob("*") if path.is_dir())


def _base_name(entry: str) -> str:
    return entry.rstrip("/").rpartition("/")[2]
