"""The source of a build."""

import dataclasses
import os
from typing import Any

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime.filesystem import is_remote
from tasks import sources
from tasks.sources.base import ConcatenatedSource, Source
from tasks.sources.records.record_formats import is_record_file

NAMES = ("tfds:", "seqio:", "embedded:")  # prefixes of sources that are not paths


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Describes the source of a build. It is sent to the workers, each of which opens the source.

    Attributes:
        stream: kind of the documents: code, python, nl_code or nl.
        corpus, filters: how documents are read, and which are removed.
        fingerprint: the source's fingerprint when the build started; "" before it is known.
        imports: modules that register SeqIO tasks; worker processes import them too.
    """

    stream: str
    corpus: Corpus
    filters: Filters
    fingerprint: str = ""
    imports: tuple[str, ...] = ()

    def open(self) -> Source:
        """Opens the source with the documents of both splits.

        Raises:
            UserError: the source cannot be read, or has changed since the build started.
        """
        unsplit = dataclasses.replace(
            self.corpus, validation_share=0.0, document_characters=None, group_by_repository=False
        )
        sources.import_modules(self.imports)
        source = sources.open(self._paths or None, self.stream, "train", unsplit, self.filters)
        if self.fingerprint and source.fingerprint() != self.fingerprint:
            raise UserError(f"{self.description} has changed since the build started: build into a new --out")
        return source

    def place(self, source: Source, shard: int) -> str:
        """The path, as the user named it, that a shard of the opened source belongs to."""
        if isinstance(source, ConcatenatedSource):
            return self._paths[source.place(shard)]
        return self.description

    @property
    def places(self) -> tuple[str, ...]:
        """The paths of the source, or the name of the embedded corpus."""
        return self._paths or (self.description,)

    def absolute(self) -> "Inputs":
        """The same source, described without paths that are relative to this process's working folder."""
        paths: dict[str, Any] = {self.stream: tuple(map(_absolute, self._paths)) or None}
        return dataclasses.replace(self, corpus=dataclasses.replace(self.corpus, **paths))

    @property
    def folders(self) -> tuple[str, ...]:
        """The paths of the source that may be folders of files."""
        return tuple(path for path in self._paths if not is_record_file(path) and not path.startswith(NAMES))

    @property
    def description(self) -> str:
        """The name of the source in messages."""
        return ", ".join(self._paths) if self._paths else "the embedded corpus"

    @property
    def _paths(self) -> tuple[str, ...]:
        paths = getattr(self.corpus, self.stream)
        return () if paths is None else (paths,) if isinstance(paths, str) else tuple(paths)


def _absolute(path: str) -> str:
    return path if is_remote(path) or path.startswith(NAMES) else os.path.abspath(os.path.expanduser(path))
