"""Settings of the benchmarks whose programs are in other languages than Python, and of APPS.

The defaults are the paper's values (arXiv 2308.12950), or those of the benchmarks' own programs; what is ours says so.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from codellama_jax.config.evaluation import PROMPT_FORMS, Benchmark, check_choice, check_choices, check_positive

MULTIPL_E_LANGUAGES = ("cpp", "java", "php", "ts", "cs", "sh", "python", "js")
CSHARP_SIGNATURES = ("repaired", "published")


@dataclasses.dataclass(frozen=True)
class MultiPLE(Benchmark):
    """HumanEval in other languages (arXiv 2208.08227), zero-shot. The paper's result is the average of six languages.

    Attributes:
        stop: strings that end an answer, for all languages; empty: those of each task.
        languages: those that are evaluated, of "cpp", "java", "php", "ts", "cs", "sh", "python" and "js".
        prompt: "stripped" of white space at its ends, as the benchmark's own program does it, or "verbatim".
        csharp_signature: the published C# prompts have the function's signature in a comment. "repaired": as code, so
            that a function's body is an answer; "published": as it is.
        cpu_seconds: processor time of a compiler, and of a program.
        javatuples: the file javatuples.jar (Debian's libjavatuples-java has it here), which the Java prompts import.
        typescript: the folder of npm's package typescript; "": that of the command tsc.
        sha256_cpp and so on: digests of the files. For MultiPL-E's own Python file none is known; HumanEval's is used
            where that file is absent.
    """

    max_tokens: int = 1024
    languages: Sequence[str] = MULTIPL_E_LANGUAGES[:-1]
    prompt: str = "stripped"
    csharp_signature: str = "repaired"
    cpu_seconds: float = 15.0
    javatuples: str = "/usr/share/java/javatuples.jar"
    typescript: str = ""
    sha256_cpp: str = "4910aa71c605754136ec9c95efcf458704967d21b3d09ed2a141eaca5a1903a2"
    sha256_java: str = "a38a4fab2136b0b7d03236f2c423d2182b2d4a182edd0fa9639305c3afb733a5"
    sha256_php: str = "588a969eb171a380c4ef4e2dcf461fc2617648bc85c25b2ff497b341c5cc6d86"
    sha256_ts: str = "dac2c1577ad99503d0c2e1d91ffcc386711ade271462934b604f08b01f7ad0fa"
    sha256_cs: str = "b79d1a41ab8c704c330856e25eb6148fc9f48d81e35269fc36f754026ca85289"
    sha256_sh: str = "f4a6fc2f6ecf8489bab32584aeeb8a05158bddd51518929fc7fe0010a95210a0"
    sha256_js: str = "47536b7f7a0221586cdecc16c900ff8e7ba7dd60cc4bab3bddbbc4e866e0cef8"
    sha256_python: str = ""
    sha256_humaneval: str = "1d49078ba3e2b196b9344535bef34a43021f038fad9561d6ee7c53450609a6a2"

    def __post_init__(self):
        super().__post_init__()
        check_choices("MultiPLE.languages", self.languages, MULTIPL_E_LANGUAGES)
        check_choice("MultiPLE.prompt", self.prompt, PROMPT_FORMS)
        check_choice("MultiPLE.csharp_signature", self.csharp_signature, CSHARP_SIGNATURES)
        check_positive("MultiPLE.cpu_seconds", self.cpu_seconds)


HUMANEVAL_X_LANGUAGES = ("python", "cpp", "java", "js")


@dataclasses.dataclass(frozen=True)
class HumanEvalX(Benchmark):
    """HumanEval with hand-written solutions in other languages (arXiv 2303.17568). The paper has no results of it.

    Attributes:
        stop: strings that end an answer, for all languages; empty: the end of the function in each.
        languages: those that are evaluated.
        cpu_seconds: processor time of a compiler, and of a program.
        sha256_python and so on: digests of the tasks' JSON Lines, after decompression.
    """

    languages: Sequence[str] = HUMANEVAL_X_LANGUAGES
    cpu_seconds: float = 5.0
    sha256_python: str = "f0e21637407b08a725dbc5bfcc20f909049f73564dd0d55dcc11619fa0838849"
    sha256_cpp: str = "af420b4b58c1b5e7f4cac9c1257daad7b20b5c77e88d59ccc120e63825f03325"
    sha256_java: str = "2157a77a6ff808020adc20142228b4ff698048c0696b33110786400c47c5d79c"
    sha256_js: str = "da529500a73fcbc86bc8f6c7855c0f2c0fc7af1c4dc530e26a54bbfd17f97cef"

    def __post_init__(self):
        super().__post_init__()
        check_choices("HumanEvalX.languages", self.languages, HUMANEVAL_X_LANGUAGES)
        check_positive("HumanEvalX.cpu_seconds", self.cpu_seconds)


APPS_PROMPTS = ("few_shot", "instruct")
APPS_SPLITS = ("test", "train")


@dataclasses.dataclass(frozen=True)
class APPS(Benchmark):
    """Programming problems with hidden tests (arXiv 2105.09938), by difficulty: pass@5, @10 and @100.

    Attributes:
        samples: answers to each problem; the paper's pass@100 needs 100 or more.
        max_tokens: the most tokens of an answer (ours).
        stop: what begins another question.
        prompt: "few_shot", a text with solved problems, or "instruct", a zero-shot question for models of dialogues.
        shots: numbers of the solved problems in the training split (ours; the paper says only that there are two).
        split: "test" or "train".
        cpu_seconds: processor time of each test of a program.
        sha256_test, sha256_train: digests that test.jsonl and train.jsonl must have; "": any.
    """

    SAMPLED_TEMPERATURE: ClassVar[float] = 0.6

    samples: int = 100
    max_tokens: int = 1024
    stop: Sequence[str] = ("\nQ:",)
    prompt: str = "few_shot"
    shots: Sequence[int] = (0, 1)
    split: str = "test"
    cpu_seconds: float = 4.0
    sha256_test: str = ""
    sha256_train: str = ""

    def __post_init__(self):
        super().__post_init__()
        check_choice("APPS.prompt", self.prompt, APPS_PROMPTS)
        check_choice("APPS.split", self.split, APPS_SPLITS)
        check_positive("APPS.cpu_seconds", self.cpu_seconds)
