"""Tokenizers in the structure of each family's tokenizer.json, trained here on the standard library's source.

The divisions of text, the normalizers, the special tokens and the files beside them are those of the published
tokenizers; the merges are trained here, because those of the published ones are not at hand.
"""

import functools
import json
from pathlib import Path
from typing import Any

ROOT = Path(json.__file__).parent.parent
# Llama 3's, with digits in groups of at most three, and Qwen2.5's, with one digit
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT, QWEN_SPLIT = _WORDS % r"\p{N}{1,3}", _WORDS % r"\p{N}"
DEEPSEEK_SPLITS = (
    r"[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    r"[一-龥ࠀ-一가-퟿]+",
)

LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"]
LLAMA3 += ["<|reserved_special_token_2|>", "<|reserved_special_token_3|>", "<|start_header_id|>", "<|end_header_id|>"]
LLAMA3 += ["<|eot_id|>"]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "<|fim_prefix|>", "<|fim_middle|>"]
QWEN += ["<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]
DEEPSEEK = ["õ", "÷", "ü", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜fim▁hole｜>", "<｜fim▁begin｜>"]
DEEPSEEK += ["<｜fim▁end｜>", "<pad>", "<|User|>", "<|Assistant|>", "<|EOT|>"]
STARCODER = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<filename>"]
SMOLLM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>"]
CODEGEMMA = ["<pad>", "<eos>", "<bos>", "<unk>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
CODEGEMMA += ["<|file_separator|>"]

# family -> whether its published files name tokens of infilling
FAMILIES = {
    "llama3": False,
    "qwen": True,
    "deepseek": True,
    "starcoder": True,
    "smollm": False,
    "tinyllama": False,
    "mistral": False,
    "yi": False,
    "codegemma": True,
}
BYTE_LEVEL = ("llama3", "qwen", "deepseek", "starcoder", "smollm")


@functools.cache
def _texts() -> list[str]:
    """A few hundred KB of source code, and some text in other scripts."""
    names = ("argparse", "ast", "difflib", "doctest", "inspect", "pickle", "json/decoder", "http/client", "typing")
    texts = [(ROOT / f"{name}.py").read_text(encoding="utf-8") for name in names]
    return [*texts, "生活のコード 한국어 Привет мир, naïve café Grüße õ÷ü 🙂 " * 20]


def token(content: str, id: int, special: bool = True) -> dict[str, Any]:
    """An added token as tokenizer.json has it."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id, "content": content, **plain, "special": special}


def _stated(content: str) -> dict[str, Any]:
    """A token as tokenizer_config.json states it."""
    values = token(content, 0)
    return {"__type": "AddedToken"} | {name: values[name] for name in values if name not in ("id", "special")}


def _begin(token: str, id: int) -> dict[str, Any]:
    start = {"SpecialToken": {"id": token, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, start, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    }


@functools.cache
def _byte_level(family: str, vocab_size: int) -> dict[str, Any]:
    """The trained content of tokenizer.json of a byte-level family, without its special tokens."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    split = pre_tokenizers.Split
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    steps = {
        "llama3": [split(Regex(LLAMA3_SPLIT), "isolated"), letters],
        "qwen": [split(Regex(QWEN_SPLIT), "isolated"), letters],
        "deepseek": [
            *(split(Regex(pattern), "isolated") for pattern in DEEPSEEK_SPLITS),
            pre_tokenizers.Digits(individual_digits=True),
            letters,
        ],
        "starcoder": [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ],
    }
    steps["smollm"] = steps["starcoder"]
    tokenizer = Tokenizer(models.BPE(ignore_merges=family == "llama3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps[family])
    if family == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if family == "deepseek":  # it has no pieces for bytes that UTF-8 does not have, and lists them as added tokens
        alphabet = [letter for letter in alphabet if letter not in "õ÷ÁýÀÿøúþùöûü"]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_texts(), trainer)
    return json.loads(tokenizer.to_str())


@functools.cache
def _sentencepiece_like(vocab_size: int, first: tuple[str, ...]) -> dict[str, Any]:
    """The trained content of tokenizer.json of SentencePiece's kind: the first tokens, the bytes, and pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "never", split=True)  # spaces only at the start of pieces
    start = [*first, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=start, limit_alphabet=120, show_progress=False, max_token_length=16
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return json.loads(tokenizer.to_str()) | {"pre_tokenizer": None}


def files(family: str, vocab_size: int = 1500) -> dict[str, bytes]:
    """The files of a family's tokenizer: tokenizer.json, tokenizer_config.json and generation_config.json."""
    make = _byte_level_files if family in BYTE_LEVEL else _sentencepiece_files
    content, config, generation = make(family, vocab_size)
    contents = {"tokenizer.json": content, "tokenizer_config.json": config, "generation_config.json": generation}
    return {name: json.dumps(value, ensure_ascii=False).encode() for name, value in contents.items()}


def _byte_level_files(family: str, vocab_size: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    content = json.loads(json.dumps(_byte_level(family, vocab_size)))
    vocabulary = content["model"]["vocab"]
    names = {"llama3": LLAMA3, "qwen": QWEN, "deepseek": DEEPSEEK, "starcoder": STARCODER, "smollm": SMOLLM}[family]
    in_vocabulary = family in ("starcoder", "smollm")  # these have the first ids, and are also in the vocabulary
    if in_vocabulary:
        vocabulary = {piece: id + len(names) for piece, id in vocabulary.items()}
        vocabulary |= {token: id for id, token in enumerate(names)}
        content["model"]["vocab"] = vocabulary
    ids = {token: id for id, token in enumerate(names, 0 if in_vocabulary else len(vocabulary))}
    ordinary = {"qwen": QWEN[3:], "deepseek": DEEPSEEK[:3]}.get(family, [])
    content["added_tokens"] = [token(text, id, text not in ordinary) for text, id in ids.items()]
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    content["post_processor"] = byte_level
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 4096}
    if family == "llama3":
        content["post_processor"] = {"type": "Sequence", "processors": [byte_level, _begin(LLAMA3[0], ids[LLAMA3[0]])]}
        config |= {"bos_token": LLAMA3[0], "eos_token": LLAMA3[1]}
        return content, config, {"eos_token_id": [ids["<|end_of_text|>"], ids["<|eot_id|>"]]}
    if family == "qwen":
        config |= {"add_bos_token": False, "bos_token": None, "eos_token": QWEN[0], "pad_token": QWEN[0]}
        return content, config, {"eos_token_id": ids["<|endoftext|>"]}
    if family == "deepseek":
        config |= {"add_bos_token": True, "bos_token": _stated(DEEPSEEK[3]), "eos_token": _stated(DEEPSEEK[4])}
        return content, config, {"eos_token_id": ids[DEEPSEEK[4]]}
    end = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    return content, config | end, {"eos_token_id": 0}


def _sentencepiece_files(family: str, vocab_size: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    first = {"yi": ["<unk>", "<|startoftext|>", "<|endoftext|>"], "codegemma": CODEGEMMA}
    names = first.get(family, ["<unk>", "<s>", "</s>"])
    content = json.loads(json.dumps(_sentencepiece_like(vocab_size, tuple(names))))
    bos, eos = ("<bos>", "<eos>") if family == "codegemma" else names[1:]
    content["added_tokens"] = [token(text, id) for id, text in enumerate(names)]
    escape = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    if family == "tinyllama":
        prepend = {"type": "Prepend", "prepend": "▁"}
        content["normalizer"] = {"type": "Sequence", "normalizers": [prepend, escape]}
    elif family == "mistral":
        content["normalizer"] = None
        first_space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
        content["pre_tokenizer"] = first_space
    else:
        content["normalizer"] = escape
    content["post_processor"] = _begin(bos, names.index(bos))
    config = {"bos_token": bos, "eos_token": eos, "unk_token": "<unk>", "add_bos_token": family != "yi"}
    return content, config, {"eos_token_id": names.index(eos)}
