"""Each page of documentation is in exactly one section of the site's navigation."""

import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs/site"))
import navigation  # noqa: E402

INDEX = (ROOT / "docs/index.md").read_text(encoding="utf-8")


def test_the_sections_are_the_four_kinds_of_documentation():
    assert tuple(navigation.sections(INDEX)) == navigation.SECTIONS
    assert all(navigation.sections(INDEX).values())


def test_every_page_is_in_exactly_one_section():
    placed = Counter(page for links in navigation.sections(INDEX).values() for _, page in links)
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    pages = {p for p in pages if not p.startswith("generated/")} - {"index.md"}
    assert pages - placed.keys() == set()
    assert [page for page, times in placed.items() if times > 1] == []
    assert [page for page in placed if not (ROOT / "docs" / page).is_file()] == []


def test_every_how_to_page_that_a_user_needs_is_there():
    """Own model, data, reward and loop, several GPUs, resuming, exporting, trouble."""
    pages = {page for _, page in navigation.sections(INDEX)["How-to"]}
    subjects = ["models", "data", "rewards", "own_loop", "launch/README"]
    subjects += ["resuming", "export", "trouble"]
    assert {f"{subject}.md" for subject in subjects} <= pages


def test_the_site_has_the_sections_with_their_pages():
    text = navigation.toctrees(INDEX)
    assert text.startswith(INDEX)
    assert re.findall(r":caption: (.+)", text) == list(navigation.SECTIONS)
    trees = text.removeprefix(INDEX)
    for page in navigation.documents()[1:]:
        assert f"</{page}>" in trees


def test_the_pages_that_are_written_at_build_time_are_in_the_navigation_and_linked():
    text = navigation.toctrees(INDEX)
    pages = [(name, *page) for name, pages in navigation.GENERATED.items() for page in pages]
    assert {p for _, _, p in pages} >= {"docs/generated/settings", "docs/generated/jackpot"}
    for section, title, page in pages:
        tree = text.split(f":caption: {section}\n")[1].split("```")[0]
        assert f"{title} </{page}>" in tree
        assert f"- [{title}](/{page})\n" in text
