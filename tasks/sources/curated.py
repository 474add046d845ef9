"""What `python -m tasks.build` has built, as a source: its own split, and shards verified before they are used."""

import dataclasses
from collections.abc import Iterator

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.sources import manifest
from tasks.sources.files import Found
from tasks.sources.folder import binding, hash_of
from tasks.sources.manifest import Shard
from tasks.sources.record_formats import Record, TfRecords
from tasks.sources.records import Records
from tasks.sources.splits import Unusable, check_split

_CURE = "fetch it again, or run `python -m tasks.build` anew"


class CuratedDataset(Records):
    """A Source[Document] over the shards of one split of a build: a piece is a shard.

    Sizes are compared when it is opened, a shard's digest when this process first reads it. What the build has let in
    is not filtered again, but for Filters.languages; a repository's document of the build stays one.
    """

    def __init__(self, path: str, split: str, *, name: str, corpus: Corpus, settings: Filters):
        """Opens the build of a manifest.

        Raises:
            UserError: it is no manifest, a shard is missing or damaged, or there is none for this split.
            ValueError: the split has another name.
        """
        where = f"{binding(name)}={path}"
        check_split(split, corpus)
        self._digest = (there := manifest.read(path, where)).sha256
        shards = [shard for shard in there.shards if shard.split == split]
        if not shards:
            raise Unusable(f"{where}: the build has no shard for {split}: build it with another Build.validation_share")
        settings = dataclasses.replace(settings, longest_bytes=None, longest_line=None, generated=False)
        super().__init__(
            [_Verified(shard, there.folder) for shard in shards],
            split,
            name=name,
            corpus=dataclasses.replace(corpus, group_by_repository=False),
            settings=settings,
            where=where,
            one_side=True,
        )

    def fingerprint(self) -> str:
        # The manifest has the digests of the shards: where they lie does not matter.
        rules = (self._split, self._corpus.shuffle_bytes, self._corpus.document_characters, self._settings.languages)
        return hash_of(self.name, ("built", self._digest, *rules), ())


class _Verified:
    """A Format: a shard whose bytes are compared with its digest when it is first read."""

    def __init__(self, shard: Shard, folder: str):
        location = f"{folder}/{shard.name}"
        try:
            size = filesystem.size(location)
        except OSError as error:
            raise UserError(f"the shard {location} cannot be read ({error.strerror or error}): {_CURE}") from None
        if size != shard.bytes:
            raise UserError(f"the shard {location} is damaged ({size:,} of {shard.bytes:,} bytes): {_CURE}")
        self.file = Found(shard.name, location, size, "")
        self._sha256: str | None = shard.sha256

    def __len__(self) -> int:
        return 1

    def read(self, piece: int) -> Iterator[Record]:
        if self._sha256 is not None:
            try:
                digest = manifest.digest(self.file.location)
            except OSError as error:
                line = f"the shard {self.file.location} cannot be read ({error.strerror or error}): {_CURE}"
                raise UserError(line) from None
            if digest != self._sha256:
                raise UserError(f"the shard {self.file.location} is damaged (its digest is another): {_CURE}")
            self._sha256 = None
        return TfRecords(self.file).read(piece)
