"""Text to token ids and back: the character alphabet of built models, or a model's own tokenizer.

Both kinds offer the same: `vocab_size`, `pad`, `eos` (every id that ends a completion), `prompt`,
`encode`, `decode`, `pieces`. An id may be both padding and end-of-sequence, so no mask comes from
ids.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm.errors import ConfigError
from llm.hub import check_cached_files, hub_file, is_local, offline_hint, require_on_hub
from llm.phases import is_out_of_memory
from llm.regular_files import read_text
from llm.settings.schema import TaskConfig
from llm.settings.template_arguments import OWN_ARGUMENTS, read_arguments

from .character import CharTokenizer, until_end
from .chat_templates import (
    TEMPLATE_MAX,
    TemplateError,
    drawn_at_random,
    render,
    template_variables,
)
from .conversation import messages_of

_CHAT_MAX = 1_000_000  # characters that a chat template may add to a prompt
_NEUTRAL = "x"  # a text of which no tokenizer makes a control token
_CONFIG_BYTES_MAX = 10_000_000
TOKENIZER_EXTRAS = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_PADDED_ALPHABET_MAX = 256  # ids of a model over 48 characters, however its vocabulary is padded
TOKENIZER_FILES = (
    *("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"),
    *("merges.txt", "spiece.model", "tekken.json"),
)


class HubTokenizer:
    """A transformers tokenizer, from a folder or a hub id. Nothing in there is executed."""

    def __init__(
        self,
        path: str,
        prompt_format: str = "auto",
        system_prompt: str = "",
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Load it; see TaskConfig for the settings.

        Raises:
            ConfigError: no usable tokenizer there, no token that ends a completion; the format
                chat, a system prompt or template arguments without a chat template that reads them.
        """
        from transformers import AutoTokenizer

        local = is_local(path)
        if not local:
            require_on_hub(path)
        try:
            inner: Any = AutoTokenizer.from_pretrained(
                path, local_files_only=local, trust_remote_code=False
            )
        except Exception as e:  # whatever the library raises at files that anybody may have made
            if is_out_of_memory(e):
                raise  # no fault of the files
            raise ConfigError(
                f"cannot load a tokenizer from {path}{offline_hint(path)}: {e}"
            ) from e
        if not local:
            check_cached_files(path)
        ids = {inner.eos_token_id, *end_ids(path, local)} - {None}
        if not ids:
            raise ConfigError(
                f"the tokenizer in {path} has no end-of-sequence token and generation_config.json "
                "names none, so no completion could end: set eos_token in tokenizer_config.json"
            )
        if prompt_format == "chat" and not inner.chat_template:
            raise ConfigError(
                f"--task.prompt_format chat, but the tokenizer in {path} has no chat template: use "
                "auto or plain, or a model tuned for chat"
            )
        self.path, self._inner = path, inner
        self._vocabulary: dict[str, int] = inner.get_vocab()
        self.is_chat = bool(inner.chat_template) and prompt_format != "plain"
        self.chat_template: Any = inner.chat_template
        if (length := len(str(self.chat_template))) > TEMPLATE_MAX:
            raise self._bad_template(f"has {length} characters, more than {TEMPLATE_MAX}")
        self.eos = frozenset(ids)
        self.pad: int = min(ids) if inner.pad_token_id is None else inner.pad_token_id
        self.bos: int | None = inner.bos_token_id
        self.vocab_size: int = max(self._vocabulary.values()) + 1
        self.today = datetime.date.today()  # of the first start, where a run goes on
        self._control = control_ids(inner) | self.eos
        self._of_format: dict[tuple[str, ...], Counter[int]] = {}
        self._system, self._arguments = system_prompt, dict(template_arguments or {})
        self._check_arguments()
        if self.is_chat and (what := drawn_at_random(str(self.chat_template))):
            raise self._bad_template(f"draws at random ({what}), so no start would repeat another")

    def restrict(self, ids: int) -> None:
        """Use only the first `ids` token ids, which are those that the models have.

        A tokenizer may have tokens beyond, for images say; a prompt that holds one is refused.

        Raises:
            ConfigError: every end-of-sequence id lies beyond, so no completion could end.
        """
        ids = min(ids, self.vocab_size)  # a config may name an end beyond its tokenizer too
        ends = frozenset(i for i in self.eos if i < ids)
        if not ends:
            raise ConfigError(
                f"the end-of-sequence ids {sorted(self.eos)} of {self.path} lie beyond the {ids} "
                "ids of the models, so no completion could end: the tokenizer belongs to another "
                "model"
            )
        self.vocab_size, self.eos = ids, ends
        self.pad = self.pad if self.pad < ids else min(ends)

    def end_of_turn(self) -> tuple[int, str] | None:
        """The control token with which the chat template closes an answer, id and text; None
        without a template, and where it closes with none."""
        after = self.encode(self.closing() or "")
        end = next((i for i in after if i in self._control), None)
        return None if end is None else (end, self.pieces([end])[0])

    def closing(self) -> str | None:
        """What the chat template writes after an answer, control tokens included; None without a
        template."""
        if not self.is_chat:
            return None
        turns = (("user", "1"), ("assistant", "(answer)"))
        try:
            chat = self._rendered(turns, _CHAT_MAX, add_generation_prompt=False)
        except TemplateError:  # of a template that fails on prompts `prompt` says so
            return None
        return chat.rpartition("(answer)")[2]

    def unopened(self) -> str:
        """What the chat template writes between a prompt and an answer, where a prompt ends
        without it whatever add_generation_prompt says; else empty."""
        if not self.is_chat:
            return ""
        turns = [("user", "1"), ("assistant", "(answer)")]
        try:
            asked = self._rendered(turns[:1], _CHAT_MAX, add_generation_prompt=True)
            bare = self._rendered(turns[:1], _CHAT_MAX, add_generation_prompt=False)
            whole = self._rendered(turns, _CHAT_MAX, add_generation_prompt=False)
        except TemplateError:  # of a template that fails on prompts `prompt` says so
            return ""
        if asked != bare or not whole.startswith(asked):
            return ""
        return whole[len(asked) :].partition("(answer)")[0].strip()

    @property
    def is_dated(self) -> bool:
        """Whether the chat template asks for the date, so that prompts depend on the day."""
        return self.is_chat and "strftime_now" in str(self.chat_template)

    def _rendered(
        self, messages: Sequence[tuple[str, str]], most: int, *, add_generation_prompt: bool
    ) -> str:
        """What the chat template makes of (role, content) pairs, as `apply_chat_template` would
        without bounds. Raises TemplateError: see `chat_templates.render`."""
        try:
            template = self._inner.get_chat_template()
        except ValueError as e:  # several, and none of them the default
            raise TemplateError(f"fails: {e}") from e
        if self.is_dated:
            template = dated(template, self.today)
        variables = {**self._inner.special_tokens_map, **self._arguments}
        variables["add_generation_prompt"] = add_generation_prompt
        turns = [{"role": role, "content": content} for role, content in messages]
        return render(template, turns, variables, most)

    def prompt(self, text: str) -> list[int]:
        """Ids of a prompt: a user's turn in the chat template, all turns of a `Conversation`, or
        the text as it is. Control tokens come from the template and the tokenizer alone.

        Raises:
            ConfigError: the chat template fails, leaves out the text, or gives too much or nothing.
            ValueError: the text of the prompt gives control tokens; a plain text without any token;
                several messages and no chat template.
        """
        messages = messages_of(text)
        ids = self._known(self._encoded(messages))
        roles = tuple(role for role, _ in messages)
        if roles not in self._of_format:  # the control tokens that every such prompt has
            self._of_format[roles] = self._controls(self._encoded([(r, _NEUTRAL) for r in roles]))
        extra = self._controls(ids) - self._of_format[roles]
        if extra:
            raise ValueError(f"its text gives the control token {self._spelling(min(extra))!r}")
        ends = not self.is_chat and len(ids) > 1 and ids[-1] in self.eos  # the tokenizer's own
        return ids[:-1] if ends else ids

    def control_token_in(self, text: str) -> str:
        """A control token that a text would give; empty if it gives none."""
        control = self._control & set(self.encode(text))
        return self._spelling(min(control)) if control else ""

    def _known(self, ids: list[int]) -> list[int]:
        """Raises ValueError for an id that the models do not have."""
        beyond = next((i for i in ids if i >= self.vocab_size), None)
        if beyond is not None:
            raise ValueError(
                f"{self._spelling(beyond)!r} is token id {beyond}, and the models have "
                f"{self.vocab_size} ids"
            )
        return ids

    def _controls(self, ids: list[int]) -> Counter[int]:
        return Counter(i for i in ids if i in self._control)

    def _spelling(self, i: int) -> str:
        return str(self._inner.convert_ids_to_tokens(i))

    def _encoded(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        text = messages[-1][1]
        if self.is_chat:
            ids = list(self._inner.encode(self._chat(messages), add_special_tokens=False))
            if not ids:
                raise self._bad_template(f"gives no token for {text[:100]!r}")
            return ids
        if len(messages) > 1:
            raise ValueError(f"it has {len(messages)} messages, and there is no chat template")
        ids = list(self._inner.encode(text))
        if not ids:
            raise ValueError(f"the tokenizer in {self.path} makes no token of {text[:100]!r}")
        return ids

    def _chat(self, messages: Sequence[tuple[str, str]]) -> str:
        """The template's text; a template is a program of others and may fail in any way."""
        if self._system and messages[0][0] != "system":
            messages = [("system", self._system), *messages]
        most = _CHAT_MAX + sum(len(content) for _, content in messages)
        try:
            chat = self._rendered(messages, most, add_generation_prompt=True)
        except TemplateError as e:
            raise self._bad_template(str(e)) from e
        for role, content in messages:  # a template may drop what an assistant thought
            if role != "assistant" and content.strip() not in chat:
                what = "prompt" if role == "user" else "system prompt"
                shown = f"{content[:100]!r} gives {chat[:100]!r}"
                raise self._bad_template(f"leaves out the {what}: {shown}")
        return chat

    def _check_arguments(self) -> None:
        """Raises ConfigError for a system prompt or template arguments that nothing reads."""
        given = "--task.template_arguments" if self._arguments else "--task.system_prompt"
        if not self.is_chat and (self._arguments or self._system):
            raise ConfigError(
                f"{given} needs a chat template, and prompts are plain text here: leave it out, or "
                "use a model tuned for chat with --task.prompt_format auto"
            )
        named = isinstance(self.chat_template, str) and self._arguments
        read = template_variables(self.chat_template) if named else None
        ignored = [] if read is None else [n for n in self._arguments if n not in read]
        if ignored and read is not None:
            known = ", ".join(sorted(read - OWN_ARGUMENTS)) or "none"
            raise ConfigError(
                f"--task.template_arguments: the chat template in {self.path} does not read "
                f"{ignored[0]}. What it reads: {known}"
            )
        values = [str(value) for value in self._arguments.values()]
        texts = {"system_prompt": self._system, "template_arguments": "\n".join(values)}
        for name, text in texts.items():
            if token := self.control_token_in(text):
                raise ConfigError(f"--task.{name} spells the control token {token!r}: remove it")

    def _bad_template(self, what: str) -> ConfigError:
        return ConfigError(
            f"the chat template in {self.path} {what}. Set --task.prompt_format plain, or mend it"
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a plain text; no special token is added."""
        return list(self._inner.encode(text, add_special_tokens=False))

    def decode(self, ids: list[int]) -> str:
        """Text of ids up to the first end-of-sequence, special tokens left out.

        Bytes that are not UTF-8 become U+FFFD, ids outside the vocabulary nothing.
        """
        known = [i for i in until_end(ids, self.eos) if 0 <= i < self.vocab_size]
        return str(
            self._inner.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def pieces(self, ids: list[int]) -> list[str]:
        """A printable string for each id; part of a character shows as the vocabulary spells it."""
        return [self._piece(i) for i in ids]

    def _piece(self, i: int) -> str:
        spelling = self._inner.convert_ids_to_tokens(i) if 0 <= i < self.vocab_size else None
        if spelling is None:
            return f"<id {i}>"
        text = self._inner.decode([i], clean_up_tokenization_spaces=False)
        if "\ufffd" in text or not text:
            text = spelling
        elif spelling.startswith("▁") and not text.startswith(" "):
            text = " " + text  # SentencePiece drops the space of a first word
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def control_ids(inner: Any) -> frozenset[int]:
    """Ids of a transformers tokenizer that no text of a prompt may give: special and added tokens.

    Added tokens that are only white space are text: some tokenizers keep runs of spaces there.
    """
    tokens = getattr(inner, "added_tokens_decoder", {})
    added = {i for i, token in tokens.items() if token.content.strip()}
    return frozenset(added | set(inner.all_special_ids))


Tokenizer = CharTokenizer | HubTokenizer


def dated(template: str, day: datetime.date) -> str:
    """The chat template with a `strftime_now` of its own, which gives that day at midnight.

    transformers gives templates the clock, and takes no other function for it. So the function is
    written in the template's language: it replaces each directive of the format by its value.
    """
    time = datetime.datetime.combine(day, datetime.time())
    forms = [f"%-{c}" for c in "dmyHIMSj"] + [f"%{c}" for c in "aAbBcdDeFGhHIjmMpRSTuUVwWxXyYzZ"]
    values = "".join(f"|replace({form!r}, {time.strftime(form)!r})" for form in forms)
    # the empty expression keeps a line break with which the template begins
    return "{% macro strftime_now(form) %}{{ form" + values + " }}{% endmacro %}{{ '' }}" + template


def end_ids(path: str, local: bool) -> set[int]:
    """End-of-sequence ids of a model as its own `generate` would use them: those that
    generation_config.json names; without that file, those of its config.

    Raises:
        ConfigError: the file is there and cannot be read, or the hub does not answer.
    """
    from transformers import AutoConfig

    name = "generation_config.json"
    try:
        file = hub_file(path, name) if not local else Path(path) / name
        if file is not None and (file.exists() or file.is_symlink()):
            read = json.loads(read_text(file, _CONFIG_BYTES_MAX))
            return _as_ids(read.get("eos_token_id"))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as e:
        raise ConfigError(
            f"cannot read {name} of {path}, which says what ends a completion: "
            f"{type(e).__name__}: {str(e)[:300]}"
        ) from e
    try:
        config: Any = AutoConfig.from_pretrained(
            path, local_files_only=local, trust_remote_code=False
        )
        text = config.get_text_config(decoder=True)
        own = getattr(config, "eos_token_id", None)
        return _as_ids(getattr(text, "eos_token_id", None) if own is None else own)
    except Exception:
        return set()  # a tokenizer without a model; whoever loads the model says what is wrong


def _as_ids(value: Any) -> set[int]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(i) is int and i >= 0 for i in ids):
        raise TypeError(f"eos_token_id must be an id or a list of ids, got {str(value)[:100]}")
    return set(ids)


def tokenizer_for(path: str, task: TaskConfig) -> Tokenizer:
    """The tokenizer of the model in `path`; a built model (no path, or a folder without any file
    of a tokenizer) reads characters.

    Raises:
        ConfigError: `path` is neither a folder nor a hub id, or its tokenizer cannot be used; a
            folder without a tokenizer whose model does not read characters.
    """
    if path and (not is_local(path) or has_tokenizer(Path(path))):
        arguments = read_arguments(task.template_arguments)
        tokenizer = HubTokenizer(path, task.prompt_format, task.system_prompt, arguments)
        if token := tokenizer.control_token_in(task.instruction):
            raise ConfigError(f"--task.instruction spells the control token {token!r}: remove it")
        return tokenizer
    if task.system_prompt or task.template_arguments:
        name = "system_prompt" if task.system_prompt else "template_arguments"
        raise ConfigError(f"--task.{name} needs a model with a tokenizer and a chat template")
    characters = CharTokenizer(task.digit_synonyms)
    if path:
        _check_reads_characters(Path(path), characters)
    return characters


def has_tokenizer(folder: Path) -> bool:
    """Whether any file of a tokenizer is in a model's folder."""
    return any((folder / name).exists() for name in TOKENIZER_FILES)


def tokenizer_sources(path: str) -> dict[str, Path]:
    """The files of the tokenizer of a model in a folder or in the hub's cache: {name: where}."""
    from transformers.utils import cached_file

    names = (*TOKENIZER_FILES, *TOKENIZER_EXTRAS)
    if is_local(path):
        files = {name: Path(path) / name for name in names}
    else:
        options: Any = {"_raise_exceptions_for_missing_entries": False}
        cached = {name: cached_file(path, name, **options) for name in names}
        files = {name: Path(file) for name, file in cached.items() if file}
    return {name: file for name, file in files.items() if file.is_file()}


def _check_reads_characters(folder: Path, characters: CharTokenizer) -> None:
    """Raises ConfigError if the model was clearly made for another alphabet."""
    try:
        config = json.loads(read_text(folder / "config.json", _CONFIG_BYTES_MAX))
        ids = config.get("vocab_size") if "digit_forms" not in config else None
    except (OSError, ValueError, RecursionError, AttributeError):
        return  # whoever loads the model says what is wrong with it
    if isinstance(ids, int) and ids > _PADDED_ALPHABET_MAX:
        raise ConfigError(
            f"{folder} holds no tokenizer (none of {', '.join(TOKENIZER_FILES[:4])}, ...), and its "
            f"model has {ids} token ids, where the character alphabet has "
            f"{characters.vocab_size}: put the tokenizer's files beside the model"
        )


def differences(a: Tokenizer, b: Tokenizer, ids: int | None = None) -> list[str]:
    """What differs between two tokenizers, in words: vocabulary, special ids, chat template.

    ids: compare the vocabulary below this id only, where no prompt can hold others (`restrict`).
    """
    if isinstance(a, CharTokenizer) or isinstance(b, CharTokenizer):
        if type(a) is not type(b):
            return ["one reads the character alphabet, the other has its own tokenizer"]
        same = a.vocab_size == b.vocab_size
        return [] if same else [f"vocabulary ({a.vocab_size} and {b.vocab_size} characters)"]
    texts = []
    va, vb = ({t: i for t, i in x._vocabulary.items() if ids is None or i < ids} for x in (a, b))
    if va != vb:
        odd = sorted(t for t in va.keys() | vb.keys() if va.get(t) != vb.get(t))
        first = f"{odd[0]!r} is id {va.get(odd[0])} and {vb.get(odd[0])}"
        sizes = f"{len(va)} and {len(vb)} tokens"
        texts.append(f"vocabulary ({sizes}, {len(odd)} with other ids; for example {first})")
    for name in ("pad", "bos"):
        if getattr(a, name) != getattr(b, name):
            texts.append(f"{name} id ({getattr(a, name)} and {getattr(b, name)})")
    if a.eos != b.eos:
        texts.append(f"end-of-sequence ids ({sorted(a.eos)} and {sorted(b.eos)})")
    if a.chat_template != b.chat_template:
        texts.append("chat template")
    return texts
