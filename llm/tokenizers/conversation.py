"""A prompt as a conversation: messages of a system, a user and an assistant, the user's last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm.errors import kind_of

ROLES = ("system", "user", "assistant")
MESSAGES_MAX = 1000


class Conversation(str):
    """The text of a conversation, with its messages for the chat template.

    The text is what is shown, compared and hashed: each message after its role, or the message
    alone where it is a user's only one.
    """

    messages: tuple[tuple[str, str], ...]
    """(role, content) of each message."""

    def __new__(cls, messages: Sequence[tuple[str, str]]) -> Conversation:
        only = len(messages) == 1
        text = messages[0][1] if only else "\n\n".join(f"{role}: {c}" for role, c in messages)
        conversation = super().__new__(cls, text)
        conversation.messages = tuple(messages)
        return conversation

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.messages,)


def messages_of(prompt: str) -> tuple[tuple[str, str], ...]:
    """(role, content) of each message of a prompt; a plain text is a user's only message."""
    return prompt.messages if isinstance(prompt, Conversation) else (("user", prompt),)


def read_conversation(value: Sequence[dict[str, Any]]) -> Conversation | str:
    """A conversation from objects with role and content, or why the list is none."""
    if len(value) > MESSAGES_MAX:
        return f"has {len(value)} messages, more than {MESSAGES_MAX}"
    messages: list[tuple[str, str]] = []
    for number, one in enumerate(value, 1):
        role, content = one.get("role"), one.get("content")
        if role not in ROLES or (role == "system" and number > 1):
            return f"has the role {str(role)[:40]!r} in message {number}; wanted: {_WANTED}"
        if not isinstance(content, str):
            return f"has {kind_of(content)} as content of message {number}, not a text"
        if not content.strip():
            return f"has no text in message {number}"
        messages.append((role, content.strip()))
    if not messages or messages[-1][0] != "user":
        return "does not end in a message of the user"
    return Conversation(messages)


_WANTED = "user and assistant, and system for the first message alone"
