"""Tokenizers in SentencePiece's format, without TensorFlow: Llama's pieces, plus Code Llama's infilling ids.

Text never turns into control tokens. In Code Llama's own model file the sixteen extra pieces are ordinary BPE pieces,
so a source file that contains " <EOT>" would be encoded with one. Here text is encoded with the 32,000 pieces of Llama
2 only, and the infilling ids are integers that never come from text.

Code Llama 70B has the same rows. In its dialogue format, the last one is <step>.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem, git_lfs
from codellama_jax.tokenizer import companions
from codellama_jax.tokenizer.base import MODEL, Tokenizer

UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
INFILLING_ROWS = 16  # rows that Code Llama adds to the vocabulary (32,016 instead of 32,000)

# The last pieces of Code Llama's model file, ids 32,000 to 32,015.
INFILLING_PIECES = ["▁<SU", "▁<SUF", "▁<PRE", "▁<M", "▁<MID", "▁<E", "▁<EOT", "▁<PRE>", "▁<SUF>", "▁<MID>"]
INFILLING_PIECES += ["▁" + "<EOT>" * n for n in range(1, 7)]
# The first seven are only parts from which SentencePiece merges the four markers.
HELPERS = 7
STEP_PIECE = "<step>"  # the name of the last piece in the 70B dialogue format

# Characters after which a text is cut at the next end of a line. SentencePiece's BPE is faster for parts of this size
# than for whole files (benchmarks/data.md).
_PART = 1_000

# SHA-256 of the pieces of Llama 2, joined by zero bytes: its vocabulary, whatever follows it in a file.
_LLAMA_PIECES, _LLAMA_DIGEST = 32_000, "b43c657d6772da32c3e0971ab610fc3d6a7e45089582758d1bc5160e5cdbe588"

_REMEDY = (
    "--gin.TOKENIZER=PATH (convert: --tokenizer=PATH) takes a SentencePiece BPE model such as Llama 2's tokenizer.model"
)


class SentencePieceTokenizer(Tokenizer):
    """Encodes text to ids and decodes ids to text as Llama and Code Llama do.

        tokenizer = SentencePieceTokenizer.from_file("tokenizer.model", infilling=True)
        tokenizer.encode("def f():\\n")  # array([ 822,  285, 7295,   13], dtype=int32)

    Attributes, besides those of Tokenizer:
        model: the SentencePiece model (a serialised ModelProto) used by `encode`, without Code Llama's extra pieces.
        continuation_model: the same model with add_dummy_prefix off, which encodes without the implicit leading space
            (compared with the reference implementation on 29,842 fuzzed strings: no differences).
        extra_pieces: names of the sixteen infilling pieces at the end of the model file; empty if it has none.

    The ids of infilling are pieces + 7, 8, 9, 10 (32007 to 32010), and step_id is pieces + 15 (32015, <step> of the
    70B dialogue format).
    """

    file_name: ClassVar[str] = MODEL
    no_infilling: ClassVar[str] = (
        "tokenizer has no infilling ids (34B and Python models were trained without): use complete, or load 7B/13B base"
    )
    implicit_space = True

    def __init__(
        self,
        model: bytes | str | os.PathLike[str],
        infilling: bool,
        name: str = "the tokenizer's model",
        files: Mapping[str, bytes] | None = None,
    ):
        """Makes a tokenizer from the bytes of a model or the path of a model file.

        Code Llama's file with 32,016 pieces is accepted: its last 16 pieces are removed, which gives Llama 2's model.
        They are recognised by the names of the four markers. After Llama 2's 32,000 pieces they may have any names.
        Errors name the file, or `name` if there are only bytes. `files` has the files beside it that state a chat
        template and added tokens, if there are any (tokenizer/companions.py).

        Raises:
            UserError: the file does not exist, or it is not a SentencePiece model with Llama's ids and settings.
        """
        name = name if isinstance(model, bytes) else os.fspath(model)
        self.model, proto, self.extra_pieces = _validated(
            model if isinstance(model, bytes) else _file_bytes(filesystem.to_path(model)), name
        )
        self._plain = _processor(self.model, name)
        proto.normalizer_spec.add_dummy_prefix = False
        self.continuation_model: bytes = proto.SerializeToString(deterministic=True)
        self._continuation = _processor(self.continuation_model, name)
        # BPE merges neighbours to pieces. Where no piece continues after a line feed, nothing is merged across one, and
        # the merges on its two sides do not depend on each other.
        is_bpe = proto.trainer_spec.model_type == proto.trainer_spec.BPE
        self._cuts_lines = is_bpe and not any("\n" in piece.piece[:-1] for piece in proto.pieces)

        self.infilling = infilling
        self.pieces = len(proto.pieces)
        self.rows = self.pieces + (INFILLING_ROWS if infilling else 0)
        self.bos_id, self.eos_id, self.unk_id = BOS_ID, EOS_ID, UNK_ID
        self.prefix_id, self.suffix_id, self.middle_id, self.eot_id, self.step_id = (
            self.pieces + offset if infilling else None for offset in (7, 8, 9, 10, 15)
        )
        self.fingerprint = hashlib.sha256(self.model + (b"+infilling" if infilling else b"")).hexdigest()
        self.files = {MODEL: self.model}
        beside = companions.Companions(files or {})
        self.token_names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | beside.token_names
        names = {proto.pieces[id].piece: id for id in range(self.pieces) if self._plain.is_control(id)}
        if infilling:
            names |= {piece: self.pieces + row for row, piece in enumerate(INFILLING_PIECES) if row >= HELPERS}
        self.control_ids = {"<unk>": UNK_ID} | names | beside.added_tokens
        self.chat_template = beside.chat_template

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], infilling: bool) -> "SentencePieceTokenizer":
        """Makes a tokenizer from a model file; raises UserError as the constructor does."""
        return cls(os.fspath(path), infilling)

    def encode(self, text: str) -> np.ndarray:
        """Encodes a text with SentencePiece's implicit leading space, without BOS and EOS; returns int32 ids."""
        return self._encode(text, self._plain)

    def encode_continuation(self, text: str) -> np.ndarray:
        """Encodes the continuation of a text, without the implicit leading space; returns int32 ids.

        encode(text) == encode_continuation(" " + text) for every text except the empty one.
        """
        return self._encode(text, self._continuation)

    def _encode(self, text: str, processor: sentencepiece.SentencePieceProcessor) -> np.ndarray:
        """Encodes with `processor`, a long text in parts: only the first can have an implicit space."""
        ids: list[int] = []
        start = 0
        while self._cuts_lines and (end := text.find("\n", start + _PART) + 1):
            ids += processor.encode(text[start:end])
            start, processor = end, self._continuation
        ids += processor.encode(text[start:])
        return np.asarray(ids, np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Decodes ids from `encode`. Ids that represent no text (BOS, EOS, UNK, infilling, padding) are dropped.

        Bytes that are not UTF-8, which a model may generate, become U+FFFD. decode(encode(text)) == text for every
        text without U+2581, which SentencePiece cannot distinguish from a space.
        """
        return self._plain.decode(self._text_ids(ids))

    def decode_continuation(self, ids: Iterable[int]) -> str:
        """Decodes ids from `encode_continuation`: like `decode`, but keeps a leading space."""
        return self._continuation.decode(self._text_ids(ids))

    def token_bytes(self) -> list[bytes]:
        """The bytes that each id from text stands for; b"" for control ids. Ids beyond the list represent no text."""
        texts = []
        for id in range(self.pieces):
            piece = self._plain.id_to_piece(id)
            if self._plain.is_control(id) or self._plain.is_unknown(id):
                texts.append(b"")
            elif self._plain.is_byte(id):
                texts.append(bytes([int(piece[3:5], 16)]))
            else:
                texts.append(piece.replace("▁", " ").encode())
        return texts

    def token_name(self, id: int) -> str:
        """The name of a control token that texts and dialogues have; <ID> of another id."""
        names = {BOS_ID: "<s>", EOS_ID: "</s>", UNK_ID: "<unk>", self.eot_id: "<EOT>"}
        return names.get(id, f"<{id}>")

    def vocabulary(self) -> list[tuple[str, float, int]]:
        """Piece, score and type of each id; see Tokenizer.vocabulary."""
        pieces = model_pb2.ModelProto.FromString(self.model).pieces  # type: ignore[attr-defined]
        return [(piece.piece, piece.score, piece.type) for piece in pieces]

    def _text_ids(self, ids: Iterable[int]) -> list[int]:
        integers = (int(id) for id in ids)
        return [id for id in integers if EOS_ID < id < self.pieces and not self._plain.is_control(id)]


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_REMEDY}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; {_REMEDY}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {_REMEDY}") from None


def has_infilling_pieces(pieces: Sequence[str]) -> bool:
    """Whether the last sixteen pieces of a vocabulary are those of the infilling rows.

    The four markers have the same names in all files. The helper pieces before them have other names in the exports of
    this project, the last piece is <step> in the 70B dialogue format, and some files of 70B name none of them.
    """
    last = pieces[-INFILLING_ROWS:]
    markers = slice(HELPERS, INFILLING_ROWS - 1)
    if last[markers] == INFILLING_PIECES[markers] and last[-1] in (INFILLING_PIECES[-1], STEP_PIECE):
        return True
    if len(pieces) != _LLAMA_PIECES + INFILLING_ROWS:
        return False
    return hashlib.sha256("\0".join(pieces[:_LLAMA_PIECES]).encode()).hexdigest() == _LLAMA_DIGEST


def _validated(model: bytes, name: str) -> tuple[bytes, Any, list[str]]:
    """Returns the model without Code Llama's extra pieces, as bytes and as ModelProto, and the names of those pieces.
    Raises UserError if its ids or settings differ from Llama's.

    A protobuf parser accepts many invalid files (an empty file, one truncated between two pieces), and SentencePiece
    then falls back to defaults that change text. So every property that this module relies on is checked.
    """
    if git_lfs.is_pointer(model):
        raise UserError(f"{name} is a Git LFS pointer, not the file itself: {git_lfs.REMEDY}")
    try:
        proto = model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]  # made at import by protobuf
        texts = [piece.piece for piece in proto.pieces]  # a damaged piece is found only here: an error, or bytes
        damaged = any(isinstance(text, bytes) for text in texts)
    except (DecodeError, UnicodeDecodeError):
        damaged = True
    if damaged:
        raise UserError(f"{name} is not a SentencePiece model; {_REMEDY}")
    if not texts:
        raise UserError(f"{name} is not a SentencePiece model (it has no pieces); {_REMEDY}")
    if not proto.HasField("trainer_spec") or not proto.HasField("normalizer_spec"):
        raise UserError(
            f"{name} is truncated (no settings after its {len(texts)} pieces): download it again; {_REMEDY}"
        )

    extra = texts[-INFILLING_ROWS:] if has_infilling_pieces(texts) else []
    if extra:
        del proto.pieces[-INFILLING_ROWS:]
        proto.trainer_spec.vocab_size = len(proto.pieces)
        model = proto.SerializeToString(deterministic=True)

    processor = _processor(model, name)
    ids = (processor.unk_id(), processor.bos_id(), processor.eos_id())
    if ids != (UNK_ID, BOS_ID, EOS_ID):
        raise UserError(f"{name} has unk, bos, eos at ids {ids}; Llama's ids are (0, 1, 2); {_REMEDY}")
    if not proto.trainer_spec.byte_fallback or texts[3 : 3 + 256] != [f"<0x{byte:02X}>" for byte in range(256)]:
        raise UserError(f"{name} has no byte pieces at ids 3 to 258, so it would lose characters; {_REMEDY}")
    rules = proto.normalizer_spec
    if rules.precompiled_charsmap or rules.remove_extra_whitespaces or not rules.escape_whitespaces:
        raise UserError(
            f"{name} normalises text before encoding ({rules.name!r}), which would change source code; {_REMEDY}"
        )
    if not rules.add_dummy_prefix or proto.trainer_spec.treat_whitespace_as_suffix:
        raise UserError(f"{name} does not add an implicit leading space as Llama's does; {_REMEDY}")
    return model, proto, extra


def _processor(model: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except (RuntimeError, UnicodeDecodeError) as error:  # UnicodeDecodeError: the message quotes a damaged piece
        reason = " ".join(str(error).split())
        raise UserError(f"{name} is not a usable SentencePiece model ({reason}); {_REMEDY}") from None
    return processor
