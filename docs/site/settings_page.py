"""The page of every setting, written from llm.settings, which needs no torch."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

from readers import readers

from llm.settings.bounds import words_of
from llm.settings.help import field_docs
from llm.settings.schema import Settings
from llm.settings.sections import all_keys, classes_of, settings_of, types_of
from llm.settings.sources import SOURCES

PAPER = "2602.06107"
Where = tuple[tuple[str, tuple[str, ...]], ...]  # ((key of a type, its values), ...): all hold


class PageSetting(NamedTuple):
    """A setting as one class of its section declares it."""

    key: str
    kind: Any
    default: Any
    doc: str
    where: Where
    owner: str


def entries(hint: Any, value: Any, prefix: str = "", where: Where = ()) -> Iterator[PageSetting]:
    """Every setting of every type. value: the section with its defaults."""
    types = types_of(hint)
    for cls in classes_of(hint):
        names = tuple(name for name, c in types.items() if c is cls)
        section = value if isinstance(value, cls) else cls()
        here = (*where, (f"{prefix}type", names)) if len(set(types.values())) > 1 else where
        docs = field_docs(cls)
        for name, kind in settings_of(cls).items():
            inside, doc = getattr(section, name), docs.get(name, "")
            if classes_of(kind):
                yield from entries(kind, inside, f"{prefix}{name}.", here)
            elif name == "type":
                yield PageSetting(
                    f"{prefix}type", Literal[tuple(types)], value.type, doc, where, ""
                )
            else:
                yield PageSetting(f"{prefix}{name}", kind, inside, doc, here, cls.__doc__ or "")


def page() -> str:
    """The text of the page."""
    lines = [_HEAD]
    sections: dict[str, dict[str, list[PageSetting]]] = {}
    for entry in entries(Settings, Settings()):
        prefix = entry.key.rpartition(".")[0]
        sections.setdefault(prefix, {}).setdefault(entry.key, []).append(entry)
    for prefix in sorted(sections, key=_order(list(sections))):
        lines += _section(prefix, sections[prefix])
    return "\n".join(lines)


def _order(prefixes: list[str]) -> Callable[[str], list[int]]:
    """A key by which sections inside a section follow it."""

    def place(prefix: str) -> list[int]:
        parts = prefix.split(".")
        outer = [".".join(parts[: i + 1]) for i in range(len(parts))]
        return [prefixes.index(name) for name in outer if name in prefixes]

    return place


def _section(prefix: str, settings: Mapping[str, list[PageSetting]]) -> Iterator[str]:
    yield f"{'#' * (2 + prefix.count('.'))} `{prefix}`\n"
    own = f"{prefix}.type"
    everything = [e for found in settings.values() for e in found]
    if outer := _condition(everything, lambda key: key != own):
        yield f"{outer}\n"
    yield from _types(_hint(prefix))
    for key, found in settings.items():
        yield from _setting(key, found, own)


def _hint(prefix: str) -> Any:
    """The type hint of a section."""
    hints = [Settings]
    for name in prefix.split("."):
        classes = [cls for hint in hints for cls in classes_of(hint)]
        hints = [settings_of(cls)[name] for cls in classes if name in settings_of(cls)]
        hints = [hint for hint in hints if classes_of(hint)]
    return hints[0]


def _types(hint: Any) -> Iterator[str]:
    types = types_of(hint)
    for cls in dict.fromkeys(types.values()):
        names = ", ".join(f"`{name}`" for name, c in types.items() if c is cls)
        settings = ", ".join(f"`{x}`" for x in settings_of(cls) if x != "type") or "none"
        yield f"- {names}: {prose(cls.__doc__ or '')} Settings: {settings}."
    if types:
        yield ""


def _setting(key: str, found: list[PageSetting], own: str) -> Iterator[str]:
    """The entry of one setting; types that declare it differently follow one another."""
    groups: dict[tuple[str, str, str], list[PageSetting]] = {}
    for e in found:
        groups.setdefault((kind_of(e.kind), shown(e.default), e.doc), []).append(e)
    kinds, defaults = (dict.fromkeys(group[i] for group in groups) for i in (0, 1))
    yield f"````{{confval}} {key}"
    yield f":type: {' or '.join(kinds)}"
    yield f":default: {' or '.join(defaults)}\n"
    for (_, default, doc), members in groups.items():
        condition = _condition(members, lambda key: key == own)
        differs = f"Default {default}. " if len(defaults) > 1 else ""
        yield f"{condition}{' ' * bool(condition)}{differs}{prose(doc)}\n"
    if bounds := words_of(key):
        yield f"- Bounds: {prose(bounds)}"
    yield f"- Source{source(key, found)}"
    modules = ", ".join(f"`llm/{name}`" for name in readers().get(key, []))
    yield f"- Read by: {modules}"
    yield "````\n"


def source(key: str, found: list[PageSetting]) -> str:
    """Where a setting comes from: what its docstring names, its entry of SOURCES, or its type's."""
    if named := sources_of([e.doc for e in found]):
        return f": {named}"
    if key in SOURCES:
        return f": {_PLACE.sub(_paper, prose(SOURCES[key]))}"
    return f" of its type: {sources_of([e.owner for e in found])}"


_PLACE = re.compile(r"the paper, (Eq\. \d+|Sec\. [\d.]*\d|Algorithm \d|\w+ 3\.\d)")


def _paper(found: re.Match[str]) -> str:
    return f"[{found[0]}](https://arxiv.org/abs/{PAPER})"


def _condition(members: list[PageSetting], of: Callable[[str], bool]) -> str:
    """Which types have it, in words; nothing where all have. of: which keys of types to name."""
    keys = dict.fromkeys(key for e in members for key, _ in e.where if of(key))
    parts = []
    for key in keys:
        names = dict.fromkeys(n for e in members for k, ns in e.where if k == key for n in ns)
        if set(names) != set(unions()[key]):
            parts.append(f"{{confval}}`{key}` = {' or '.join(f'`{name}`' for name in names)}")
    return f"With {' and '.join(parts)}." if parts else ""


@functools.cache
def unions() -> dict[str, list[str]]:
    """{key of a type: its values}, of every section that is a union."""
    found = (e for e in entries(Settings, Settings()) if e.key.endswith(".type"))
    return {entry.key: list(get_args(entry.kind)) for entry in found}


def kind_of(kind: Any) -> str:
    """A setting's type in words."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f"`{x}`" for x in get_args(kind) if x != "")
    return {bool: "true or false", int: "integer", float: "number", str: "text"}[kind]


def shown(value: Any) -> str:
    """A default as a TOML file has it."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


_NAMED = re.compile(r"\b(Eq\. \d+(?: and \d+)?|Sec\. [\d.]*\d|Algorithm \d)|arXiv\s+(\d{4}\.\d{5})")


def sources_of(texts: list[str]) -> str:
    """Equations of the paper, and other papers, which docstrings name."""
    links = {}
    for place, number in (m.groups() for text in texts for m in _NAMED.finditer(text)):
        label = f"the paper, {place}" if place else f"arXiv {number}"
        links[label] = f"[{label}](https://arxiv.org/abs/{number or PAPER})"
    return ", ".join(links.values())


_KEYS = sorted(set(all_keys(Settings)), key=len, reverse=True)
_KEY = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, _KEYS))})(?![\w.]*\w)")
_PAGE = re.compile(r"\bdocs/(\w+)\.md\b")


def prose(text: str) -> str:
    """A docstring as Markdown: names of settings, papers and pages become links."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else _linked(part) for part in parts)


def _linked(text: str) -> str:
    text = re.sub(r"([\\*<\[\]])", r"\\\1", text)
    text = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    text = _PAGE.sub(r"[docs/\1.md](../\1.md)", text)
    return _KEY.sub(r"{confval}`\1`", text)


_HEAD = f"""\
# Settings

Every setting of a run, `python -m llm train FILE.toml --section.name value`. A section with a
setting `type` has one list of settings for each type. This page is written from the declarations in
`llm/settings/schema.py`, the bounds in `llm/settings/bounds.py`, the sources in
`llm/settings/sources.py`, and the modules of `llm/` that read a setting, as their code shows. A
source "ours" is a choice of this project that no paper makes.
`python -m llm train FILE.toml --help` prints the settings that apply to a configuration.

Bounds are checked before a run starts, and a setting that nothing would read is refused. Every
number is finite unless its bounds say "may be inf". An integer is below 2^63. A number is at most
3e38, and 0 or at least 1.2e-38 in size, because it is used in float32. Text is not white space
alone. p is the policy's probability of a token, and q is the actor's. "The paper" is
[arXiv {PAPER}](https://arxiv.org/abs/{PAPER}).
[DEVIATIONS.md](../../DEVIATIONS.md#terms) defines the terms.
"""
