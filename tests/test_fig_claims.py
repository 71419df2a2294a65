"""The paper's claims and tables: verdicts at their edges, the paper's rows, and one page of all."""

import csv
import itertools
import json
import math
import re
from types import SimpleNamespace

import fig_runs
import pytest

from paper_figures import (
    __main__,
    catalogue,
    claims,
    command,
    curves,
    ledger,
    made,
    report,
    studies,
    table1,
    table2,
    table3,
    tables,
)
from paper_figures.curves import Interval
from paper_figures.ledger import CONTRADICTED, NOT, REPRODUCED, UNDECIDED, Claim
from paper_figures.studies import FULL, QUICK, Scale
from paper_figures.worlds import run
from sim import sweep

SCALE = Scale("full", (900, 901, 902), (900, 901, 902), 1.0)  # seeds of no figure
A = {"study": "fig1", "world": "chain", "method": "jackpot"}
B = {"study": "fig1", "world": "chain", "method": "tis"}
CLAIM = Claim("x", "Fig. 1", "Words | of the paper <b>", "difference", "x over y", "final", A, B, 3)
HOSTILE = "<script>alert('x')</script> & \"quoted\""


@pytest.mark.parametrize(
    ("wanted", "low", "high", "verdict"),
    [
        ({"above": 0.2}, 0.2001, 0.5, REPRODUCED),
        ({"above": 0.2}, 0.2, 0.5, UNDECIDED),
        ({"above": 0.2}, 0.1, 0.2, UNDECIDED),
        ({"above": 0.2}, 0.1, 0.1999, CONTRADICTED),
        ({"above": 0.0}, 0.0, 0.0, UNDECIDED),
        ({"below": 0.2}, -1.0, 0.1999, REPRODUCED),
        ({"below": 0.2}, -1.0, 0.2, UNDECIDED),
        ({"below": 0.2}, 0.2001, 0.3, CONTRADICTED),
        ({"within": 0.25}, -0.249, 0.249, REPRODUCED),
        ({"within": 0.25}, -0.25, 0.1, UNDECIDED),
        ({"within": 0.25}, -0.1, 0.3, UNDECIDED),
        ({"within": 0.25}, -0.5, 0.5, UNDECIDED),
        ({"within": 0.25}, 0.251, 0.5, CONTRADICTED),
        ({"within": 0.25}, -0.5, -0.251, CONTRADICTED),
        ({"within": 0.01, "of": 0.955}, 0.946, 0.964, REPRODUCED),
        ({"within": 0.01, "of": 0.955}, 0.0, 0.009, CONTRADICTED),
        ({"above": 0.2}, math.nan, math.nan, UNDECIDED),
    ],
)
def test_a_claim_holds_only_if_its_whole_interval_lies_beyond(wanted, low, high, verdict):
    found = ledger.decide(CLAIM._replace(**wanted), Interval((low + high) / 2, low, high))
    assert found == ((verdict, "") if verdict == REPRODUCED else (NOT, verdict))


@pytest.fixture
def home(tmp_path):
    """Jackpot ends at .75, .80, .85 and TIS at .55, .60, .65 on the three seeds."""
    for i, seed in enumerate(SCALE.seeds):
        for method, end in (("jackpot", 0.75), ("tis", 0.55)):
            own = run("chain", method, seed)
            n = len(fig_runs.evaluated_steps(own))
            rates = [0.25] * (n - 3) + [end + 0.05 * i] * 3
            fig_runs.write(own, tmp_path / "home", rates, kl=0.0625, seconds=2.0**i)
    curves.rows.cache_clear()
    return tmp_path / "home"


def test_a_difference_is_judged_within_seeds(home):
    found = ledger.judge(CLAIM._replace(above=0.1), SCALE, home)
    assert found.effect == pytest.approx((0.2, 0.2, 0.2))
    assert (found.verdict, found.seeds, len(found.runs)) == (REPRODUCED, 3, 6)
    assert all((home / name / "metrics.jsonl").exists() for name in found.runs)


def test_a_ratio_is_judged_within_seeds(home):
    claim = CLAIM._replace(kind="ratio", metric="seconds_update", below=1.1)
    found = ledger.judge(claim, SCALE, home)
    assert found.effect == pytest.approx((1, 1, 1))
    assert found.verdict == REPRODUCED


def test_a_level_is_judged_alone(home):
    claim = CLAIM._replace(kind="level", metric="kl_last", b=None, below=0.05)
    found = ledger.judge(claim, SCALE, home)
    assert found.effect == (0.0625, 0.0625, 0.0625)
    assert (found.verdict, found.detail) == (NOT, CONTRADICTED)


def test_too_few_seeds_give_no_verdict(home):
    two = SCALE._replace(seeds=SCALE.seeds[:2])
    found = ledger.judge(CLAIM._replace(above=0.1, seeds=2), two, home)
    assert (found.verdict, found.detail) == (ledger.OPEN, "2 seeds")


def test_a_claim_that_cannot_be_tested_says_why():
    claim = Claim("x", "Sec. 8", "w", "none", reason="no such machine")
    found = ledger.judge(claim, FULL)
    assert (found.verdict, found.detail) == (ledger.CANNOT, "no such machine")
    assert (found.effect, found.runs) == (None, ())


def test_a_claim_about_figure_2_reads_its_numbers():
    """The same rows as the whole sweep gives, at the KL asked for."""
    claim = CLAIM._replace(kind="sweep", metric="z", family="noise in q", kl=0.009, seeds=1)
    rows = sweep.sweep(0, families=("noise in q",))
    near = sorted(rows, key=lambda row: abs(math.log(row["kl_before"] / 0.009)))[:2]
    found = ledger.judge(claim._replace(above=0.5), FULL).effect
    assert min(row["z"] for row in near) <= found.value <= max(row["z"] for row in near)
    few = [{**row} for row in sweep.sweep(4, quick=True) if row["family"] == "temperature"]
    assert few == sweep.sweep(4, quick=True, families=("temperature",))


@pytest.mark.parametrize("scale", [FULL, QUICK], ids=["full", "quick"])
def test_every_claim_finds_its_runs_one_per_seed(scale):
    found = ledger.load()
    for claim in found:
        sides = [ledger.side(claim, s, scale) for s in "ab" if getattr(claim, s)]
        assert all({r.seed for r in s} == {r.seed for r in sides[0]} for s in sides)
        others = ("", "z", "kl_ratio", "mean@4 at 1.6", "seconds")
        assert claim.metric in (*curves.METRICS, *others)
    assert len({r.text() for r in ledger.runs(found, scale)}) > 20


def test_the_claims_cover_what_the_paper_shows():
    places = " ".join(c.section for c in ledger.load())
    for place in ("Fig. 1", "Fig. 2", "Fig. 4", "Fig. 5", "Table 1", "Table 2", "Table 3"):
        assert place in places
    for place in ("Sec. 4.4.3", "Sec. 8", "project page", "Sec. 1"):
        assert place in places


ENTRY = """
[[claim]]
id = "x"
section = "Fig. 1"
paper = "w"
test = "t"
kind = "level"
metric = "final"
a = { study = "fig1", world = "chain", method = "jackpot" }
seeds = 5
above = 0.1
"""


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (ENTRY.replace("above = 0.1", ""), "must have one of above, below, within"),
        (ENTRY + "below = 3.0\n", r"\['above', 'below'\]"),
        (ENTRY + "colour = 1\n", "colour"),
        (ENTRY.replace("seeds = 5", ""), r"lacks \['seeds'\]"),
        (ENTRY.replace('"level"', '"guess"'), "kind 'guess' is none of"),
        (ENTRY + ENTRY, "stands twice"),
    ],
)
def test_a_wrong_entry_is_refused(tmp_path, entry, message):
    (tmp_path / "claims.toml").write_text(entry)
    with pytest.raises(ValueError, match=message):
        ledger.load(tmp_path / "claims.toml")


def test_a_side_without_runs_is_refused():
    with pytest.raises(ValueError, match="side a has 0 runs"):
        ledger.side(CLAIM._replace(a={**A, "method": "icepop"}), "a", FULL)
    with pytest.raises(ValueError, match="has 9 runs of 3 seeds"):
        ledger.side(CLAIM._replace(a={**A, "study": "fig5", "method": "no clip"}), "a", FULL)


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
    own = [r for m in (table1, table2, table3) for r in m.FIGURE.runs(SCALE)]
    for i, r in enumerate(dict.fromkeys(own)):
        n = len(fig_runs.evaluated_steps(r))
        gone = r.method == "no clip" and dict(r.extra)["loss.updates_per_rollout"] == 128
        end = 0.5 + 0.01 * (i % 40)
        rates = [0.2] if gone else [0.2 + (end - 0.2) * j / (n - 1) for j in range(n)]
        fig_runs.write(r, home, rates, code=3 if gone else 0)
    for e in table1.evaluations(SCALE, home):
        fig_runs.write_eval(e, home, 0.5 + 0.01 * (e.run.seed - 900), 0.875)
    monkeypatch = pytest.MonkeyPatch()
    kept = [CLAIM._replace(paper=HOSTILE, above=0.1)]
    kept.append(Claim("y", "Sec. 8", "w", "none", reason=HOSTILE))
    monkeypatch.setattr(ledger, "load", lambda: kept)
    texts = {}
    for m in (table1, table2, table3, claims):
        texts[m.FIGURE.name] = m.figure(SCALE, out, home)
        made.note(out, m.FIGURE.name, SCALE, m.FIGURE.runs(SCALE))
    texts["report"] = report.write(SCALE, out)
    monkeypatch.undo()
    return home, out, texts


def rows(path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_table_1_has_our_means_beside_the_papers(drawn):
    home, out, texts = drawn
    found = {row["method"]: row for row in rows(out / "table1.csv")}
    assert list(found) == list(studies.HEADLINE)
    mine = found["jackpot"]
    assert float(mine["T = 1.6 mean@4"]) == pytest.approx(0.51)
    assert float(mine["T = 0.7 pass@4"]) == 0.875
    assert mine["paper MATH-500 mean@4"] == "0.8265"
    assert found["tis+ppo+kl"]["paper GSM8K mean@4"] == ""
    assert all((home / name).is_dir() for name in mine["runs"].split())
    line = next(x for x in texts["table1"].splitlines() if x.startswith("Jackpot  "))
    assert "0.510 / 0.875" in line
    assert line.endswith("1.7B → 8B")


def test_table_2_compares_each_with_the_plain_method_of_its_part(drawn):
    _, out, _ = drawn
    found = {row["method"]: row for row in rows(out / "table2.csv")}
    for part, methods in (("stale", studies.KEPT), ("int8", studies.INT8)):
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
    assert len(found) == 1 + len(studies.STALE) * len(studies.STALENESS)


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
        tables.draw.plt().close(fig)


def test_the_ledger_is_written_for_machines(drawn):
    _, out, texts = drawn
    whole = json.loads((out / "claims.json").read_text(encoding="utf-8"))
    first, second = whole["claims"]
    assert (first["id"], first["wanted"], first["unit"]) == ("x", "above 0.1", "pass rate")
    assert first["low"] <= first["value"] <= first["high"]
    assert len(first["runs"]) == 6
    assert (second["verdict"], second["value"]) == (ledger.CANNOT, None)
    assert "2 claims" in texts["claims"]
    assert [row["id"] for row in rows(out / "claims.csv")] == ["x", "y"]


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
    monkeypatch.setattr(made, "code_version", lambda: "another")
    page = report.page(SCALE, out)
    assert "0.510 / 0.875" not in page
    assert page.count("made by another version of the code") == 4


def test_all_draws_every_figure_that_has_a_command():
    assert set(__main__.FIGURES) - {"all", "demo", "tune", "report"} == set(catalogue.ALL)
    names = [f.name for own in catalogue.figures().values() for f in own]
    assert len(names) == len(set(names))


def test_a_figure_without_runs_is_drawn_by_its_command(tmp_path):
    called = []
    module = SimpleNamespace(__doc__="Figure 2: words.", main=lambda argv: called.append(argv) or 0)
    figure = catalogue._plain("fig2", module)
    assert command.make([figure], QUICK, tmp_path, 1) == 0
    assert called == [["--out", str(tmp_path), "--quick"]]
    assert made.read(tmp_path)["fig2"]["scale"] == "quick"
    assert made.fresh(tmp_path, "fig2") == ""
    module.main = lambda argv: 2
    with pytest.raises(RuntimeError, match="fig2 ended with code 2"):
        figure.draw(FULL, tmp_path)


def test_json_goes_where_it_is_asked_to(tmp_path, monkeypatch, capsys):
    none = Claim("y", "Sec. 8", "w", "none", reason="r")
    sweeps = CLAIM._replace(kind="sweep", metric="z", family="noise in q", kl=0.009, a=None, b=None)
    monkeypatch.setattr(ledger, "load", lambda: [none, sweeps._replace(seeds=1, above=0.5)])
    file = tmp_path / "found.json"
    assert claims.main(["--quick", "--out", str(tmp_path / "out"), "--json", str(file)]) == 0
    assert json.loads(file.read_text())["claims"][1]["verdict"] == ledger.OPEN
    assert "no verdict" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="there is no folder"):
        claims.main(["--json", str(tmp_path / "no" / "such.json")])
