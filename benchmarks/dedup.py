"""What building a training set finds, and what it costs: near duplicates, evaluation problems, secrets, quality.

    python benchmarks/dedup.py [--problems=/path/to/HumanEval.jsonl.gz,/path/to/mbpp.jsonl] [--rounds=3] [--out=FILE]

Beside the project's environment it wants datasketch and xxhash, and takes rensa and detect-secrets where they are
installed. The documents are files of code of the interpreter that runs this: its standard library and its
site-packages, each content once, drawn by a hash of their paths.

Contestants take turns on the same texts, which they find in memory, a round is one of each, and what is given is the
median over rounds. Times are CPU times of the process (time.process_time). All make their pairs in the same way: sets
of token 5-grams, signatures of 256 entries, bands that suit a threshold of 0.85, pairs whose estimate reaches it.
"""

import argparse
import ast
import collections
import datetime
import hashlib
import importlib.metadata
import importlib.util
import itertools
import os
import pickle
import platform
import random
import re
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from machine import processor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from codellama_jax.config.curation import Decontamination
from tasks.curation.clean import quality, redaction
from tasks.curation.clean.content_hash import content_hash
from tasks.curation.decontaminate.index import Index
from tasks.curation.decontaminate.problems import Problem, read_problems
from tasks.curation.dedup import minhash
from tasks.sources import languages
from tasks.sources.filters import LeftOut

THRESHOLD, PERMUTATIONS = 0.85, 256
WIDER = 0.8  # the threshold of other bands, for the same pairs: more meet, and more are compared
HIGH, LOW = 0.9, 0.75  # similar pairs that should be found; flagged pairs below this are mistakes
Pair = tuple[int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default="", help="files of evaluation problems, by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=20_000, help="documents that speed is measured on")
    parser.add_argument(
        "--compared", type=int, default=5_000, help="documents that are compared with each other exactly"
    )
    parser.add_argument("--roots", default="", help="more folders of code, by commas")
    parser.add_argument("--out", type=Path, help="where to write the result (default: the terminal)")
    options = parser.parse_args()
    text = "".join(line + "\n" for line in result(options))
    print(text)
    if options.out:
        options.out.write_text(text)


def result(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the result file."""
    library, packages = sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]
    files = list(documents([library, packages, *filter(None, options.roots.split(","))]))
    names = ("numpy", "datasketch", "xxhash", "rensa", "detect-secrets")
    versions = ", ".join(f"{name} {version}" for name in names if (version := version_of(name)))
    yield f"# Building a training set, {datetime.date.today()}"
    yield ""
    arguments = re.sub(r"[^\s,=]*/([^\s,/]+)", r"\1", " ".join(sys.argv[1:]))
    yield f"    python benchmarks/dedup.py {arguments}"
    yield ""
    yield f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()}, {versions}."
    yield f"{len(files):,} different files of code: the standard library and site-packages."
    yield ""
    yield from quality_of_pairs([text for _, text in files[: options.compared * 4 // 5]], options.compared)
    yield from speed([text for _, text in files[: options.files]], options.rounds)
    if options.problems:
        plain = [text for path, text in files if path.startswith(library) and "site-packages" not in path]
        yield from planted(read_problems(options.problems.split(",")), plain, [text for _, text in files])
    yield from other_costs(files)


def version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def documents(roots: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(path, text) of the files of code below the folders, each content once, in an order that only paths decide."""
    paths = {
        os.path.join(folder, name): root
        for root in roots
        for folder, _, names in os.walk(root)
        for name in names
        if languages.of_path(name)
    }
    seen = set()
    for path in sorted(paths, key=lambda path: hashlib.sha256(path[len(paths[path]) :].encode()).digest()):
        try:
            if not 0 < os.path.getsize(path) <= 1 << 20:
                continue
            text = Path(path).read_bytes().decode("utf-8")
        except (OSError, UnicodeError):
            continue
        key = content_hash(text)
        if text.strip() and key not in seen:
            seen.add(key)
            yield path, text


# --- near duplicates: what is found -----------------------------------------------------------------------------------


def mutated(text: str, rate: float, rng: random.Random) -> str:
    """A text some of whose lines are replaced, left out, or doubled."""
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
    """All pairs whose Jaccard similarity is at least this, exactly.

    Two such sets have one in common among the rarest |A| - ceil(least * |A|) + 1 elements of each: those are indexed.
    """
    values, inverse, counts = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(counts, kind="stable")] = np.arange(len(values))
    ordered = np.split(ranks[inverse], np.cumsum([len(found) for found in sets])[:-1])
    index: dict[int, list[int]] = collections.defaultdict(list)
    found: dict[Pair, float] = {}
    for number, elements in enumerate(ordered):
        prefix = np.sort(elements)[: len(elements) - int(np.ceil(least * len(elements))) + 1].tolist()
        candidates = {other for rank in prefix for other in index[rank]}
        for other in candidates:
            small, large = sorted((len(sets[number]), len(sets[other])))
            if small >= least * large:
                similarity = minhash.jaccard(sets[number], sets[other])
                if similarity >= least:
                    found[other, number] = similarity
        for rank in prefix:
            index[rank].append(number)
    return found


def components(edges: Iterable[Pair], count: int) -> list[int]:
    """Of each document the first one of its component."""
    leader = list(range(count))

    def led(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for a, b in edges:
        first, second = sorted((led(a), led(b)))
        leader[second] = first
    return [led(number) for number in range(count)]


def quality_of_pairs(texts: list[str], count: int) -> Iterator[str]:
    """Near duplicates beside exact similarity."""
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
    yield "## Near duplicates: what is found"
    yield ""
    yield f"{len(texts):,} files and {len(copies):,} changed copies of such (lines replaced, left out or doubled),"
    yield f"every pair compared exactly as sets of token 5-grams; {bands} bands of {rows} rows."
    yield ""
    yield "| similarity of a pair | pairs | an edge | in one component |"
    yield "|---|---|---|---|"
    edges = (LOW, 0.8, 0.85, 0.9, 0.95, 1.0 + 1e-9)
    for low, end in itertools.pairwise(edges):
        within = [pair for pair, similarity in exact.items() if low < similarity <= end]
        edge = share(sum(pair in flagged for pair in within), len(within))
        together = share(sum(leader[a] == leader[b] for a, b in within), len(within))
        yield f"| {low:.2f} to {min(end, 1):.2f} | {len(within):,} | {edge} | {together} |"
    yield ""
    yield (
        f"Recall of the {len(high):,} pairs above {HIGH}: {direct / len(high):.3f} by an edge,"
        f" {joined / len(high):.3f} in one component."
    )
    yield f"Of the {len(flagged):,} flagged pairs {wrong:,} ({wrong / len(flagged):.2%}) are below {LOW}."
    more, below = share(sum(pair in wider for pair in high), len(high)), sum(pair not in exact for pair in wider)
    yield f"With bands for {WIDER}: {more} by an edge, and {below:,} of {len(wider):,} flagged pairs are below {LOW}."
    yield ""


def share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"


# --- near duplicates: what they cost ----------------------------------------------------------------------------------


def buckets_to_pairs(signatures: np.ndarray, meeting: float = THRESHOLD) -> set[Pair]:
    bands, rows = minhash.bands_and_rows(meeting, PERMUTATIONS)
    buckets: dict[bytes, list[int]] = collections.defaultdict(list)
    for number, signature in enumerate(signatures):
        for key in minhash.band_keys(signature, bands, rows):
            buckets[key].append(number)
    pairs: set[Pair] = set()
    for members in buckets.values():
        if len(members) > 1:
            # names that sort as the numbers do
            named = [(f"{number:09}", signatures[number]) for number in members]
            pairs.update((int(a), int(b)) for a, b in minhash.similar_pairs(named, THRESHOLD))
    return pairs


def ours(texts: list[str], meeting: float = THRESHOLD) -> set[Pair]:
    sketch = minhash.MinHash(PERMUTATIONS)
    return buckets_to_pairs(np.stack([sketch.signature(found) for found in minhash.shingles_of(texts)]), meeting)


def ours_with_wider_bands(texts: list[str]) -> set[Pair]:
    return ours(texts, WIDER)


def five_grams(text: str) -> list[str]:
    words = minhash.tokens(text)
    return [" ".join(words[begin : begin + 5]) for begin in range(max(1, len(words) - 4))]


def with_datasketch(texts: list[str]) -> set[Pair]:
    """As its documentation advises: in bulk, with a faster hash than SHA-1, and without a search for equal keys."""
    import datasketch
    import xxhash

    sets = ([gram.encode() for gram in set(five_grams(text))] for text in texts)
    sketches = datasketch.MinHash.bulk(sets, num_perm=PERMUTATIONS, hashfunc=xxhash.xxh32_intdigest)
    index = datasketch.MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    pairs = set()
    for number, sketch in enumerate(sketches):
        found = (other for other in index.query(sketch) if sketch.jaccard(sketches[other]) >= THRESHOLD)
        pairs.update((other, number) for other in found)
        index.insert(number, sketch, check_duplication=False)
    return pairs


def with_rensa(texts: list[str]) -> set[Pair]:
    import rensa

    sketches = rensa.RMinHash.from_token_sets((five_grams(text) for text in texts), PERMUTATIONS, 42)
    index = rensa.RMinHashLSH(THRESHOLD, PERMUTATIONS, 16)  # bands that divide the entries, and as many rows
    index.insert_many(sketches)
    return {
        (number, other)
        for number, found in enumerate(index.query_all(sketches))
        for other in found
        if other > number and sketches[number].jaccard(sketches[other]) >= THRESHOLD
    }


def with_rensa_and_our_shingles(texts: list[str]) -> set[Pair]:
    import rensa

    sets = list(minhash.shingles_of(texts))
    offsets = np.concatenate(([0], np.cumsum([len(found) for found in sets]))).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(sets), offsets, PERMUTATIONS, 42)
    return buckets_to_pairs(np.array(matrix.to_rows(), np.uint32))


def speed(texts: list[str], rounds: int) -> Iterator[str]:
    """Documents a CPU-second of each contestant."""
    contestants: dict[str, Callable[[list[str]], set[Pair]]] = {
        "codellama_jax": ours,
        f"codellama_jax, bands for {WIDER}": ours_with_wider_bands,
        "datasketch": with_datasketch,
    }
    if importlib.util.find_spec("rensa"):
        contestants |= {"rensa": with_rensa, "rensa, our shingles and bands": with_rensa_and_our_shingles}
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    pairs: dict[str, set[Pair]] = {}
    for number in range(rounds):
        order = list(contestants)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            begin = time.process_time()
            pairs[name] = contestants[name](texts)
            seconds[name].append(time.process_time() - begin)
    sets = list(minhash.shingles_of(texts))
    union = set().union(*pairs.values())
    exact = {(a, b): minhash.jaccard(sets[a], sets[b]) for a, b in union}
    high = [pair for pair, similarity in exact.items() if similarity > HIGH]
    yield "## Near duplicates: what they cost"
    yield ""
    yield f"{len(texts):,} files, {megabytes:,.0f} MB; {rounds} rounds in turns, one process. From texts to pairs whose"
    yield f"estimate reaches {THRESHOLD}. Recall is of the {len(high):,} pairs above {HIGH} that any contestant found."
    yield ""
    yield "| | documents a CPU-second | MB a CPU-second | ours is faster by | recall | flagged | below 0.75 |"
    yield "|---|---|---|---|---|---|---|"
    for name, times in seconds.items():
        ratio = statistics.median(theirs / mine for theirs, mine in zip(times, seconds["codellama_jax"], strict=True))
        median, found = statistics.median(times), pairs[name]
        wrong = sum(exact[pair] < LOW for pair in found)
        yield (
            f"| {name} | {len(texts) / median:,.0f} | {megabytes / median:,.1f} | {ratio:.1f} |"
            f" {share(sum(pair in found for pair in high), len(high))} | {len(found):,} | {share(wrong, len(found))} |"
        )
    yield ""
    yield from stages(texts, megabytes)


def stages(texts: list[str], megabytes: float) -> Iterator[str]:
    """Where our time goes, and the sketch alone beside rensa's."""
    sketch = minhash.MinHash(PERMUTATIONS)
    bands, rows = minhash.bands_and_rows(THRESHOLD, PERMUTATIONS)
    sets, shingling = timed(lambda: list(minhash.shingles_of(texts)))
    signatures, sketching = timed(lambda: sketch.signatures(sets))
    _, keying = timed(lambda: [minhash.band_keys(signature, bands, rows) for signature in signatures])
    _, pairing = timed(lambda: buckets_to_pairs(signatures))
    _, keys = timed(lambda: [content_hash(text) for text in texts])
    each = 1e6 / len(texts)
    yield (
        f"Ours, by stage: shingles {megabytes / shingling:,.0f} MB a second; signatures {sketching * each:,.0f} µs,"
        f" band keys {keying * each:,.0f} µs, buckets and pairs {(pairing - keying) * each:,.0f} µs a document."
    )
    shingles = np.mean([len(found) for found in sets])
    yield f"A document has {shingles:,.0f} shingles. Exact keys: {megabytes / keys:,.0f} MB a second."
    if importlib.util.find_spec("rensa"):
        import rensa

        offsets = np.concatenate(([0], np.cumsum([len(found) for found in sets]))).astype(np.uint64)
        flat = np.concatenate(sets)
        digest = rensa.RMinHash.digest_matrix_from_flat_token_hashes
        _, seconds = timed(lambda: digest(flat, offsets, PERMUTATIONS, 42))
        yield f"The signatures of the same shingles by rensa's R-MinHash: {seconds * each:,.0f} µs a document."
    yield ""


def timed(call: Callable):
    """What it returns, and its CPU seconds."""
    begin = time.process_time()
    value = call()
    return value, time.process_time() - begin


# --- evaluation problems ----------------------------------------------------------------------------------------------

BEFORE = "import os\n\n\ndef listed(path):\n    for entry in os.listdir(path):\n        print(entry)\n\n\n"
AFTER = "\n\n\nif __name__ == '__main__':\n    listed('.')\n"


def renamed(code: str) -> str:
    """Python whose parameters, variables and functions have other names, also where a docstring or comment has them."""
    names: dict[str, str] = {}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.arg):
            names.setdefault(node.arg, "")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.setdefault(node.id, "")
        elif isinstance(node, ast.FunctionDef):
            names.setdefault(node.name, "")
    names = {name: f"{'abcdefgh'[number % 8]}_name{number}" for number, name in enumerate(sorted(names))}
    return re.sub(r"\b[A-Za-z_]\w*\b", lambda match: names.get(match[0], match[0]), code)


def reindented(code: str) -> str:
    lines = code.expandtabs(4).splitlines()
    return "".join(" " * (8 + 2 * (len(line) - len(line.lstrip()))) + line.strip() + "\r\n" for line in lines)


def plants(problem: Problem) -> Iterator[tuple[str, str]]:
    texts = problem.texts
    prompt, solution = texts.get("prompt", ""), texts.get("canonical_solution") or texts.get("code", "")
    whole = prompt + solution if prompt else f"# {texts['text']}\n{solution}\n"
    other = renamed(prompt + solution).splitlines(keepends=True)
    body = "".join(other[len(prompt.splitlines()) :])
    yield "whole problem, verbatim", whole
    yield "whole problem, re-indented", reindented(whole)
    yield "solution alone, verbatim", solution
    yield "solution alone, re-indented", reindented(solution)
    yield "whole problem, renamed", "".join(other) if prompt else f"# {texts['text']}\n{body}"
    yield "solution alone, renamed", body


def planted(needles: list[Problem], plain: list[str], many: list[str]) -> Iterator[str]:
    """Evaluation problems in documents, and documents without any."""
    index, seconds = timed(lambda: Index(needles))
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    totals: collections.Counter[tuple[str, str]] = collections.Counter()
    for problem in needles:
        for kind, text in plants(problem):
            key = (kind, problem.name.partition(":")[0])
            totals[key] += 1
            found[key] += bool(index.hits(BEFORE + text + AFTER))
    sets = sorted({name for _, name in totals}, key=str.lower)
    yield "## Evaluation problems"
    yield ""
    yield (
        f"{len(needles):,} problems, {len(index):,} stretches, indexed in {seconds:.1f} s,"
        f" {len(pickle.dumps(index)) / 1e6:.1f} MB pickled; each planted between functions of another file."
    )
    yield ""
    yield f"| planted | {' | '.join(f'{name} found' for name in sets)} |"
    yield "|---|" + "---|" * len(sets)
    for kind in dict.fromkeys(kind for kind, _ in totals):
        yield f"| {kind} | {' | '.join(f'{found[kind, name]:,} of {totals[kind, name]:,}' for name in sets)} |"
    yield ""
    sizes = itertools.accumulate(len(text.encode()) for text in plain)
    twenty = [text for text, size in zip(plain, sizes, strict=True) if size <= 20e6]
    without = Index(needles, Decontamination(structure=0))
    for texts, what in ((plain, "the standard library"), (many, "all files")):
        found_in = [index.hits(text) for text in texts]
        words = sum(any(not hit.renamed for hit in hits) for hits in found_in)
        structure = sum(any(hit.renamed for hit in hits) for hits in found_in)
        yield f"Of {what} ({len(texts):,}) {words:,} are hits by words and {structure:,} by structure."
    size = sum(len(text.encode()) for text in twenty) / 1e6
    rates = [size / timed(lambda: [index.hits(text) for text in twenty])[1] for _ in range(3)]
    plainer = [size / timed(lambda: [without.hits(text) for text in twenty])[1] for _ in range(3)]
    yield (
        f"Speed on {size:.0f} MB of the standard library: {statistics.median(rates):,.0f} MB a CPU-second,"
        f" {statistics.median(plainer):,.0f} by words alone."
    )
    yield ""


# --- the rest ---------------------------------------------------------------------------------------------------------


def other_costs(files: list[tuple[str, str]]) -> Iterator[str]:
    """Redaction and quality."""
    sample = files[:3_000]
    size = sum(len(text.encode()) for _, text in sample) / 1e6
    counts: collections.Counter[str] = collections.Counter()
    left_out: collections.Counter[str] = collections.Counter()

    def redact() -> None:
        for _, text in sample:
            counts.update(redaction.redact(text)[1])

    def check() -> None:
        settings = quality.Quality()
        for path, text in sample:
            try:
                quality.check_document(text, "", settings)
                quality.check_code(text, languages.of_path(path), settings)
            except LeftOut as reason:
                left_out[reason.reason] += 1

    _, redacting = timed(redact)
    _, checking = timed(check)
    yield "## Secrets and quality"
    yield ""
    yield f"{len(sample):,} files, {size:,.0f} MB."
    yield f"Redaction: {size / redacting:,.0f} MB a CPU-second; replaced {dict(counts)}."
    yield f"Filters of quality: {size / checking:,.0f} MB a CPU-second; left out {dict(left_out)}."
    if importlib.util.find_spec("detect_secrets"):
        yield f"detect-secrets, all its plug-ins, line by line: {with_detect_secrets(sample[:60]):.2f} MB a CPU-second."


def with_detect_secrets(sample: list[tuple[str, str]]) -> float:
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import default_settings

    with default_settings():
        lines = [line for _, text in sample for line in text.split("\n")]
        _, seconds = timed(lambda: [list(scan_line(line)) for line in lines])
    return sum(len(text.encode()) for _, text in sample) / 1e6 / seconds


if __name__ == "__main__":
    main()
