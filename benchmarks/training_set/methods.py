"""Methods of finding near duplicates: ours, datasketch and rensa.

All use the same parameters: sets of token 5-grams, signatures of 256 entries, bands for a threshold of 0.85, and pairs
whose estimated similarity is at least the threshold.
"""

import collections

import numpy as np

from tasks.curation.dedup import minhash

THRESHOLD, PERMUTATIONS = 0.85, 256
WIDER = 0.8  # bands for this threshold put more documents into a bucket, so more pairs are compared with THRESHOLD
Pair = tuple[int, int]


def buckets_to_pairs(signatures: np.ndarray, band_threshold: float = THRESHOLD) -> set[Pair]:
    bands, rows = minhash.bands_and_rows(band_threshold, PERMUTATIONS)
    buckets: dict[bytes, list[int]] = collections.defaultdict(list)
    for number, signature in enumerate(signatures):
        for key in minhash.band_keys(signature, bands, rows):
            buckets[key].append(number)
    pairs: set[Pair] = set()
    for members in buckets.values():
        if len(members) > 1:
            # zero-padded, so that names sort like numbers
            named = [(f"{number:09}", signatures[number]) for number in members]
            pairs.update((int(a), int(b)) for a, b in minhash.similar_pairs(named, THRESHOLD))
    return pairs


def ours(texts: list[str], band_threshold: float = THRESHOLD) -> set[Pair]:
    sketch = minhash.MinHash(PERMUTATIONS)
    return buckets_to_pairs(
        np.stack([sketch.signature(shingles) for shingles in minhash.shingles_of(texts)]), band_threshold
    )


def ours_with_wider_bands(texts: list[str]) -> set[Pair]:
    return ours(texts, WIDER)


def five_grams(text: str) -> list[str]:
    words = minhash.tokens(text)
    return [" ".join(words[start : start + 5]) for start in range(max(1, len(words) - 4))]


def with_datasketch(texts: list[str]) -> set[Pair]:
    """As its documentation recommends: in bulk, with a faster hash than SHA-1, without checking for duplicate keys."""
    import datasketch
    import xxhash

    sets = ([gram.encode() for gram in set(five_grams(text))] for text in texts)
    sketches = datasketch.MinHash.bulk(sets, num_perm=PERMUTATIONS, hashfunc=xxhash.xxh32_intdigest)
    index = datasketch.MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    pairs = set()
    for number, sketch in enumerate(sketches):
        similar = (other for other in index.query(sketch) if sketch.jaccard(sketches[other]) >= THRESHOLD)
        pairs.update((other, number) for other in similar)
        index.insert(number, sketch, check_duplication=False)
    return pairs


def with_rensa(texts: list[str]) -> set[Pair]:
    import rensa

    sketches = rensa.RMinHash.from_token_sets((five_grams(text) for text in texts), PERMUTATIONS, 42)
    index = rensa.RMinHashLSH(THRESHOLD, PERMUTATIONS, 16)  # 16 bands of 16 rows: bands must divide the entries
    index.insert_many(sketches)
    return {
        (number, other)
        for number, similar in enumerate(index.query_all(sketches))
        for other in similar
        if other > number and sketches[number].jaccard(sketches[other]) >= THRESHOLD
    }


def with_rensa_and_our_shingles(texts: list[str]) -> set[Pair]:
    import rensa

    sets = list(minhash.shingles_of(texts))
    offsets = np.concatenate(([0], np.cumsum([len(shingles) for shingles in sets]))).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(sets), offsets, PERMUTATIONS, 42)
    return buckets_to_pairs(np.array(matrix.to_rows(), np.uint32))
