"""Speed of each method of finding near duplicates."""

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from tasks.curation.clean.content_hash import content_hash
from tasks.curation.dedup import minhash
from training_set.methods import (
    PERMUTATIONS,
    THRESHOLD,
    WIDER,
    Pair,
    buckets_to_pairs,
    ours,
    ours_with_wider_bands,
    with_datasketch,
    with_rensa,
    with_rensa_and_our_shingles,
)
from training_set.recall import HIGH, LOW, share


def section(texts: list[str], rounds: int) -> Iterator[str]:
    """The lines of this part of the result file."""
    methods: dict[str, Callable[[list[str]], set[Pair]]] = {
        "codellama_jax": ours,
        f"codellama_jax, bands for {WIDER}": ours_with_wider_bands,
        "datasketch": with_datasketch,
    }
    if importlib.util.find_spec("rensa"):
        methods |= {"rensa": with_rensa, "rensa, our shingles and bands": with_rensa_and_our_shingles}
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    pairs: dict[str, set[Pair]] = {}
    for number in range(rounds):
        order = list(methods)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            start = time.process_time()
            pairs[name] = methods[name](texts)
            seconds[name].append(time.process_time() - start)
    sets = list(minhash.shingles_of(texts))
    union = set().union(*pairs.values())
    exact = {(a, b): minhash.jaccard(sets[a], sets[b]) for a, b in union}
    high = [pair for pair, similarity in exact.items() if similarity > HIGH]
    yield "## Near duplicates: speed"
    yield ""
    yield f"{len(texts):,} files, {megabytes:,.0f} MB; {rounds} rounds, one process. From texts to pairs whose"
    yield f"estimate reaches {THRESHOLD}. Recall is of the {len(high):,} pairs above {HIGH} that any method found."
    yield ""
    yield "| | documents per CPU-second | MB per CPU-second | speed-up of ours | recall | flagged | below 0.75 |"
    yield "|---|---|---|---|---|---|---|"
    for name, times in seconds.items():
        ratio = statistics.median(theirs / ours_ for theirs, ours_ in zip(times, seconds["codellama_jax"], strict=True))
        median, found = statistics.median(times), pairs[name]
        wrong = sum(exact[pair] < LOW for pair in found)
        yield (
            f"| {name} | {len(texts) / median:,.0f} | {megabytes / median:,.1f} | {ratio:.1f} |"
            f" {share(sum(pair in found for pair in high), len(high))} | {len(found):,} | {share(wrong, len(found))} |"
        )
    yield ""
    yield from stages(texts, megabytes)


def stages(texts: list[str], megabytes: float) -> Iterator[str]:
    """Our time by stage, and the time of rensa for the same signatures."""
    sketch = minhash.MinHash(PERMUTATIONS)
    bands, rows = minhash.bands_and_rows(THRESHOLD, PERMUTATIONS)
    sets, shingling = timed(lambda: list(minhash.shingles_of(texts)))
    signatures, sketching = timed(lambda: sketch.signatures(sets))
    _, keying = timed(lambda: [minhash.band_keys(signature, bands, rows) for signature in signatures])
    _, pairing = timed(lambda: buckets_to_pairs(signatures))
    _, keys = timed(lambda: [content_hash(text) for text in texts])
    each = 1e6 / len(texts)
    yield (
        f"Ours, by stage: shingles {megabytes / shingling:,.0f} MB per second; signatures {sketching * each:,.0f} µs,"
        f" band keys {keying * each:,.0f} µs, buckets and pairs {(pairing - keying) * each:,.0f} µs per document."
    )
    mean = np.mean([len(shingles) for shingles in sets])
    yield (
        f"A document has {mean:,.0f} shingles. Content hashes for exact duplicates: {megabytes / keys:,.0f} MB per"
        " second."
    )
    if importlib.util.find_spec("rensa"):
        import rensa

        offsets = np.concatenate(([0], np.cumsum([len(shingles) for shingles in sets]))).astype(np.uint64)
        flat = np.concatenate(sets)
        digest = rensa.RMinHash.digest_matrix_from_flat_token_hashes
        _, seconds = timed(lambda: digest(flat, offsets, PERMUTATIONS, 42))
        yield f"The signatures of the same shingles with rensa's R-MinHash: {seconds * each:,.0f} µs per document."
    yield ""


def timed(call: Callable):
    """The result of a call, and its CPU seconds."""
    start = time.process_time()
    value = call()
    return value, time.process_time() - start
