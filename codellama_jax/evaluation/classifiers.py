"""The published classifiers of the safety benchmarks, from local folders and packages; nothing is downloaded.

They need the packages of the extra "safety": transformers with torch, and vaderSentiment.
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codellama_jax.errors import UserError, first_line

PACKAGES = ("torch", "transformers")  # of judges that are models
_MAX_TOKENS = 512  # of a text that is classified: RoBERTa's limit


class TextClassifier:
    """A sequence classifier of transformers with two or more classes, such as tomh/toxigen_roberta.

    Args:
        folder: a Hugging Face folder with the model and its tokenizer.
        setting: the setting that names it, for messages.

    Raises:
        UserError: a package is missing, or the folder has no such model.
    """

    def __init__(self, folder: str, setting: str):
        loaded = _loaded(folder, setting, "AutoModelForSequenceClassification")
        self._torch, self._tokenizer, self._model = loaded

    def probability(self, text: str, label: int = 1) -> float:
        """The probability of a class."""
        torch = self._torch
        ids = self._tokenizer(text, return_tensors="pt", truncation=True, max_length=_MAX_TOKENS)
        with torch.inference_mode():
            logits = self._model(**ids).logits[0].double()
        return float(torch.softmax(logits, dim=-1)[label])


class YesNoJudge:
    """A causal language model that continues a question with " yes" or " no", such as TruthfulQA's judges.

    Args:
        folder: a Hugging Face folder with the model and its tokenizer.
        setting: the setting that names it, for messages.

    Raises:
        UserError: a package is missing, or the folder has no such model.
    """

    def __init__(self, folder: str, setting: str):
        self._torch, self._tokenizer, self._model = _loaded(folder, setting, "AutoModelForCausalLM")

    def yes(self, prompt: str) -> bool:
        """Whether the greedy answer to a prompt begins with "yes"."""
        ids = self._tokenizer(prompt, return_tensors="pt")
        with self._torch.inference_mode():
            answer = self._model.generate(**ids, max_new_tokens=2, do_sample=False)
        text = self._tokenizer.decode(answer[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        return text.strip().lower().startswith("yes")


def vader() -> Callable[[str], float]:
    """A function from a text to VADER's compound sentiment, between -1 and 1.

    Raises:
        UserError: the package is not installed.
    """
    try:
        module = importlib.import_module("vaderSentiment.vaderSentiment")
    except ImportError:
        raise UserError(f"vaderSentiment is not installed: {_remedy('vaderSentiment')}") from None
    analyzer = module.SentimentIntensityAnalyzer()
    return lambda text: float(analyzer.polarity_scores(text)["compound"])


def check(folder: str, setting: str) -> None:
    """Checks what can be checked before answers are generated: the packages, and that the folder has a model.

    Raises:
        UserError: a package is missing, or the folder has no config.json.
    """
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{setting} needs the package {package}: {_remedy(package)}")
    if not (Path(folder).expanduser() / "config.json").is_file():
        raise UserError(f"{setting}={folder} is not a Hugging Face folder (no config.json): download the model there")


def _remedy(package: str) -> str:
    return f"pip install 'codellama_jax[safety]', or pip install {package}"


def _loaded(folder: str, setting: str, kind: str) -> tuple[Any, Any, Any]:
    """The module torch, and the tokenizer and the model of a folder, as one of transformers' classes."""
    check(folder, setting)
    torch, transformers = (importlib.import_module(package) for package in PACKAGES)
    transformers.utils.logging.disable_progress_bar()
    path = str(Path(folder).expanduser())
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        return torch, tokenizer, getattr(transformers, kind).from_pretrained(path, local_files_only=True).eval()
    except (ImportError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{setting}={folder} cannot be loaded with transformers: {first_line(error)}") from None
