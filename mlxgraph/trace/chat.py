"""Messages as one text: by the tokenizer's chat template, and all of them.

A template raises nothing for what it does not know: it leaves a message out, or writes it as Python
prints it.  So each message is looked for in the text, and where it is not there word for word, the
template is asked again with another one in its place.

In: messages, a tokenizer.  Out: the text.  Never: goes on with a message that is not in it.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.errors import ChatError, NoChatTemplateError, NoTokenizerError


def templated(tokenizer: Any, messages: Any) -> str:
    """The text that the tokenizer's chat template makes of messages, for the model to go on from.

    Raises: NoTokenizerError, NoChatTemplateError, ChatError for what the template refuses.
    """
    if tokenizer is None:
        raise NoTokenizerError("a list of messages")
    has_one = getattr(tokenizer, "has_chat_template", False)  # of mlx-lm's own wrapper
    if not has_one and getattr(tokenizer, "chat_template", None) is None:
        raise NoChatTemplateError()
    messages = [dict(message) for message in messages]
    try:
        text = _rendered(tokenizer, messages)
    except Exception as error:  # a template raises whatever it likes
        raise ChatError(
            f"the chat template refuses these messages: {type(error).__name__}: {error}\n"
            f"  {_advice(messages)}"
        ) from error
    for number, message in enumerate(messages):
        content = message.get("content")
        is_text = isinstance(content, str)
        if is_text and content.strip() in text or not content and message.get("tool_calls"):
            continue
        if content is not None and not is_text and str(content) in text:
            raise _printed(content)
        if not _matters(tokenizer, messages, number, text):
            raise _left_out(message, number)
    return text


def _advice(messages: list[dict]) -> str:
    """What may be wrong with messages that a template refuses."""
    for number, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, str) and not message.get("tool_calls"):
            kind = "no content" if content is None else f"a {type(content).__name__} as its content"
            return f"Message {number} has {kind}: write {{'role': 'user', 'content': 'Hello'}}."
    return "It knows which roles there are, and in which order."


def _rendered(tokenizer: Any, messages: list[dict]) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _matters(tokenizer: Any, messages: list[dict], number: int, text: str) -> bool:
    """Whether the text would be another one if a message said something else."""
    mine = messages[number]
    said = ["content"] if mine.get("content") is not None else [k for k in mine if k != "role"]
    other = {key: _another(mine[key]) for key in said if mine[key] is not None}
    if other and all(mine[key] == other[key] for key in other):
        return True  # pictures alone, or another thing that cannot be changed here
    try:
        changed = [*messages[:number], mine | other, *messages[number + 1 :]]
        return _rendered(tokenizer, changed) != text
    except Exception:  # it looks at it, whatever it makes of it
        return True


def _another(value: Any) -> Any:
    """Something else than a message says, of the same form."""
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, (list, tuple)):
        return [_another(part) for part in value]
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return {**value, "text": f"{value['text']}x"}
    return value


def _printed(content: Any) -> ChatError:
    return ChatError(
        f"this chat template takes a text as the content of a message, and would write this"
        f" {type(content).__name__} as Python does: {str(content):.60}\n"
        "  Write {'role': 'user', 'content': 'Hello'}."
    )


def _left_out(message: dict, number: int) -> ChatError:
    content = message.get("content")
    if content is None:
        keys = ", ".join(map(repr, message))
        what = "a content that is None" if "content" in message else f"no 'content', but {keys}"
        return ChatError(
            f"a message has {what}, and the chat template makes nothing of it.\n"
            "  Write {'role': 'user', 'content': 'Hello'}; '' for nothing."
        )
    advice = (
        "the content as [{'type': 'text', 'text': 'Hello'}], which templates for pictures want;"
        if isinstance(content, str)
        else "the content as a text;"
    )
    return ChatError(
        f"the chat template leaves out message {number}, of role {message['role']!r}: its text does"
        f" not depend on what it says.\n  Write {advice} or leave the message out."
    )
