"""SentencePiece without TensorFlow: Llama's pieces, and Code Llama's infilling ids beside them.

Text never turns into control tokens. The sixteen extra pieces of Code Llama's own model file are ordinary BPE pieces
there, so a source file that contains " <EOT>" would yield one; here text is encoded with the 32,000 pieces of Llama 2
alone, and the infilling ids are integers that only code can write.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem

UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
INFILLING_ROWS = 16  # rows that Code Llama adds to the vocabulary (reference tokenizer: 32,016 instead of 32,000)

# The last pieces of Code Llama's model file, ids 32,000 to 32,015.
INFILLING_PIECES = ["▁<SU", "▁<SUF", "▁<PRE", "▁<M", "▁<MID", "▁<E", "▁<EOT", "▁<PRE>", "▁<SUF>", "▁<MID>"]
INFILLING_PIECES += ["▁" + "<EOT>" * n for n in range(1, 7)]

_NO_INFILLING = (
    "tokenizer has no infilling ids (34B and Python models were trained without): use complete, or load 7B/13B base"
)
_CURE = "--gin.TOKENIZER=PATH takes a SentencePiece BPE model such as Llama 2's tokenizer.model"

Order = Literal["psm", "spm"]


class Tokenizer:
    """Text to ids and back, as Llama and Code Llama do it.

        tokenizer = Tokenizer.from_file("tokenizer.model", infilling=True)
        tokenizer.encode("def f():\\n")  # array([ 822,  285, 7295,   13], dtype=int32)

    Attributes:
        model: the SentencePiece model (a serialised ModelProto) that `encode` uses, without Code Llama's extra pieces.
        continuation_model: the same with add_dummy_prefix off, which is all that encoding without the implicit space
            takes (measured: 0 differences to the reference's way on 29,842 fuzzed strings).
        infilling: whether the sixteen extra rows are there.
        pieces: number of pieces; every id that comes from text is below it.
        rows: rows that a model's embedding needs: pieces, and 16 more with infilling.
        bos_id, eos_id, unk_id: 1, 2, 0.
        prefix_id, suffix_id, middle_id, eot_id: pieces + 7, 8, 9, 10 (32007 to 32010); None without infilling.
        step_id: pieces + 15 (32015, <step> of the 70B dialogue format); None without infilling.
        fingerprint: hex SHA-256 of `model` and `infilling`: stored beside what was made with the tokenizer.
    """

    def __init__(self, model: bytes | str | os.PathLike[str], infilling: bool):
        """Takes the bytes of a model or the path of a model file.

        Code Llama's 32,016-piece file is taken too: its last 16 pieces are removed, which leaves Llama 2's model.

        Raises:
            UserError: there is no such file, or it is not a SentencePiece model with Llama's ids and rules.
        """
        name = "the tokenizer's model" if isinstance(model, bytes) else os.fspath(model)
        self.model, proto = _checked(
            model if isinstance(model, bytes) else _file_bytes(filesystem.to_path(model)), name
        )
        self._plain = _processor(self.model, name)
        proto.normalizer_spec.add_dummy_prefix = False
        self.continuation_model: bytes = proto.SerializeToString(deterministic=True)
        self._continuation = _processor(self.continuation_model, name)

        self.infilling = infilling
        self.pieces = len(proto.pieces)
        self.rows = self.pieces + (INFILLING_ROWS if infilling else 0)
        self.bos_id, self.eos_id, self.unk_id = BOS_ID, EOS_ID, UNK_ID
        self.prefix_id, self.suffix_id, self.middle_id, self.eot_id, self.step_id = (
            self.pieces + offset if infilling else None for offset in (7, 8, 9, 10, 15)
        )
        self.fingerprint = hashlib.sha256(self.model + (b"+infilling" if infilling else b"")).hexdigest()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], infilling: bool) -> "Tokenizer":
        """The tokenizer of a model file; raises UserError as the constructor does."""
        return cls(os.fspath(path), infilling)

    def encode(self, text: str) -> np.ndarray:
        """int32 ids of a text, with SentencePiece's implicit leading space, without BOS and EOS."""
        return np.asarray(self._plain.encode(text), np.int32)

    def encode_continuation(self, text: str) -> np.ndarray:
        """int32 ids of a text that goes on where another stopped: without the implicit leading space.

        Law: encode(text) == encode_continuation(" " + text) for every text but the empty one.
        """
        return np.asarray(self._continuation.encode(text), np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids from `encode`. Ids that stand for no text (BOS, EOS, UNK, infilling, padding) are dropped.

        Bytes that are not UTF-8, which a model may generate, become U+FFFD. decode(encode(text)) == text for every
        text without U+2581, which SentencePiece cannot tell from a space.
        """
        return self._plain.decode(self._text_ids(ids))

    def decode_continuation(self, ids: Iterable[int]) -> str:
        """The text of ids from `encode_continuation`: as `decode`, but a leading space stays."""
        return self._continuation.decode(self._text_ids(ids))

    def infilling_prompt(self, prefix: str, suffix: str, order: Order = "psm") -> np.ndarray:
        """int32 ids of the prompt after which a model writes the middle, ending it with eot_id.

            psm  <s> PRE enc(prefix) SUF encI(suffix) MID
            spm  <s> PRE SUF encI(suffix) MID enc(prefix)

        The answer to either is decoded with `decode_continuation`.

        Raises:
            UserError: the tokenizer has no infilling ids.
            ValueError: another order.
        """
        if not self.infilling:
            raise UserError(_NO_INFILLING)
        before, after = self.encode(prefix), self.encode_continuation(suffix)
        if order == "psm":
            parts = [[self.bos_id, self.prefix_id], before, [self.suffix_id], after, [self.middle_id]]
        elif order == "spm":
            parts = [[self.bos_id, self.prefix_id, self.suffix_id], after, [self.middle_id], before]
        else:
            raise ValueError(f"order is {order!r}: it is 'psm' or 'spm'")
        return np.concatenate([np.asarray(part, np.int32) for part in parts])

    def _text_ids(self, ids: Iterable[int]) -> list[int]:
        kept = (int(id) for id in ids)
        return [id for id in kept if EOS_ID < id < self.pieces and not self._plain.is_control(id)]


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_CURE}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; {_CURE}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {_CURE}") from None


def _checked(model: bytes, name: str) -> tuple[bytes, Any]:
    """The model without Code Llama's extra pieces, as bytes and as ModelProto; UserError if it is not Llama's kind.

    A protobuf parser takes much for a message (an empty file, one cut between two pieces), and SentencePiece then
    falls back to defaults that change text, so every property that we rely on is looked at.
    """
    try:
        proto = model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]  # made at import by protobuf
        texts = [piece.piece for piece in proto.pieces]  # a damaged name raises UnicodeDecodeError only when read
    except (DecodeError, UnicodeDecodeError):
        raise UserError(f"{name} is not a SentencePiece model; {_CURE}") from None
    if not texts:
        raise UserError(f"{name} is not a SentencePiece model (it has no pieces); {_CURE}")
    if not proto.HasField("trainer_spec") or not proto.HasField("normalizer_spec"):
        raise UserError(f"{name} is cut short (no settings after its {len(texts)} pieces): fetch it again; {_CURE}")

    if texts[-INFILLING_ROWS:] == INFILLING_PIECES:
        del proto.pieces[-INFILLING_ROWS:]
        proto.trainer_spec.vocab_size = len(proto.pieces)
        model = proto.SerializeToString(deterministic=True)

    processor = _processor(model, name)
    ids = (processor.unk_id(), processor.bos_id(), processor.eos_id())
    if ids != (UNK_ID, BOS_ID, EOS_ID):
        raise UserError(f"{name} has unk, bos, eos at ids {ids}: Llama's are at (0, 1, 2), and so are ours; {_CURE}")
    if not proto.trainer_spec.byte_fallback or texts[3 : 3 + 256] != [f"<0x{byte:02X}>" for byte in range(256)]:
        raise UserError(f"{name} has no byte pieces at ids 3 to 258 as Llama's has: it would lose characters; {_CURE}")
    rules = proto.normalizer_spec
    if rules.precompiled_charsmap or rules.remove_extra_whitespaces or not rules.escape_whitespaces:
        raise UserError(f"{name} changes text before encoding it (normaliser {rules.name!r}): code must stay; {_CURE}")
    if not rules.add_dummy_prefix or proto.trainer_spec.treat_whitespace_as_suffix:
        raise UserError(f"{name} puts no implicit space before a text, as Llama's does; {_CURE}")
    return model, proto


def _processor(model: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except (RuntimeError, UnicodeDecodeError) as error:  # the second where the message quotes a damaged piece
        reason = " ".join(str(error).split())
        raise UserError(f"{name} is not a usable SentencePiece model ({reason}); {_CURE}") from None
    return processor
