"""Arguments of a chat template as one setting: "enable_thinking=false, effort=high"."""

from __future__ import annotations

import json
import re

from llm.errors import ConfigError

Argument = bool | int | float | str

OWN_ARGUMENTS = frozenset(
    "messages add_generation_prompt continue_final_message tools documents tokenize conversation "
    "chat_template padding truncation max_length return_tensors return_dict tokenizer_kwargs "
    "return_assistant_tokens_mask bos_token eos_token pad_token unk_token raise_exception "
    "strftime_now".split()
)  # what transformers or the trainer gives to a template
_NAME = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*")
_VALUE = re.compile(r'("(?:[^"\\]|\\.)*"|[^",]*?)\s*(?:,|$)', flags=re.DOTALL)
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?")


def read_arguments(text: str) -> dict[str, Argument]:
    """{name: value} of a text like `enable_thinking=false, effort="very high"`.

    true and false are truth values, digits a number, and all else is a text; a text with a comma,
    or one that looks like a number, stands in double quotes as in JSON. Nothing is executed.

    Raises:
        ConfigError: the text is not of this form, names an argument twice, or names one that is
            given by the trainer.
    """
    arguments: dict[str, Argument] = {}
    at = 0
    while text[at:].strip():
        name = _NAME.match(text, at)
        value = _VALUE.match(text, name.end()) if name else None
        if name is None or value is None or not value[1]:
            raise ConfigError(
                f"--task.template_arguments must be NAME=VALUE, NAME=VALUE, ..., got {text[:200]!r}"
            )
        if name[1] in arguments or name[1] in OWN_ARGUMENTS:
            why = "is given twice" if name[1] in arguments else "is given by the trainer"
            raise ConfigError(f"--task.template_arguments: {name[1]} {why}: leave it out")
        arguments[name[1]] = _value(value[1])
        at = value.end()
    return arguments


def _value(word: str) -> Argument:
    if word in ("true", "false"):
        return word == "true"
    if number := _NUMBER.fullmatch(word):
        return float(word) if number[1] else int(word)
    if not word.startswith('"'):
        return word
    try:
        return str(json.loads(word))
    except ValueError as e:
        raise ConfigError(
            f"--task.template_arguments: {word[:100]} is not a text as in JSON: {e}"
        ) from e
