"""Text to token ids and back, with SentencePiece's tokenizer.model or with tokenizer.json, behind one interface.

Text never turns into control tokens: a source file that contains <|fim_prefix|> is encoded as these characters.
"""

from codellama_jax.tokenizer.base import JSON, MODEL, Tokenizer
from codellama_jax.tokenizer.infilling import Order
from codellama_jax.tokenizer.json_tokenizer import JsonTokenizer, TokenNames
from codellama_jax.tokenizer.opening import from_files, names_infilling, open_tokenizer
from codellama_jax.tokenizer.sentencepiece_tokenizer import (
    BOS_ID,
    EOS_ID,
    HELPERS,
    INFILLING_PIECES,
    INFILLING_ROWS,
    STEP_PIECE,
    UNK_ID,
    SentencePieceTokenizer,
    has_infilling_pieces,
)

__all__ = [
    "BOS_ID",
    "EOS_ID",
    "HELPERS",
    "INFILLING_PIECES",
    "INFILLING_ROWS",
    "JSON",
    "MODEL",
    "STEP_PIECE",
    "UNK_ID",
    "JsonTokenizer",
    "Order",
    "SentencePieceTokenizer",
    "TokenNames",
    "Tokenizer",
    "from_files",
    "has_infilling_pieces",
    "names_infilling",
    "open_tokenizer",
]
