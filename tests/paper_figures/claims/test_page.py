"""The paper's tables beside ours, the claims as files, and one page of everything."""

import csv
import itertools
import json
import re
from types import SimpleNamespace

import figure_runs
import pytest
from figure_runs import CLAIM, SCALE

from paper_figures import commands
from paper_figures import figure as command
from paper_figures.analysis import run_statistics
from paper_figures.claims import page as claims
from paper_figures.claims import verdicts
from paper_figures.claims.verdicts import EmpiricalClaim
from paper_figures.drawing import plots, tables
from paper_figures.experiments import provenance, run_lists
from paper_figures.experiments.run_lists import FULL, QUICK
from paper_figures.figures import fig1
from paper_figures.report import contents
from paper_figures.report import page as report
from paper_figures.tables import table1, table2, table3

HOSTILE = "<script>alert('x')</script> & \"quoted\""


def paper_lines(*parts: str) -> dict[str, float]:
    """Numbers of the paper's file, read by hand: lines that hold all parts."""
    text = tables.PAPER_TABLES.read_text(encoding="utf-8").splitlines()
    lines = [line.split(",") for line in text if all(p in line for p in parts)]
    return {line[-2]: float(line[-1]) for line in lines}


def test_tables_find_the_papers_rows():
    eight = tables.paper(1, *table1.PAPER["jackpot"])
    assert (eight["MATH-500 mean@4"], eight["AIME24 pass@4"]) == (0.8265, 0.3657)
    assert tables.paper(1, *table1.PAPER["on-policy small"])["MATH-500 mean@4"] == 0.6590
    assert tables.paper(1, *table1.PAPER["kl"])["GSM8K mean@4"] == 0.7417
    assert tables.paper(2, table2.PARTS["int8"][2], table2.PAPER["int8 tis"]) == paper_lines(
        "FP8 KV", ",TIS,"
    )
    crash = tables.paper(3, table3.BLOCKS[128], table3.PAPER["no clip"])
    assert crash == paper_lines("128x", ",No-clip,")
    assert crash["MATH-500 mean@4"] == 0.191
    assert tables.paper(3, table3.BLOCKS[64], "On-policy")["GSM8K mean@4"] == 0.9219  # of 4B


def test_a_row_that_the_paper_lacks_or_has_twice_is_refused():
    with pytest.raises(KeyError, match="0 numbers"):
        tables.paper(3, table3.BLOCKS[128], "On-policy")
    with pytest.raises(KeyError, match="Table 1 has 16 numbers"):
        tables.paper(1, "Qwen3-1.7B", "Jackpot")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The three tables and a ledger of two claims, of runs that are made up."""
    root = tmp_path_factory.mktemp("drawn")
    home, out = root / "home", root / "out"
    out.mkdir()
    own = [r for m in (table1, table2, table3, fig1) for r in m.FIGURE.runs(SCALE)]
    for i, r in enumerate(dict.fromkeys(own)):
        n = len(figure_runs.evaluated_steps(r))
        gone = r.method == "no clip" and dict(r.extra)["loss.updates_per_rollout"] == 128
        end = 0.5 + 0.01 * (i % 40)
        rates = [0.2] if gone else [0.2 + (end - 0.2) * j / (n - 1) for j in range(n)]
        figure_runs.write(r, home, rates, code=3 if gone else 0)
    for e in table1.evaluations(SCALE, home):
        figure_runs.write_eval(e, home, 0.5 + 0.01 * (e.run.seed - 900), 0.875)
    monkeypatch = pytest.MonkeyPatch()
    kept = [CLAIM._replace(paper=HOSTILE, above=0.1)]
    kept.append(EmpiricalClaim("y", "Sec. 8", "w", "none", reason=HOSTILE))
    monkeypatch.setattr(verdicts, "load", lambda: kept)
    texts = {}
    for m in (table1, table2, table3, claims):
        texts[m.FIGURE.name] = m.figure(SCALE, out, home)
        provenance.note(out, m.FIGURE.name, SCALE, m.FIGURE.runs(SCALE))
    texts["report"] = report.write(SCALE, out)
    monkeypatch.undo()
    return home, out, texts


def rows(path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_table_1_has_our_means_beside_the_papers(drawn):
    home, out, texts = drawn
    found = {row["method"]: row for row in rows(out / "table1.csv")}
    assert list(found) == list(run_lists.TABLE1)
    mine = found["jackpot"]
    assert float(mine["8 digits mean@4"]) == pytest.approx(0.51)
    assert float(mine["4 digits pass@4"]) == 0.875
    assert mine["paper MATH-500 mean@4"] == "0.8265"
    assert found["tis+ppo+kl"]["paper GSM8K mean@4"] == ""
    assert all((home / name).is_dir() for name in mine["runs"].split())
    line = next(x for x in texts["table1"].splitlines() if x.startswith("Jackpot  "))
    assert "0.510 / 0.875" in line
    assert line.endswith("1.7B → 8B")


def test_table_2_compares_each_with_the_plain_method_of_its_part(drawn):
    _, out, _ = drawn
    found = {row["method"]: row for row in rows(out / "table2.csv")}
    for part, methods in (("stale", run_lists.KEPT), ("int8", run_lists.INT8)):
        plain, *others = methods
        assert found[plain]["minus plain"] == ""
        for name in others:
            difference = float(found[name]["final"]) - float(found[plain]["final"])
            assert found[name]["part"] == part
            assert float(found[name]["minus plain"]) == pytest.approx(difference)
    assert found["int8"]["paper GSM8K mean@4"] == ""
    assert found["int8 tis"]["paper GSM8K mean@4"] == "0.9268"


def test_table_3_counts_runs_that_diverged(drawn):
    _, out, texts = drawn
    found = {(row["updates per rollout"], row["method"]): row for row in rows(out / "table3.csv")}
    gone = found["128", "no clip"]
    assert (gone["diverged"], float(gone["final"])) == ("3", 0)
    assert gone["paper MATH-500 mean@4"] == "0.191"
    assert found["16", "no clip"]["paper MATH-500 mean@4"] == ""
    assert "3 runs diverged" in texts["table3"]
    assert len(found) == 1 + len(run_lists.STALE) * len(run_lists.STALENESS)


TABLE = tables.Table(
    "t", "A | title", ("", "one\ntwo"), (("part",), ("a | b", "0.1\n[0, 1]")), ("A note.", "More.")
)


def test_markdown_gives_a_table_back():
    assert tables.read_markdown(tables.markdown(TABLE)) == TABLE._replace(name="")


def test_a_table_too_wide_for_the_page_is_refused():
    wide = TABLE._replace(rows=(("x" * 90, "y" * 90),))
    with pytest.raises(ValueError, match="do not fit"):
        tables.picture(wide)


def test_no_two_texts_of_a_table_overlap(drawn):
    home, _, _ = drawn
    for module in (table1, table2, table3):
        fig = tables.picture(module.table(module.numbers(SCALE, home)))
        renderer = fig.canvas.get_renderer()
        boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in fig.texts if t.get_text()]
        assert len(boxes) > 30
        for (a, one), (b, other) in itertools.combinations(boxes, 2):
            assert not one.shrunk(0.95, 0.8).overlaps(other.shrunk(0.95, 0.8)), f"{a!r}, {b!r}"
        assert all(box.x0 >= 0 and box.x1 <= fig.bbox.x1 and box.y0 >= -2 for _, box in boxes)
        plots.plt().close(fig)


def test_the_ledger_is_written_for_machines(drawn):
    _, out, texts = drawn
    whole = json.loads((out / "claims.json").read_text(encoding="utf-8"))
    first, second = whole["claims"]
    assert (first["id"], first["wanted"], first["unit"]) == ("x", "above 0.1", "pass rate")
    assert first["low"] <= first["value"] <= first["high"]
    assert len(first["runs"]) == 6
    assert (second["verdict"], second["value"]) == (verdicts.CANNOT, None)
    assert "2 claims" in texts["claims"]
    assert [row["id"] for row in rows(out / "claims.csv")] == ["x", "y"]


def test_it_is_said_which_verdicts_rest_on_the_kind_of_interval():
    """Only those reproduced count, and each is judged again by its other interval."""
    wide = run_statistics.Interval(0.5, -0.5, 1.5)
    near = run_statistics.Interval(0.5, 0.4, 0.6)
    claim = CLAIM._replace(above=0.1)
    judged = [
        verdicts.Judgement(claim._replace(id=i), v, "", near, 3, (), t)
        for i, v, t in (
            ("kept", verdicts.REPRODUCED, near),
            ("lost", verdicts.REPRODUCED, wide),
            ("never", verdicts.NOT, wide),
        )
    ]
    assert claims.by_student(judged).endswith("1 of the 2 reproduced would not be: lost")
    assert claims.by_student(judged[:1]).endswith("0 of the 1 reproduced would not be")


def test_the_page_needs_nothing_but_itself_and_runs_nothing(drawn):
    _, out, _ = drawn
    page = (out / "report.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'id="([^"]+)"', page))
    links = re.findall(r'(?:src|href|srcset|action)="([^"]*)"', page)
    assert any(link.startswith("data:image/png;base64,") for link in links)
    for link in links:
        assert link.startswith("data:image/png;base64,") or link[1:] in ids, link[:80]
    assert not re.search(r"<script|<link|<iframe|url\(|@import", page)
    assert page.count("&lt;script&gt;") == 2


def test_the_page_shows_tables_verdicts_and_what_is_missing(drawn):
    _, out, _ = drawn
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "0.510 / 0.875" in page
    assert page.count('class="word') == 2
    assert "cannot be tested here" in page
    assert "x over y<br><small>above 0.1</small>" in page
    assert f"python -m paper_figures fig1 --out {out}" in page
    assert "seeds 900, 901, 902" in page


def test_the_page_shows_nothing_of_another_version_of_the_code(drawn, monkeypatch):
    _, out, _ = drawn
    monkeypatch.setattr(provenance, "version", lambda: "another")
    page = report.page(SCALE, out)
    assert "0.510 / 0.875" not in page
    assert page.count("made by another version of the code") == 4


def test_all_draws_every_figure_that_has_a_command():
    assert set(commands.FIGURES) - {"all", "demo", "tune", "report"} == set(contents.ALL)
    names = [f.name for own in contents.figures().values() for f in own]
    assert len(names) == len(set(names))


def test_a_figure_without_runs_is_drawn_by_its_command(tmp_path):
    called = []
    module = SimpleNamespace(__doc__="Figure 2: words.", main=lambda argv: called.append(argv) or 0)
    figure = contents._plain("fig2", module)
    assert command.make([figure], QUICK, tmp_path, 1) == 0
    assert called == [["--out", str(tmp_path), "--quick"]]
    assert provenance.read(tmp_path)["fig2"]["scale"] == "quick"
    assert provenance.fresh(tmp_path, "fig2") == ""
    module.main = lambda argv: 2
    with pytest.raises(RuntimeError, match="fig2 ended with code 2"):
        figure.draw(FULL, tmp_path)


def test_json_goes_where_it_is_asked_to(tmp_path, monkeypatch, capsys):
    none = EmpiricalClaim("y", "Sec. 8", "w", "none", reason="r")
    sweeps = CLAIM._replace(kind="sweep", metric="z", family="noise in q", kl=0.009, a=None, b=None)
    monkeypatch.setattr(verdicts, "load", lambda: [none, sweeps._replace(seeds=1, above=0.5)])
    file = tmp_path / "found.json"
    assert claims.main(["--quick", "--out", str(tmp_path / "out"), "--json", str(file)]) == 0
    assert json.loads(file.read_text())["claims"][1]["verdict"] == verdicts.OPEN
    assert "no verdict" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="there is no folder"):
        claims.main(["--json", str(tmp_path / "no" / "such.json")])
