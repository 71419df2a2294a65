"""`python -m sim report`: one page that holds everything, hides no failure and escapes all text."""

import json
import re
from html.parser import HTMLParser

import pytest

from sim.claims import check, registry
from sim.commands import COMMANDS
from sim.commands import main as sim_main
from sim.report import html as report_page
from sim.report import run, sections

HOSTILE = "<script>alert('x')</script> & \"quoted\" --> </pre>"
VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Checks that tags close in order, and collects links, pictures, ids and text."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def part(name="check", **changes):
    """A part that needs no work: `check` on what the test leaves in the registry."""
    found = next(p for p in sections.PARTS if p.name == name)
    return sections.Part(**{**vars(found), **changes})


def page_of(monkeypatch, capsys, tmp_path, parts, *arguments):
    """Exit status, page and stderr of a report of the given parts."""
    out = tmp_path / "page.html"
    monkeypatch.setattr(run, "parts", lambda: parts)
    code = sim_main(["report", "--quick", "--out", str(out), *arguments])
    return code, out.read_text(encoding="utf-8"), capsys.readouterr().err


@pytest.fixture(scope="module")
def quick_page(tmp_path_factory):
    """The page of check, sweep and budgets, really run, with few cases."""
    monkeypatch = pytest.MonkeyPatch()
    few = part(options=lambda args: ["--cases", "4"], files=part().files)
    others = [p for p in sections.PARTS if p.name in ("sweep", "budgets")]
    monkeypatch.setattr(run, "parts", lambda: [few, *others])
    out = tmp_path_factory.mktemp("report") / "page.html"
    sim_main(["report", "--quick", "--seed", "3", "--out", str(out)])
    monkeypatch.undo()
    return out.read_text(encoding="utf-8")


def test_the_page_needs_nothing_but_itself(quick_page):
    """Every src and href is a data: picture or an anchor that exists; no scripts, no imports."""
    page = Reader(quick_page)
    assert any(link.startswith("data:image/png;base64,") for link in page.links)
    for link in page.links:
        assert link.startswith("data:image/png;base64,") or link[1:] in page.ids, link[:80]
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert not re.search(r"url\(|@import", quick_page)


def test_the_page_names_every_claim_once_with_its_statement(quick_page):
    check.load_claims()
    page = Reader(quick_page)
    for claim in registry.CLAIMS.values():
        assert page.ids.count(f"claim-{claim.id}") == 1
        assert claim.statement in page.text


def test_the_page_says_how_to_make_it_again(quick_page):
    text = Reader(quick_page).text
    assert "python -m sim sweep --seed 3 --quick" in text
    assert "python -m sim check --cases 4" in text
    assert re.search(r"commit([0-9a-f]{40}|unknown)", text)
    for name in ("numpy", "scipy", "mpmath", "matplotlib", "jackpot-obrs"):
        assert re.search(rf"{name} \d+\.\d", text)


def test_text_from_outside_is_escaped(monkeypatch, capsys, tmp_path):
    """A worst case, a statement and an id that look like HTML are shown, not obeyed."""
    row = {
        "id": HOSTILE, "source": HOSTILE, "statement": HOSTILE, "declared": "holds",
        "verdict": HOSTILE, "cases": 1, "violations": 1, "largest_violation": 0.5,
        "worst_case": {HOSTILE: [HOSTILE, 1.5, None]},
    }  # fmt: skip

    def tables(folder):
        return [report_page.claims_table([row])]

    monkeypatch.setattr(registry, "CLAIMS", {})
    nothing = part(tables=tables, title=HOSTILE, text=HOSTILE)
    _, html, _ = page_of(monkeypatch, capsys, tmp_path, [nothing])
    page = Reader(html)
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 8
    assert f"{HOSTILE} = ({HOSTILE}, 1.5, null)" in page.text


def failing_claim(monkeypatch):
    """A registry of one true claim that is declared to fail."""
    check.load_claims()
    wrong = registry.CLAIMS["A0-tv"]
    wrong = type(wrong)(**{**vars(wrong), "declared": registry.FAILS})
    monkeypatch.setattr(registry, "CLAIMS", {"A0-tv": wrong})


def test_a_verdict_unlike_its_declaration_is_red_and_exits_1(monkeypatch, capsys, tmp_path):
    failing_claim(monkeypatch)
    code, html, err = page_of(monkeypatch, capsys, tmp_path, [part()])
    assert code == 1 and "failed: check" in err
    assert '<span class="word bad">holds, declared: fails</span>' in html
    assert '<span class="word bad">FAILED</span>' in html
    assert "exit status 1" in Reader(html).text


def test_a_part_that_raises_is_shown_and_the_others_still_run(monkeypatch, capsys, tmp_path):
    def boom(argv):
        raise ZeroDivisionError("nothing <accepted>")

    check.load_claims()
    monkeypatch.setattr(registry, "CLAIMS", {"A0-tv": registry.CLAIMS["A0-tv"]})
    monkeypatch.setattr("sim.studies.sweep.main", boom)
    parts = [part("sweep"), part()]
    code, html, err = page_of(monkeypatch, capsys, tmp_path, parts)
    assert code == 1 and "failed: sweep;" in err
    assert "ZeroDivisionError: nothing &lt;accepted&gt;" in html
    assert html.count('<span class="word bad">FAILED</span>') == 2  # overview and section
    assert 'id="claim-A0-tv"' in html


def test_what_a_part_refuses_is_shown_with_its_reason(monkeypatch, capsys, tmp_path):
    """A command that ends the program (bad options) does not end the report."""
    wrong = part(options=lambda args: ["--cases", "0"])
    code, html, _ = page_of(monkeypatch, capsys, tmp_path, [wrong])
    assert code == 1
    assert "exit status 2" in html and "0 is too small" in html


def test_a_part_whose_files_are_missing_fails(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sim.studies.sweep.main", lambda argv: 0)
    code, html, _ = page_of(monkeypatch, capsys, tmp_path, [part("sweep")])
    assert code == 1 and "its files cannot be shown: FileNotFoundError" in html


def test_every_part_is_a_command_and_every_command_of_the_lab_a_part():
    assert {p.name for p in run.parts()} == set(COMMANDS) - {"report"}


def test_a_registry_that_agrees_exits_0(monkeypatch, capsys, tmp_path):
    check.load_claims()
    monkeypatch.setattr(registry, "CLAIMS", {"A0-tv": registry.CLAIMS["A0-tv"]})
    code, html, err = page_of(monkeypatch, capsys, tmp_path, [part()])
    assert code == 0 and "FAILED" not in html and "report [1/1] check: passed" in err
    assert "1 claims: 1 hold; 0 hold as corrected; 0 fail, as declared; 0 have" in html


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "/no/such/folder/x.html"], "there is no folder /no/such/folder"),
        (["--out", "/"], "is a folder; give the name of a file in it"),
        (["--seed", "-1"], "'-1' is not a seed"),
    ],
)
def test_bad_input_is_refused_before_any_work(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(run, "run", lambda *a: pytest.fail("work had started"))
    with pytest.raises(SystemExit, match="2"):
        sim_main(["report", *arguments])
    assert message in capsys.readouterr().err


def test_without_out_the_page_goes_to_runs(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "parts", list)
    assert sim_main(["report"]) == 0
    assert Reader((tmp_path / "runs/report/report.html").read_text(encoding="utf-8")).ids
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/runs").write_text("a file in the way")
    with pytest.raises(SystemExit, match="2"):
        sim_main(["report"])
    assert "give another file with --out" in capsys.readouterr().err


def test_json_of_the_registry_is_all_the_table_needs():
    """What `as_dict` writes survives JSON and is shown: infinite violations, empty worst cases."""
    claim = registry.Claim("x", "here", "s", registry.FAILS, lambda draw: iter(()), None, 1.0, {})
    found = registry.Finding(claim, cases=3, violations=1, largest_violation=float("inf"))
    found.verdict = registry.FAILS
    html = report_page.claims_table([json.loads(json.dumps(found.as_dict()))])
    text = Reader(html).text
    assert "fails, as declared" in text and "inf" in text
