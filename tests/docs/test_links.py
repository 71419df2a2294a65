"""The check of the built site finds links that lead nowhere, and files from the network."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs/site"))
import links  # noqa: E402


def broken(site: Path, body: str) -> list[str]:
    """Of a site with a page of this body and a second page."""
    (site / "a").mkdir(exist_ok=True)
    (site / "a/page.html").write_text(f'<h1 id="top">A</h1>{body}')
    (site / "other page.html").write_text('<a href="a/page.html#top">A</a><p id="end é">')
    return links.broken(site)


@pytest.mark.parametrize(
    "body",
    [
        '<a href="#top">',
        '<a href="../other%20page.html#end%20%C3%A9">',
        '<a href="../other%20page.html">',
        '<a href="page.html?q=1#top">',
        '<a href="https://example.org/x#y"><a href="mailto:a@example.org">',
        '<img src="data:image/png;base64,AAAA">',
    ],
)
def test_a_link_that_leads_somewhere_is_no_error(tmp_path, body):
    assert broken(tmp_path, body) == []


@pytest.mark.parametrize(
    ("reference", "wrong"),
    [
        ('<a href="nowhere.html">', "nowhere.html (no such file)"),
        ('<a href="../other page.html#start">', "../other page.html#start (no such anchor)"),
        ('<a href="#bottom">', "#bottom (no such anchor)"),
        ('<a href="../">', "../ (no such file)"),  # a folder shows no page from disk
        ('<img src="picture.png">', "picture.png (no such file)"),
        ('<script src="https://x.org/a.js">', "https://x.org/a.js (loaded from the network)"),
        ('<link href="//x.org/a.css">', "//x.org/a.css (loaded from the network)"),
    ],
)
def test_what_is_wrong_with_a_reference_is_said_once(tmp_path, reference, wrong):
    assert broken(tmp_path, reference * 2) == [f"a/page.html: {wrong}"]


def test_a_folder_without_pages_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no page"):
        links.broken(tmp_path)


def test_make_docs_checks_the_links_of_what_it_built():
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ndocs:")[1].split("\n\n")[0]
    assert recipe.index("sphinx-build") < recipe.index("docs/site/links.py build/docs")
