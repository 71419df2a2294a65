"""docs/theory.md and the four pages it links to: what is cited exists, every claim is stated."""

import re
from fractions import Fraction as F
from math import log
from pathlib import Path

import pytest
from optional import not_none

from sim.claims import check, registry
from sim.oracle import exact

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("theory", "theory_estimators", "theory_topk", "theory_related", "theory_drafting")
PAGES = [ROOT / "docs" / f"{name}.md" for name in NAMES]
CITATION = re.compile(
    r"docs/theory\.md[,:]\s+(?:part\s+)?((?:[A-E]\d*(?:\([ivx]+\))?(?:\s*[-,]\s*|\s+to\s+)?)+)(?!\w)"
)

check.load_claims()


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def everything() -> str:
    return "\n".join(text(page) for page in PAGES if page.exists())


def headings(page: str) -> set[str]:
    """A letter of a part ("## A. Title") or of a statement ("### A1. Title")."""
    return set(re.findall(r"^#{2,3} ([A-E]\d*)\. ", page, re.M))


def cited(source: str) -> set[str]:
    """Parts and statements of docs/theory.md that a text cites: the ends of ranges included."""
    lists = CITATION.findall(re.sub(r"\n[#\s]*", " ", source))
    return {name for part in lists for name in re.findall(r"[A-E]\d*", part)}


@pytest.mark.parametrize("id", registry.CLAIMS)
def test_every_claim_of_the_registry_is_in_the_theory(id):
    assert f"`{id}`" in everything(), f"state and prove {id} in docs/theory.md"


def test_every_claim_the_theory_names_is_in_the_registry():
    blocks = re.findall(r"\*Claims:\*(.*?)(?=\*Tests?:\*|\n\n|\Z)", everything(), re.S)
    assert len(blocks) > 20
    named = {id for block in blocks for id in re.findall(r"`([^`]+)`", block)}
    assert named - set(registry.CLAIMS) == set()


def test_every_test_the_theory_names_exists():
    """`tests/file.py::test_name` in that file, a bare `test_name` in some file."""
    folder = ROOT / "tests"
    sources = {p.relative_to(folder).as_posix(): text(p) for p in folder.rglob("*.py")}
    pages = everything()
    placed = re.findall(r"tests/([\w/]+\.py)::(test_\w+)", pages)
    bare = re.findall(r"(?<![:/\w])(test_\w+)\b(?!\.py)", pages)
    assert len(placed) > 50 and len(bare) > 10
    for file, name in placed:
        assert f"def {name}(" in sources.get(file, ""), f"{file} has no {name}"
    for name in bare:
        assert any(f"def {name}" in source for source in sources.values()), name


@pytest.mark.parametrize(
    "folder", ["jackpot", "sim", "llm", "paper_figures", "tests", "benchmarks"]
)
def test_every_citation_in_the_code_has_its_heading(folder):
    known = headings(text(PAGES[0]))
    for path in (ROOT / folder).rglob("*.py"):
        assert cited(text(path)) <= known, path


def test_citations_of_every_form_are_seen():
    """A pattern that sees nothing would always pass."""
    forms = "docs/theory.md, A0(v), (vi)) docs/theory.md: B1, B2) docs/theory.md, C4-C5)"
    assert cited(forms) == {"A0", "B1", "B2", "C4", "C5"}
    ranges = "docs/theory.md,\n    E1 to E3. docs/theory.md, part D: docs/theory.md, A6, says"
    assert cited(ranges) == {"E1", "E3", "D", "A6"}
    assert cited('"docs/theory.md, A3")') == {"A3"} and cited("docs/theory.md, Errata") == set()
    assert {"A", "A0", "A7", "B", "B2", "C", "C5", "D", "D1", "D4", "E", "E4"} <= headings(
        text(PAGES[0])
    )


def test_the_example_is_what_rational_arithmetic_gives():
    """The rows of the table under "Four tokens", and the budgets named below it."""
    p = [F(1, 2), F(1, 4), F(1, 8), F(1, 8)]
    q = [F(1, 4)] * 4
    section = text(PAGES[0]).split("### Four tokens")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in section.splitlines()
        if re.match(r"\| \d", line)
    ]
    assert len(rows) == 5

    def row(cell: str) -> list[F]:
        return [F(x) for x in not_none(re.search(r"\((.*?)\)", cell)).group(1).split(", ")]

    for word, a, z, distribution, kl, tv in rows:
        lam = F(word.split()[0])
        assert row(a) == exact.accept_prob(p, q, lam)
        assert F(z) == exact.acceptance_rate(p, q, lam)
        assert row(distribution) == exact.post_rejection(p, q, lam)
        assert F(tv) == exact.tv(p, row(distribution))
        assert float(kl) == pytest.approx(_kl(p, row(distribution)), abs=5e-5)
    assert exact.lam_for_budget(p, q, F(9, 10)) == F(5, 8)
    assert exact.reach([F(1, 2), F(1, 4), F(1, 4), F(0)], q) == F(3, 4)


def _kl(p, q) -> float:

    return sum(float(a) * log(a / b) for a, b in zip(p, q, strict=True))


def test_lines_fit_the_page():
    for page in PAGES[:1]:
        long = [n for n, line in enumerate(text(page).splitlines(), 1) if len(line) > 120]
        assert long == [], f"{page.name}: lines {long}"
