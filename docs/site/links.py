"""Check a built site: each link inside it leads somewhere, and nothing is loaded from a network.

`python docs/site/links.py build/docs` prints what is wrong and exits with 1. Sphinx checks the
links that the pages write. This checks those that Sphinx and its theme write too. It needs nothing
but Python.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _LinksOfPage(HTMLParser):
    """The ids of a page, its references, and those of them that the browser loads by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.references: dict[str, None] = {}  # in the page's order, each once
        self.loaded: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        found = {given[name] for name in ("href", "src") if name in given}
        self.references |= dict.fromkeys(sorted(found))
        self.loaded |= {given["src"]} if "src" in given else found if tag == "link" else set()


def broken(site: Path) -> list[str]:
    """ "page: reference (what is wrong)" of every bad reference, in order.

    Args:
        site: folder of the built pages, at least one.
    """
    files = sorted(site.rglob("*.html"))
    if not files:
        raise ValueError(f"{site} holds no page: build the site first")
    pages = {file.resolve(): _LinksOfPage(file.read_text(encoding="utf-8")) for file in files}
    return [
        f"{file.relative_to(site.resolve())}: {reference} ({wrong})"
        for file, page in pages.items()
        for reference in page.references
        if (wrong := _wrong(file, reference, pages))
    ]


def _wrong(file: Path, reference: str, pages: dict[Path, _LinksOfPage]) -> str:
    """What is wrong with a reference of a page; empty: nothing."""
    url = urlsplit(reference)
    if url.scheme == "data":
        return ""
    if url.scheme or url.netloc:
        return "loaded from the network" if reference in pages[file].loaded else ""
    target = (file.parent / unquote(url.path)).resolve() if url.path else file
    if not target.is_file():
        return "no such file"
    anchor = unquote(url.fragment)
    if anchor and target in pages and anchor not in pages[target].ids:
        return "no such anchor"
    return ""


if __name__ == "__main__":
    found = broken(Path(sys.argv[1]))
    print(*found, sep="\n", end="\n" * bool(found))
    sys.exit(f"{len(found)} broken references" if found else 0)
