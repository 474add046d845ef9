"""The dialogue of a question and its solution."""

from collections.abc import Sequence

from codellama_jax.chat import Message
from codellama_jax.config.self_instruct import SelfInstruct
from tasks.dialogues import validate
from tasks.sources.filters import LeftOut
from tasks.synthesis.prompts import CLOSE_CODE, OPEN_CODE


def dialogue(question: str, tests: Sequence[str], program: str, settings: SelfInstruct) -> list[Message]:
    """The messages, in the forms of SelfInstruct.question and SelfInstruct.answer."""
    if settings.question == "question_and_tests":
        question = f"{question}\nYour code should pass these tests:\n\n" + "\n".join(tests)
    code = program.strip("\n")
    answers = {"fenced": f"```python\n{code}\n```", "tags": f"{OPEN_CODE}\n{code}\n{CLOSE_CODE}", "plain": code}
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answers[settings.answer]}]


def unusable(messages: Sequence[Message]) -> str:
    """Why the instruct stage would leave a dialogue out; "" if it reads it."""
    try:
        validate(messages, "inst")
    except LeftOut as reason:
        return str(reason)
    return ""
