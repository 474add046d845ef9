"""What the data can be told, as plain values (no TensorFlow here). gin binds these."""

import dataclasses
import math

# The streams a stage may mix, in the order of their ids in `stream_ids`.
STREAMS = ("code", "python", "nl_code", "nl", "instruct")
SPLITS = ("train", "validation")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Where the documents of each stream come from.

    Attributes:
        code, python, nl_code, nl, instruct: a folder of files, or None for the embedded corpus: text that any machine
            with Python has (tasks/local_corpus.py).
        validation_share: share of the files, chosen by a hash of their path, that is kept for validation.
        document_characters: files longer than this are cut at line ends into documents of at most this many
            characters; None leaves them whole, as the paper does. Ours, for size local: at windows of 256 tokens no
            whole source file would fit, and infilling is drawn only for documents that fit.
    """

    code: str | None = None
    python: str | None = None
    nl_code: str | None = None
    nl: str | None = None
    instruct: str | None = None
    validation_share: float = 0.05
    document_characters: int | None = None


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Attributes:
    model: a SentencePiece model file, such as Llama 2's tokenizer.model; None trains one on the corpus, once.
    vocab_size: pieces of the trained one.
    infilling: whether the sixteen rows with the infilling ids follow the pieces (32,016 rows instead of 32,000).
    """

    model: str | None = None
    vocab_size: int = 2048
    infilling: bool = True


@dataclasses.dataclass(frozen=True)
class Fim:
    """The infilling transform (arXiv 2308.12950, section 2.3).

    Attributes:
        rate: probability that a document which fits its window is transformed.
        psm_share: share of the transformed documents in prefix-suffix-middle order; the rest is suffix-prefix-middle.
    """

    rate: float = 0.9
    psm_share: float = 0.5

    def __post_init__(self):
        for field in ("rate", "psm_share"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"Fim.{field}={getattr(self, field)} must be between 0 and 1")


@dataclasses.dataclass(frozen=True)
class Packing:
    """Attributes:
    mask_documents: True masks the documents of a window from one another and restarts positions with each;
        False lets attention and positions run over the whole window, as Llama does (assumption).
    """

    mask_documents: bool = False


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Attributes:
    shares: stream -> share of the tokens. The shares add up to 1.
    """

    shares: dict[str, float]

    def __post_init__(self):
        unknown = [name for name in self.shares if name not in STREAMS]
        if unknown:
            raise ValueError(f"Mixture.shares names unknown streams {unknown}: the streams are {', '.join(STREAMS)}")
        if not math.isclose(sum(self.shares.values()), 1.0, abs_tol=1e-6) or min(self.shares.values()) < 0:
            raise ValueError(f"Mixture.shares={self.shares} must be shares that add up to 1")


@dataclasses.dataclass(frozen=True)
class Stream:
    """Attributes:
    seed: of shuffling, mixing and infilling.
    lanes: independent streams that the global batch is made of. Fixed for a run, whatever the number of hosts; divides
        the batch size and is a multiple of the number of hosts.
    """

    seed: int = 0
    lanes: int = 8

    def __post_init__(self):
        if self.lanes < 1 or self.seed < 0:
            raise ValueError(f"Stream.lanes={self.lanes} must be above 0, Stream.seed={self.seed} at least 0")


@dataclasses.dataclass(frozen=True)
class Chat:
    """Attributes:
    format: "inst" ([INST] ... [/INST], 7B to 34B) or "source" (Source: ..., 70B).
    """

    format: str = "inst"
