"""Holds out the files of each repository that changed last (Corpus.held_out='newest').

What a model is trained on is then older than what it is measured on, as for a model that serves tomorrow's edits. The
time of a file is that of its last commit. Changes that are not committed are newer than all commits. Files outside a
checkout have the time of their modification. Where the times say nothing, as after a copy of all files or in a checkout
with one commit, a hash of the path decides.
"""

import dataclasses
import datetime
import os
from collections import defaultdict
from collections.abc import Sequence

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.runtime import filesystem
from tasks.sources import files
from tasks.sources.files import Found
from tasks.sources.git_history import GitFailed, checkout_of, last_changes, not_ignored, uncommitted
from tasks.sources.similar_files import similar_files
from tasks.sources.splits import EmptySplit, check_split, hash_fraction

LEAST_FILES = 5  # of a repository of which at least one file is held out
COPIED_SECONDS = 60.0  # files that were all modified within this time were copied, not edited
SHOWN = 5  # repositories that notes name

BY_GIT, BY_TIME, BY_HASH = "the last change in git", "the time of modification", "the hash of a file's path"

Rank = tuple[int, float]  # 2 and the time of modification: not committed; 1 and the time of a change; 0, 0: older


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The files that are held out.

    Attributes:
        paths: their paths in the corpus.
        split_by: what decided.
        notes: one line for each repository, and why git was not used.
    """

    paths: frozenset[str]
    split_by: str
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Selection:
    """The files of one split, in their order.

    Attributes:
        files: the files.
        counts: split -> number of files. Opened for validation, train has those that are left out as similar, too.
        split_by: what decided.
        notes: for the inventory.
    """

    files: list[Found]
    counts: dict[str, int]
    split_by: str
    notes: tuple[str, ...]


def select(entries: Sequence[Found], split: str, corpus: Corpus, filters: Filters, where: str) -> Selection:
    """The files of one split by Corpus.held_out='newest'.

    Files for training that are similar to a held-out one are left out.

    Raises:
        UserError: validation would be empty, or Corpus.validation_share is out of range.
        ValueError: no such split.
    """
    check_split(split, corpus)
    held_out = newest(entries, corpus.validation_share)
    if split == "validation":
        if entries and not held_out.paths:
            reason = "there is only one file" if corpus.validation_share else "Corpus.validation_share is 0"
            raise EmptySplit(f"{where}: no file is held out, since {reason}: name a folder with more files of code")
        chosen = [entry for entry in entries if entry.path in held_out.paths]
        counts = {"train": len(entries) - len(chosen), "validation": len(chosen)}
        return Selection(chosen, counts, held_out.split_by, held_out.notes)
    limit, notes = filters.longest_bytes, held_out.notes
    texts = {
        entry.path: files.read_bytes(entry.location).decode("utf-8", "replace")
        for entry in entries
        if limit is None or entry.size <= limit
    }
    similar = similar_files(
        {path: text for path, text in texts.items() if path in held_out.paths},
        ((path, text) for path, text in texts.items() if path not in held_out.paths),
    )
    if similar:
        path, held = next(iter(similar.items()))
        more = f", and {len(similar) - 1:,} more" if len(similar) > 1 else ""
        notes += (f"left out: {len(similar):,} near_duplicate of a held-out file: {path} of {held}{more}",)
    kept = [entry for entry in entries if entry.path not in held_out.paths and entry.path not in similar]
    counts = {"train": len(kept), "validation": len(held_out.paths)}
    return Selection(kept, counts, held_out.split_by, notes)


def newest(entries: Sequence[Found], share: float) -> HeldOut:
    """The newest files of each repository: `share` of them, and at least one of a repository that is not tiny.

    At least one file is held out if there are two.

    Args:
        entries: the files of a place.
        share: share of the files of each repository, at least 0 and below 1.
    """
    groups = _by_checkout(entries)
    counts = {checkout: round(share * len(members)) for checkout, members in groups.items()}
    for checkout, members in groups.items():
        counts[checkout] = max(counts[checkout], int(share > 0 and len(members) >= LEAST_FILES))
    if share > 0 and not any(counts.values()) and len(entries) > 1:
        counts[max(groups, key=lambda checkout: len(groups[checkout]))] = 1
    paths, used, notes = set[str](), dict[str, None](), list[str]()
    for checkout, members in groups.items():
        count = min(counts[checkout], len(entries) - 1)
        ranks, split_by, reason = _ranks(checkout, members, count)
        ordered = sorted(members, key=lambda file: (ranks[file.path], hash_fraction(file.path, "split")), reverse=True)
        paths |= {file.path for file in ordered[:count]}
        used[split_by] = None
        if count:
            since = _time(ranks[ordered[count - 1].path])
            where = f" of {checkout}" if checkout else ""
            notes.append(f"held out: {count:,} of {len(members):,} files{where}, by {split_by}{since}{reason}")
    shown = notes[:SHOWN] + [f"held out of {len(notes) - SHOWN:,} more repositories"] * (len(notes) > SHOWN)
    return HeldOut(frozenset(paths), " and ".join(used), tuple(shown))


def without_ignored(entries: Sequence[Found]) -> tuple[list[Found], int]:
    """The files that git does not ignore, in their order, and the number of the others.

    Files outside of checkouts are kept, and those of a checkout that ignores all of them.
    """
    ignored = set[str]()
    for checkout, members in _by_checkout(entries).items():
        if checkout:
            try:
                kept = not_ignored(checkout)
            except GitFailed:
                continue
            inside = {file.path: _relative(file, checkout) for file in members}
            outside = {path for path, relative in inside.items() if relative not in kept}
            # a folder that git ignores completely, such as one below a checkout of settings, is meant by the user
            ignored |= outside if len(outside) < len(inside) else set()
    return [file for file in entries if file.path not in ignored], len(ignored)


def _by_checkout(entries: Sequence[Found]) -> dict[str, list[Found]]:
    """Checkout -> its files; "" has the files outside of checkouts, and remote ones."""
    groups, known = defaultdict[str, list[Found]](list), dict[str, str]()
    for entry in entries:
        remote = filesystem.is_remote(entry.location)
        groups["" if remote else checkout_of(os.path.dirname(os.path.abspath(entry.location)), known)].append(entry)
    return dict(sorted(groups.items()))


def _ranks(checkout: str, members: Sequence[Found], count: int) -> tuple[dict[str, Rank], str, str]:
    """Path -> rank of each file, what decides, and why it is not git, for a note."""
    reason = ""
    if checkout:
        try:
            ranks = _git_ranks(checkout, members, count)
        except GitFailed as failure:
            reason = f" ({failure})"
        else:
            if len(set(ranks.values())) > 1:
                return ranks, BY_GIT, ""
            return ranks, BY_HASH, " (all of them changed last in the same commit)"
    times = [_modified(file) for file in members]
    if max(times) - min(times) < COPIED_SECONDS:
        same = "their times of modification are the same" if times[0] else "their times are not known"
        return dict.fromkeys((file.path for file in members), (0, 0.0)), BY_HASH, reason or f" ({same})"
    return {file.path: (2, time) for file, time in zip(members, times, strict=True)}, BY_TIME, reason


def _git_ranks(checkout: str, members: Sequence[Found], count: int) -> dict[str, Rank]:
    relative = {file.path: _relative(file, checkout) for file in members}
    changed = uncommitted(checkout)
    # one more than needed, so that a single commit with all files is recognized
    times = last_changes(checkout, set(relative.values()) - changed, count + 1)
    ranks: dict[str, Rank] = {}
    for file in members:
        name = relative[file.path]
        if name in changed:
            ranks[file.path] = 2, _modified(file)
        else:
            ranks[file.path] = (1, float(times[name])) if name in times else (0, 0.0)
    if not any(rank for rank, _ in ranks.values()):
        raise GitFailed("git has no history of these files")
    return ranks


def _relative(file: Found, checkout: str) -> str:
    return os.path.relpath(os.path.abspath(file.location), checkout).replace(os.sep, "/")


def _modified(file: Found) -> float:
    """The time of modification of a local file; 0 for a remote one."""
    return 0.0 if filesystem.is_remote(file.location) else os.stat(file.location).st_mtime


def _time(rank: Rank) -> str:
    if not rank[1]:
        return ""
    return f", since {datetime.datetime.fromtimestamp(rank[1], datetime.UTC):%Y-%m-%d %H:%M} UTC"
