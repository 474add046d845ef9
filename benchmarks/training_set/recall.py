"""Recall and precision of near-duplicate detection, against exact similarity."""

import collections
import itertools
import random
from collections.abc import Iterable, Iterator

import numpy as np

from tasks.curation.dedup import minhash
from training_set.methods import PERMUTATIONS, THRESHOLD, WIDER, Pair, ours, ours_with_wider_bands

HIGH, LOW = 0.9, 0.75  # pairs above HIGH should be found; flagged pairs below LOW are false positives


def mutated(text: str, rate: float, rng: random.Random) -> str:
    """Replaces, removes or duplicates some lines of a text."""
    lines = []
    for line in text.split("\n"):
        kind = rng.random() / rate
        if kind < 0.4:
            lines.append(f"    {rng.choice('abcdef')}_{rng.randrange(10**6)} = {rng.randrange(10**6)}  # changed")
        elif kind < 0.6:
            lines += [line, line]
        elif kind >= 0.8:
            lines.append(line)
    return "\n".join(lines)


def exact_pairs(sets: list[np.ndarray], least: float) -> dict[Pair, float]:
    """The exact Jaccard similarity of all pairs for which it is at least `least`.

    Two such sets share at least one of the rarest |A| - ceil(least * |A|) + 1 elements of each, so only those are
    indexed.
    """
    values, inverse, counts = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(counts, kind="stable")] = np.arange(len(values))
    ordered = np.split(ranks[inverse], np.cumsum([len(elements) for elements in sets])[:-1])
    index: dict[int, list[int]] = collections.defaultdict(list)
    pairs: dict[Pair, float] = {}
    for number, elements in enumerate(ordered):
        prefix = np.sort(elements)[: len(elements) - int(np.ceil(least * len(elements))) + 1].tolist()
        candidates = {other for rank in prefix for other in index[rank]}
        for other in candidates:
            small, large = sorted((len(sets[number]), len(sets[other])))
            if small >= least * large:
                similarity = minhash.jaccard(sets[number], sets[other])
                if similarity >= least:
                    pairs[other, number] = similarity
        for rank in prefix:
            index[rank].append(number)
    return pairs


def components(edges: Iterable[Pair], count: int) -> list[int]:
    """Returns for each document the first document of its connected component."""
    leader = list(range(count))

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for a, b in edges:
        first, second = sorted((find(a), find(b)))
        leader[second] = first
    return [find(number) for number in range(count)]


def section(texts: list[str], count: int) -> Iterator[str]:
    """The lines of this part of the result file."""
    rng = random.Random(0)
    long = [text for text in texts if len(minhash.tokens(text)) >= 200]
    copies = [mutated(rng.choice(long), rng.uniform(0.001, 0.08), rng) for _ in range(count - len(texts))]
    documents = texts + copies
    sets = list(minhash.shingles_of(documents))
    exact = exact_pairs(sets, LOW)
    flagged = ours(documents)
    wider = ours_with_wider_bands(documents)
    high = [pair for pair, similarity in exact.items() if similarity > HIGH]
    direct = sum(pair in flagged for pair in high)
    leader = components(flagged, len(documents))
    joined = sum(leader[a] == leader[b] for a, b in high)
    wrong = sum(pair not in exact for pair in flagged)
    bands, rows = minhash.bands_and_rows(THRESHOLD, PERMUTATIONS)
    yield "## Near duplicates: recall and precision"
    yield ""
    yield f"{len(texts):,} files and {len(copies):,} modified copies (lines replaced, removed or duplicated),"
    yield f"every pair compared exactly, as sets of token 5-grams; {bands} bands of {rows} rows."
    yield ""
    yield "| similarity | pairs | found directly | in one component |"
    yield "|---|---|---|---|"
    limits = (LOW, 0.8, 0.85, 0.9, 0.95, 1.0 + 1e-9)
    for low, end in itertools.pairwise(limits):
        within = [pair for pair, similarity in exact.items() if low < similarity <= end]
        found = share(sum(pair in flagged for pair in within), len(within))
        together = share(sum(leader[a] == leader[b] for a, b in within), len(within))
        yield f"| {low:.2f} to {min(end, 1):.2f} | {len(within):,} | {found} | {together} |"
    yield ""
    yield (
        f"Recall of the {len(high):,} pairs above {HIGH}: {direct / len(high):.3f} found directly,"
        f" {joined / len(high):.3f} in one component."
    )
    yield f"Of the {len(flagged):,} flagged pairs {wrong:,} ({wrong / len(flagged):.2%}) are below {LOW}."
    more, below = share(sum(pair in wider for pair in high), len(high)), sum(pair not in exact for pair in wider)
    yield f"Bands for {WIDER}: {more} found directly, and {below:,} of {len(wider):,} flagged pairs are below {LOW}."
    yield ""


def share(part: int, total: int) -> str:
    return f"{part / total:.3f}" if total else "-"
