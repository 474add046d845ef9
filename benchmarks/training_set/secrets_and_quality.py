"""Speed of redaction and of the quality filters."""

import collections
import importlib.util
from collections.abc import Iterator

from tasks.curation.clean import quality, redaction
from tasks.sources import languages
from tasks.sources.filters import LeftOut
from training_set.speed import timed


def section(files: list[tuple[str, str]]) -> Iterator[str]:
    """The lines of this part of the result file."""
    sample = files[:3_000]
    size = sum(len(text.encode()) for _, text in sample) / 1e6
    counts: collections.Counter[str] = collections.Counter()
    filtered: collections.Counter[str] = collections.Counter()

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
                filtered[reason.reason] += 1

    _, redacting = timed(redact)
    _, checking = timed(check)
    yield "## Secrets and quality"
    yield ""
    yield f"{len(sample):,} files, {size:,.0f} MB."
    yield f"Redaction: {size / redacting:,.0f} MB per CPU-second; replaced {dict(counts)}."
    yield f"Quality filters: {size / checking:,.0f} MB per CPU-second; filtered {dict(filtered)}."
    if importlib.util.find_spec("detect_secrets"):
        yield f"detect-secrets, all plug-ins, line by line: {with_detect_secrets(sample[:60]):.2f} MB per CPU-second."


def with_detect_secrets(sample: list[tuple[str, str]]) -> float:
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import default_settings

    with default_settings():
        lines = [line for _, text in sample for line in text.split("\n")]
        _, seconds = timed(lambda: [list(scan_line(line)) for line in lines])
    return sum(len(text.encode()) for _, text in sample) / 1e6 / seconds
