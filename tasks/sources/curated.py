"""Source over a curated dataset, the output of `python -m tasks.build`: its own split, its shards verified."""

import dataclasses
from collections import Counter
from collections.abc import Iterator

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.sources import inventory, manifest
from tasks.sources.base import binding, hash_of
from tasks.sources.duplicates import FilesRead, check_not_repeated, identity_of
from tasks.sources.files import Found, Listing
from tasks.sources.manifest import Shard
from tasks.sources.records.record_file import Record
from tasks.sources.records.record_source import Records
from tasks.sources.records.tf_examples import TfRecords
from tasks.sources.splits import EmptySplit, check_split

_REMEDY = "fetch it again, or run `python -m tasks.build` again"


class CuratedDataset(Records):
    """A Source[Document] over the shards of one split of a curated dataset.

    The sizes of the shards are checked when the dataset is opened, and the digest of a shard when this process first
    reads it. Documents are not filtered again, except by Filters.languages, and not grouped by repository.
    """

    def __init__(
        self,
        path: str,
        split: str,
        *,
        name: str,
        corpus: Corpus,
        settings: Filters,
        files_read: FilesRead | None = None,
    ):
        """Opens the dataset of a manifest.

        Args:
            path: location of the manifest.
            split: train or validation.
            name: name of the stream.
            corpus, settings, files_read: see records.open_records.

        Raises:
            UserError: the file is not a manifest, a shard is missing or damaged, earlier places read all shards, or the
                split has no shard.
            ValueError: no such split.
        """
        where = f"{binding(name)}={path}"
        check_split(split, corpus)
        dataset = manifest.read(path, where)
        self._digest = dataset.sha256
        known = {f"{dataset.folder}/{shard.name}": shard for shard in dataset.shards}
        files = [Found(shard.name, at, shard.bytes, "", identity_of(at)) for at, shard in known.items()]
        read, repeated = (files_read or FilesRead()).add(path, files)
        check_not_repeated(where, read, repeated)
        shards = [known[file.location] for file in read if known[file.location].split == split]
        if not shards:
            raise EmptySplit(f"{where}: no shard for {split}: build it with another Build.validation_share")
        settings = dataclasses.replace(settings, longest_bytes=None, longest_line=None, generated=False)
        super().__init__(
            [_VerifiedShard(shard, dataset.folder) for shard in shards],
            split,
            name=name,
            corpus=dataclasses.replace(corpus, group_by_repository=False, metadata_line=False, text_field="text"),
            settings=settings,
            where=where,
            single_split=True,
            place=dataclasses.replace(
                inventory.of_listing(name, path, "curated dataset", read, Listing(read), repeated),
                splits=Counter(known[file.location].split for file in read),
                split_by="the build",
            ),
        )

    def fingerprint(self) -> str:
        # The manifest contains the digests of the shards, so their location does not matter.
        rules = (self._split, self._corpus.shuffle_bytes, self._corpus.document_characters, self._settings.languages)
        return hash_of(self.name, ("built", self._digest, *rules), ())


class _VerifiedShard:
    """A Format: a TFRecord file whose digest is checked when it is first read."""

    def __init__(self, shard: Shard, folder: str):
        location = f"{folder}/{shard.name}"
        try:
            size = filesystem.size(location)
        except OSError as error:
            raise UserError(f"the shard {location} cannot be read ({error.strerror or error}): {_REMEDY}") from None
        if size != shard.bytes:
            raise UserError(f"the shard {location} is damaged ({size:,} of {shard.bytes:,} bytes): {_REMEDY}")
        self.file = Found(shard.name, location, size, "")
        self._sha256: str | None = shard.sha256

    def __len__(self) -> int:
        return 1

    def read(self, shard: int) -> Iterator[Record]:
        if self._sha256 is not None:
            try:
                digest = manifest.digest(self.file.location)
            except OSError as error:
                message = f"the shard {self.file.location} cannot be read ({error.strerror or error}): {_REMEDY}"
                raise UserError(message) from None
            if digest != self._sha256:
                raise UserError(f"the shard {self.file.location} is damaged (its digest differs): {_REMEDY}")
            self._sha256 = None
        return TfRecords(self.file).read(shard)
