"""Tokenizers in the format of Hugging Face's tokenizers library: tokenizer.json, and the files beside it."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from codellama_jax.errors import UserError
from codellama_jax.runtime import git_lfs
from codellama_jax.tokenizer import companions, json_rules
from codellama_jax.tokenizer.base import JSON, Tokenizer
from codellama_jax.tokenizer.companions import Companions, parsed
from codellama_jax.tokenizer.infilling import ADDED, FAMILIES, SEPARATORS, Markers, find_markers

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_CONTROL_NAME = re.compile(r"<[|｜].*[|｜]>|▁?<(PRE|SUF|MID|EOT)>|</?s>|<unk>|<pad>", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class TokenNames:
    """Names of special tokens that replace what the files of a tokenizer.json state.

    Attributes:
        bos: the token that begins a text; "": texts begin without one; None: as the files state.
        eos: the token that ends a text; None: as the files state.
        infilling: prefix, suffix, middle and end of infilling; empty: those of the families that this project knows
            (tokenizer/infilling.py), or new ones.
    """

    bos: str | None = None
    eos: str | None = None
    infilling: tuple[str, ...] = ()


class JsonTokenizer(Tokenizer):
    """A byte-level BPE tokenizer, or one of SentencePiece's kind, from a tokenizer.json.

    The files state which tokens begin and end a text, and which mark a hole. If none does, infilling adds four tokens
    after the last id, and `files` has a tokenizer.json that names them. `files` also states the names of TokenNames: a
    tokenizer that is made from `files` without them is the same one.
    """

    file_name: ClassVar[str] = JSON
    no_infilling: ClassVar[str] = (
        "tokenizer has no infilling ids (its files name none): use complete, or a model that was trained with infilling"
    )

    def __init__(
        self,
        files: Mapping[str, bytes],
        infilling: bool,
        names: TokenNames | None = None,
        name: str = JSON,
    ):
        """Makes a tokenizer from the content of its files.

        Args:
            files: tokenizer.json and the files beside it, by name (tokenizer/companions.py).
            infilling: whether it has ids for infilling.
            names: tokens that replace those that the files state.
            name: names the file in error messages.

        Raises:
            UserError: the file is damaged or would change text, or a token is missing.
        """
        self._name = name
        beside = Companions(files)
        content = _content(files[JSON], name)
        self.files = _with_names(files, beside.config, names) if names else dict(files)
        beside = Companions(self.files)
        added = _added_tokens(content, name)
        known = {token["content"]: int(token["id"]) for token in added}
        vocabulary = json_rules.vocabulary(content, name) | known
        markers = self._markers(beside, vocabulary)
        if infilling and markers is None:
            markers = _add_markers(content, added, vocabulary)
            self.files |= {JSON: json.dumps(content, ensure_ascii=False).encode()}
        self.model, self.markers = self.files[JSON], markers if infilling else None

        stated = [*beside.token_names.values(), *(markers.names if markers else ())]
        self.control_ids = known | {token: vocabulary[token] for token in stated if token in vocabulary}
        plain_text = {token["content"] for token in added if _is_plain(token)}
        self.control_ids = {token: id for token, id in self.control_ids.items() if token not in plain_text}
        try:
            self._rules = json_rules.read(content, self.control_ids, name)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{name} is damaged ({error!r}): fetch it again") from None
        self._texts = self._read_texts(added, vocabulary, {*stated}, beside.end_ids)
        self._encoder = self._library_tokenizer()
        self.implicit_space, self.normalization = self._rules.spaces != "never", self._rules.normalization
        self.stripping = {
            token["content"]: (bool(token.get("lstrip")), bool(token.get("rstrip")))
            for token in added
            if token.get("lstrip") or token.get("rstrip")
        }
        pieces = self._rules.content["model"]["vocab"]
        self.pieces, self.rows = max(pieces.values()) + 1, max(vocabulary.values()) + 1

        self.infilling, self.token_names, self.chat_template = infilling, beside.token_names, beside.chat_template
        self.bos_id = self._bos(content, beside)
        self.eos_id, self.end_ids = self._ends(beside)
        self.unk_id, self.pad_id = (
            self.control_ids.get(self.token_names.get(role, "")) for role in ("unk_token", "pad_token")
        )
        if self.markers is not None:
            self.orders = self.markers.orders
            ids = [vocabulary[token] for token in self.markers.names]
            self.prefix_id, self.suffix_id, self.middle_id, self.eot_id = ids
            self.separator_ids = tuple(self.control_ids[token] for token in SEPARATORS if token in self.control_ids)
        self.fingerprint = self._fingerprint()
        self._check_lossless()

    def encode(self, text: str) -> np.ndarray:
        """See Tokenizer.encode."""
        return self.encode_continuation(" " + text if self.implicit_space and text else text)

    def encode_continuation(self, text: str) -> np.ndarray:
        """See Tokenizer.encode_continuation."""
        return np.asarray(self._encoder.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_segment(self, text: str, first: bool) -> np.ndarray:
        """See Tokenizer.encode_segment."""
        spaces = self._rules.spaces
        if spaces == "each" or (not text.startswith(" ") and (spaces == "always" or (spaces == "first" and first))):
            return self.encode(text)
        return self.encode_continuation(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Decodes ids from `encode`; see Tokenizer.decode.

        decode(encode(text)) == text, in the normal form `normalization`, for every text; of the kind of SentencePiece,
        for every text without U+2581, which it cannot distinguish from a space.
        """
        text = self.decode_continuation(ids)
        return text.removeprefix(" ") if self.implicit_space else text

    def decode_continuation(self, ids: Iterable[int]) -> str:
        """See Tokenizer.decode_continuation."""
        texts = self._texts
        return b"".join(texts[id] for id in map(int, ids) if 0 <= id < len(texts)).decode("utf-8", "replace")

    def token_bytes(self) -> list[bytes]:
        """See Tokenizer.token_bytes. Added tokens that are not marked as special stand for their names."""
        return list(self._texts)

    def vocabulary(self) -> list[tuple[int, str]]:
        """The id and the name of each token; see Tokenizer.vocabulary."""
        names = self._rules.content["model"]["vocab"] | self.control_ids
        return sorted((id, token) for token, id in names.items())

    def _markers(self, beside: Companions, vocabulary: Mapping[str, int]) -> Markers | None:
        """The tokens of infilling that the files name; None if they name none."""
        if (stated := beside.infilling_names()) is None:
            return find_markers(vocabulary)
        if missing := [token for token in stated if token not in vocabulary]:
            raise UserError(
                f"{self._name} has no token {missing[0]!r}, which the infilling tokens name: correct"
                f" Tokenizer.infilling_tokens, or prefix_token to eot_token in {companions.CONFIG}"
            )
        same = (family.orders for family in FAMILIES.values() if family.names == stated)
        return Markers(*stated, orders=next(same, ADDED.orders))

    def _bos(self, content: dict[str, Any], beside: Companions) -> int | None:
        """The id before a text, if tokenizer_config.json or the post-processor of tokenizer.json puts one there."""
        explicit, token = beside.config.get("add_bos_token"), beside.token_names.get("bos_token")
        if explicit is None:
            token = json_rules.post_processor_start(content)
        return self._id(token, "bos_token") if token is not None and explicit is not False else None

    def _ends(self, beside: Companions) -> tuple[int, tuple[int, ...]]:
        """The id that ends a text, and the others that end an answer."""
        ends = [id for id in beside.end_ids if id in self.control_ids.values()]
        if (token := beside.token_names.get("eos_token")) is not None:
            ends.insert(0, self._id(token, "eos_token"))
        if not ends:
            raise UserError(
                f"{self._name} has no token that ends a text: name it with --gin.Tokenizer.eos=TOKEN, or as eos_token"
                f" in a {companions.CONFIG} beside it"
            )
        return ends[0], tuple(id for id in dict.fromkeys(ends) if id != ends[0])

    def _id(self, token: str, role: str) -> int:
        if token not in self.control_ids:
            raise UserError(f"{self._name} has no token {token!r}, which is named as {role}: correct the name")
        return self.control_ids[token]

    def _read_texts(
        self, added: list[dict[str, Any]], vocabulary: Mapping[str, int], named: set[str], ends: Sequence[int]
    ) -> list[bytes]:
        """The bytes of each id. Tokens that have a role have no text: `named`, and the ids in `ends`."""
        texts = [b""] * (max(vocabulary.values()) + 1)
        letters = {ord(letter): chr(byte) for letter, byte in json_rules.letters_to_bytes().items()}
        for piece, id in self._rules.content["model"]["vocab"].items():
            if self._rules.byte_level:
                try:
                    texts[id] = piece.translate(letters).encode("latin-1")
                except UnicodeEncodeError:  # not only letters of bytes
                    texts[id] = piece.encode()
            elif _BYTE_PIECE.fullmatch(piece):
                texts[id] = bytes([int(piece[3:5], 16)])
            else:
                texts[id] = piece.replace(json_rules.SPACE, " ").encode()
        for token in added:
            text, id = token["content"], int(token["id"])
            shown = not token.get("special") and text not in named and not _CONTROL_NAME.fullmatch(text)
            if shown and id not in ends and text not in self._rules.content["model"]["vocab"]:
                texts[id] = text.encode()
        return texts

    def _library_tokenizer(self) -> Any:
        """The tokenizer of the library, which encodes plain text."""
        try:
            import tokenizers
        except ImportError:
            raise UserError(f"{self._name} needs the package tokenizers: pip install 'tokenizers>=0.21'") from None
        try:
            return tokenizers.Tokenizer.from_str(json.dumps(self._rules.content))
        except Exception as error:  # the library has no class of its own for its errors
            raise UserError(f"{self._name} cannot be read ({' '.join(str(error).split())}): fetch it again") from None

    def _fingerprint(self) -> str:
        """A hash of tokenizer.json and of all ids that have a role."""
        roles = [self.bos_id, self.eos_id, self.prefix_id, self.suffix_id, self.middle_id, self.eot_id]
        return hashlib.sha256(self.model + json.dumps(roles).encode()).hexdigest()

    def _check_lossless(self) -> None:
        """Raises UserError if text would be lost: a byte without a piece, or a step that drops characters."""
        pieces = self._rules.content["model"]["vocab"]
        if missing := json_rules.missing_bytes(pieces, self._rules.byte_level):
            listed = ", ".join(f"0x{byte:02X}" for byte in missing[:4])
            raise UserError(
                f"{self._name} has no piece for {len(missing)} bytes ({listed} ...), so it loses characters"
            )
        for text in _PROBES:
            if (found := self.decode(self.encode(text))) != text:
                raise UserError(
                    f"{self._name} does not keep text: {text[:20]!r} becomes {found[:20]!r}; it is not usable"
                )


# Texts in NFC that a tokenizer of source code must keep: all of ASCII, white space of any length, other scripts.
_PROBES = (
    "".join(map(chr, range(128))),
    " x", "x ", "  \t x\r\n\r\n\n   y\n", " " * 100, "\n" * 70, "\t" * 70, "a  b   c    d",
    "1234567890 3.14e-10 0xFF", "don't I'LL we've", "éàüßñ çøå", "日本語 生活 한국어", "Привет, мир",
    "שלום عربى", "🙂🇩🇪👩‍🚀",
    "\u00a0\u2003\u2028\u3000\ufeff", "<|endoftext|></s><s><unk>[INST]<|im_start|><fim_prefix>",
    "\u0301\u200d\U0010ffff",
)  # fmt: skip


def _content(data: bytes, name: str) -> dict[str, Any]:
    if git_lfs.is_pointer(data):
        raise UserError(f"{name} is a Git LFS pointer, not the file itself: {git_lfs.REMEDY}")
    return parsed({name: data}, name)


def _added_tokens(content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The added tokens of a tokenizer.json."""
    added = content.get("added_tokens") or []
    try:
        return [token for token in added if isinstance(token["content"], str) and int(token["id"]) >= 0]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the added tokens of {name} are damaged ({error!r}): fetch it again") from None


def _is_plain(token: dict[str, Any]) -> bool:
    """Whether text may be encoded with an added token: with a byte, and with white space that is not special."""
    text = token["content"]
    blank = text.replace(json_rules.SPACE, " ").isspace() and not token.get("special")
    return blank or _BYTE_PIECE.fullmatch(text) is not None


def _add_markers(content: dict[str, Any], added: list[dict[str, Any]], vocabulary: dict[str, int]) -> Markers:
    """Adds the four tokens of infilling after the last id, to the content and to the vocabulary."""
    first = max(vocabulary.values()) + 1
    for id, token in enumerate(ADDED.names, first):
        vocabulary[token] = id
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        added.append({"id": id, "content": token, **plain})
    content["added_tokens"] = added
    return ADDED


def _with_names(files: Mapping[str, bytes], config: dict[str, Any], names: TokenNames) -> dict[str, bytes]:
    """The files with a tokenizer_config.json that states these names."""
    changed: dict[str, Any] = {}
    if names.bos is not None:
        changed |= {"bos_token": names.bos, "add_bos_token": True} if names.bos else {"add_bos_token": False}
    if names.eos is not None:
        changed["eos_token"] = names.eos
    if names.infilling:
        changed |= dict(
            zip(("prefix_token", "suffix_token", "middle_token", "eot_token"), names.infilling, strict=True)
        )
    if not changed or config | changed == config:
        return dict(files)
    return {**files, companions.CONFIG: (json.dumps(config | changed, indent=2, ensure_ascii=False) + "\n").encode()}
