"""The counts of a build, step by step, for the manifest, the report and the terminal."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.curation.clean import quality
from tasks.curation.counters import MEASURES, Counters, merge
from tasks.sources import filters

# Reason -> step, for the steps after reading that remove documents, in order.
REMOVING = {"exact_duplicate": "exact", "near_duplicate": "near", "contaminated": "contaminated"}
# The setting to change if a filter excludes too much.
BINDINGS = {
    **filters.BINDINGS,
    **quality.BINDINGS,
    "damaged": "Corpus.on_damage",
    "near_duplicate": "Build.near, Build.threshold",
    "contaminated": "--against, Decontamination.share",
}
SPLITS = ("train", "validation")
LABELS = {
    "read": "read and filtered",
    "exact_duplicate": "without exact duplicates",
    "near_duplicate": "without near-duplicates",
    "contaminated": "without evaluation problems",
}


@dataclasses.dataclass(frozen=True)
class Remaining:
    """What remains after a step: documents, tokens and bytes, in total and by language."""

    step: str
    total: dict[str, int]
    languages: dict[str, dict[str, int]]


@dataclasses.dataclass(frozen=True)
class Summary:
    """The summary of a build.

    Attributes:
        counters: the merged counters of all steps.
        removing: the reasons of REMOVING whose step was run.
    """

    counters: Counters
    removing: tuple[str, ...]

    @classmethod
    def of(cls, counters: Mapping[str, Counters]) -> "Summary":
        """Summarizes the counters of steps, by name."""
        return cls(merge(counters.values()), tuple(reason for reason, step in REMOVING.items() if step in counters))

    @property
    def counts(self) -> Counter[str]:
        """The counts of all steps."""
        return self.counters.counts

    @property
    def shards(self) -> list[dict[str, Any]]:
        """The manifest's entries of shards, in order."""
        return [entry for _, entry in sorted(self.counters.rows.get("shards", []), key=lambda row: row[0])]

    @property
    def documents(self) -> int:
        """The number of documents that remain after the last step."""
        *_, last = self.remaining()
        return last.total["documents"]

    def filtered(self) -> dict[str, int]:
        """Filter -> number of documents that it removed during reading."""
        return self.with_prefix("left_out/")

    def removal_reasons(self) -> str:
        """The reasons for which documents were removed, with counts and settings, for messages."""
        removed = {reason: self.counts[f"documents/{reason}"] for reason in self.removing}
        return filters.format_counts({reason: n for reason, n in {**self.filtered(), **removed}.items() if n}, BINDINGS)

    def languages(self, name: str = "read") -> dict[str, dict[str, int]]:
        """Language -> documents, tokens and bytes counted under a name, most tokens first."""
        languages: dict[str, dict[str, int]] = {}
        for measure in MEASURES:
            for language, number in self.with_prefix(f"{measure}/{name}/").items():
                languages.setdefault(language, dict.fromkeys(MEASURES, 0))[measure] = number
        return dict(sorted(languages.items(), key=lambda entry: (-entry[1]["tokens"], entry[0])))

    def remaining(self) -> Iterator[Remaining]:
        """What remains after reading, and after each step that removes documents."""
        total = {measure: self.counts[f"{measure}/read"] for measure in MEASURES}
        languages = self.languages()
        yield Remaining("read", dict(total), {name: dict(counts) for name, counts in languages.items()})
        for reason in self.removing:
            for measure in MEASURES:
                total[measure] -= self.counts[f"{measure}/{reason}"]
                for name, counts in languages.items():
                    counts[measure] -= self.counts[f"{measure}/{reason}/{name}"]
            yield Remaining(reason, dict(total), {name: dict(counts) for name, counts in languages.items()})

    def split(self, name: str) -> dict[str, int]:
        """The documents, tokens and bytes of a split."""
        return {measure: self.counts[f"{measure}/{name}"] for measure in MEASURES}

    def steps(self) -> list[dict[str, Any]]:
        """The manifest's entries of steps: what remains after each step, by language, and its counts."""
        entries: list[dict[str, Any]] = []
        for remaining in self.remaining():
            step = remaining.step
            entry: dict[str, Any] = {"step": step, "left": remaining.total, "languages": remaining.languages}
            if step == "read":
                entry["left_out"] = self.filtered()
                entry["changed"] = self.with_prefix("changed/")
                documents, share = self.counts["redacted_documents"], self.redacted_share()
                entry["redacted"] = {"documents": documents, "share": share, "by_kind": self.with_prefix("redacted/")}
            else:
                entry["left_out"] = {measure: self.counts[f"{measure}/{step}"] for measure in MEASURES}
            if clusters := self.histogram(f"clusters/{step}/"):
                entry["clusters"] = {str(size): number for size, number in clusters}
            entries.append(entry)
        for split in SPLITS:
            entries.append({"step": split, "left": self.split(split), "languages": self.languages(split)})
        return entries

    def redacted_share(self) -> float:
        """The share of the characters read that were replaced by placeholders."""
        return self.counts["redacted_characters"] / max(1, self.counts["characters"])

    def with_prefix(self, prefix: str) -> dict[str, int]:
        """The counts whose names start with a prefix, by the rest of the name."""
        return {name.removeprefix(prefix): n for name, n in sorted(self.counts.items()) if name.startswith(prefix)}

    def histogram(self, prefix: str) -> list[tuple[int, int]]:
        """(lower bound, count) of the bins of a histogram."""
        return sorted((int(size), number) for size, number in self.with_prefix(prefix).items())

    def lines(self, out: str) -> Iterator[str]:
        """The summary for the terminal."""
        yield ""
        yield f"{'':32s}{'documents':>14s}{'tokens':>18s}{'of tokens':>11s}"
        tokens_read = max(1, self.counts["tokens/read"])
        for remaining in self.remaining():
            yield _line(LABELS[remaining.step], remaining.total, tokens_read)
        for split in SPLITS:
            yield _line(f"in {split}", self.split(split), tokens_read)
        if filtered := self.filtered():
            yield f"filtered out: {filters.format_counts(filtered, BINDINGS)}"
        if changed := self.with_prefix("changed/"):
            yield f"changed: {filters.format_counts(changed)}"
        if redacted := self.with_prefix("redacted/"):
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in redacted.items())
            yield f"redacted: {kinds}; {self.redacted_share():.3%} of the characters"
        size = sum(shard["bytes"] for shard in self.shards)
        yield f"{len(self.shards):,} shards, {size / 1e6:,.1f} MB; removed documents with reasons: {out}/left-out"
        yield f"report: {out}/report.html    to train: --gin.CODE_CORPUS={out}"


def _line(label: str, remaining: Mapping[str, int], tokens_read: int) -> str:
    share = remaining["tokens"] / tokens_read
    return f"{label:32s}{remaining['documents']:14,d}{remaining['tokens']:18,d}{share:11.1%}"
