"""What a build counted, step by step, for the manifest, the report and the terminal."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.curation.clean import quality
from tasks.curation.counters import Counters, added
from tasks.sources import filters

MEASURES = ("documents", "tokens", "bytes")
REMOVING = ("exact_duplicate", "near_duplicate", "contaminated")
# What to change where a filter leaves out what it should not.
BINDINGS = {
    **filters.BINDINGS,
    **quality.BINDINGS,
    "damaged": "Corpus.on_damage",
    "near_duplicate": "Build.near, Build.threshold",
    "contaminated": "--against, Decontamination.share",
}
SPLITS = ("train", "validation")
SAID = {
    "read": "read and filtered",
    "exact_duplicate": "without exact duplicates",
    "near_duplicate": "without near-duplicates",
    "contaminated": "without evaluation problems",
}


@dataclasses.dataclass(frozen=True)
class Summary:
    """Attributes:
    counts: of all steps together.
    tally: the same with samples and rows.
    removing: the reasons of REMOVING that this build looked for.
    """

    counts: Counter[str]
    tally: Counters
    removing: tuple[str, ...]

    @classmethod
    def of(cls, tallies: Mapping[str, Counters]) -> "Summary":
        """Of the tallies of the steps, by name."""
        total = added(tallies.values())
        steps = {"exact_duplicate": "exact", "near_duplicate": "near", "contaminated": "contaminated"}
        return cls(total.counts, total, tuple(reason for reason in REMOVING if steps[reason] in tallies))

    @property
    def shards(self) -> list[dict[str, Any]]:
        """The entries of the manifest, in order."""
        return [entry for _, entry in sorted(self.tally.rows.get("shards", []), key=lambda row: row[0])]

    def left_out(self) -> dict[str, int]:
        """Filter -> documents that reading left out."""
        return {name.partition("/")[2]: n for name, n in sorted(self.counts.items()) if name.startswith("left_out/")}

    @property
    def documents(self) -> int:
        """How many are left after the last of the steps."""
        *_, (_, left, _) = self.left()
        return left["documents"]

    def told_left_out(self) -> str:
        """What steps left out, with the bindings, for a person."""
        lost = {reason: self.counts[f"documents/{reason}"] for reason in self.removing}
        return filters.format_counts({reason: n for reason, n in {**self.left_out(), **lost}.items() if n}, BINDINGS)

    def languages(self, name: str = "read") -> dict[str, dict[str, int]]:
        """Language -> documents, tokens and bytes under a name of the counts, most tokens first."""
        found: dict[str, dict[str, int]] = {}
        for measure in MEASURES:
            for key, number in self.counts.items():
                if key.startswith(f"{measure}/{name}/"):
                    found.setdefault(key.split("/", 2)[2], dict.fromkeys(MEASURES, 0))[measure] = number
        return dict(sorted(found.items(), key=lambda entry: (-entry[1]["tokens"], entry[0])))

    def left(self) -> Iterator[tuple[str, dict[str, int], dict[str, dict[str, int]]]]:
        """(step, what is left after it, the same by language): first what was read."""
        total = {measure: self.counts[f"{measure}/read"] for measure in MEASURES}
        languages = self.languages()
        yield "read", dict(total), {name: dict(of) for name, of in languages.items()}
        for reason in self.removing:
            for measure in MEASURES:
                total[measure] -= self.counts[f"{measure}/{reason}"]
                for name, of in languages.items():
                    of[measure] -= self.counts[f"{measure}/{reason}/{name}"]
            yield reason, dict(total), {name: dict(of) for name, of in languages.items()}

    def steps(self) -> list[dict[str, Any]]:
        """For the manifest: what every step left, by language, and what it counted."""
        entries: list[dict[str, Any]] = []
        for step, left, languages in self.left():
            entry: dict[str, Any] = {"step": step, "left": left, "languages": languages}
            if step == "read":
                entry["left_out"] = self.left_out()
                documents, share = self.counts["redacted_documents"], self.redacted_share()
                entry["redacted"] = {"documents": documents, "share": share, "by_kind": self.prefixed("redacted/")}
            else:
                entry["left_out"] = {measure: self.counts[f"{measure}/{step}"] for measure in MEASURES}
            if clusters := self.histogram(f"clusters/{step}/"):
                entry["clusters"] = {str(size): number for size, number in clusters}
            entries.append(entry)
        for split in SPLITS:
            left = {measure: self.counts[f"{measure}/{split}"] for measure in MEASURES}
            entries.append({"step": split, "left": left, "languages": self.languages(split)})
        return entries

    def redacted_share(self) -> float:
        """Of the characters that were read, those that a placeholder stands for."""
        return self.counts["redacted_characters"] / max(1, self.counts["characters"])

    def prefixed(self, prefix: str) -> dict[str, int]:
        """The counts whose names begin so, without the beginning."""
        return {name.removeprefix(prefix): n for name, n in sorted(self.counts.items()) if name.startswith(prefix)}

    def histogram(self, prefix: str) -> list[tuple[int, int]]:
        """(from which size on, how many) of counts by powers of two."""
        return sorted((int(size), number) for size, number in self.prefixed(prefix).items())

    def lines(self, out: str) -> Iterator[str]:
        """A screen for the terminal."""
        yield ""
        yield f"{'':32s}{'documents':>14s}{'tokens':>18s}{'of tokens':>11s}"
        whole = max(1, self.counts["tokens/read"])
        for step, left, _ in self.left():
            yield _line(SAID[step], left, whole)
        for split in SPLITS:
            yield _line(f"in {split}", {measure: self.counts[f"{measure}/{split}"] for measure in MEASURES}, whole)
        if left_out := self.left_out():
            yield f"left out in reading: {filters.format_counts(left_out, BINDINGS)}"
        if redacted := self.prefixed("redacted/"):
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in redacted.items())
            yield f"replaced: {kinds}; {self.redacted_share():.3%} of the characters"
        size = sum(shard["bytes"] for shard in self.shards)
        yield f"{len(self.shards):,} shards, {size / 1e6:,.1f} MB. What was left out, and why: {out}/left-out"
        yield f"look: {out}/report.html    train: --gin.CODE_CORPUS={out}"


def _line(what: str, left: Mapping[str, int], whole: int) -> str:
    return f"{what:32s}{left['documents']:14,d}{left['tokens']:18,d}{left['tokens'] / whole:11.1%}"
