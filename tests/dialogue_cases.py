"""Messages of dialogues for tests."""

from codellama_jax.chat import Message


def dialogue(*contents: str, system: str | None = None) -> list[Message]:
    """Alternating messages of user and assistant."""
    messages = [
        {"role": role, "content": content}
        for role, content in zip(["user", "assistant"] * len(contents), contents, strict=False)
    ]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def of_roles(roles: list[str]) -> list[Message]:
    return [{"role": role, "content": f"text {number}"} for number, role in enumerate(roles)]
