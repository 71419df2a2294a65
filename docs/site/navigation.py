"""The navigation of the site, read from the links of docs/index.md. Needs nothing but Python."""

from __future__ import annotations

import re
from pathlib import Path

import reference

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ("Tutorial", "How-to", "Reference", "Explanation")
# Pages that are written at build time. They are no files of the repository.
GENERATED = {"Reference": [("Settings", "docs/generated/settings"), *reference.documents()]}


def sections(index: str) -> dict[str, list[tuple[str, str]]]:
    """{section: [(title, page)]} of the text of docs/index.md; pages as in its links."""
    parts = re.split(r"^## (.+)$", index, flags=re.M)[1:]
    links = r"^- \[(.+?)\]\(([^)#\s]+\.md)\)"
    return {
        name: re.findall(links, body, re.M)
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def toctrees(index: str) -> str:
    """The text of docs/index.md with a hidden table of contents for each section, for Sphinx."""
    trees = []
    for name, links in sections(index).items():
        pages = [(_plain(title), _document(page)) for title, page in links]
        entries = "\n".join(f"{title} </{page}>" for title, page in GENERATED.get(name, []) + pages)
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: {name}\n\n{entries}\n```\n")
    written = [f"- [{title}](/{page})\n" for pages in GENERATED.values() for title, page in pages]
    heading = "\n## Reference written from the code\n\n"
    return index + heading + "".join(written) + "\n" + "\n".join(trees)


def documents() -> list[str]:
    """Every page of the repository that the site has, from the root, without '.md'."""
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    return ["docs/index"] + [_document(p) for links in sections(index).values() for _, p in links]


def _document(page: str) -> str:
    path = (ROOT / "docs" / page).resolve().relative_to(ROOT)
    return path.with_suffix("").as_posix()


def _plain(title: str) -> str:
    return title.replace("`", "")
