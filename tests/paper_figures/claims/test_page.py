"""The claims as files and one page of everything."""

import json
import re
from types import SimpleNamespace

import pytest
from figure_runs import CLAIM, SCALE, rows

from paper_figures import commands
from paper_figures import figure as command
from paper_figures.analysis import run_statistics
from paper_figures.claims import again, families, kept_claims, verdicts, words
from paper_figures.claims import page as claims
from paper_figures.claims.verdicts import EmpiricalClaim
from paper_figures.experiments import kept_rows, kept_studies, provenance
from paper_figures.experiments.run_lists import FULL, QUICK
from paper_figures.report import contents
from paper_figures.report import page as report


def test_the_verdicts_are_written_for_machines(drawn):
    _, out, texts = drawn
    whole = json.loads((out / "claims.json").read_text(encoding="utf-8"))
    first, second = whole["claims"]
    assert (first["id"], first["wanted"], first["unit"]) == ("x", "above 0.1", "pass rate")
    assert first["low"] <= first["value"] <= first["high"]
    assert len(first["runs"]) == 6
    assert (second["verdict"], second["value"]) == (words.CANNOT, None)
    assert "2 claims" in texts["claims"]
    assert [row["id"] for row in rows(out / "claims.csv")] == ["x", "y"]


def test_it_is_said_which_verdicts_rest_on_the_kind_of_interval():
    """Those that the bootstrap's interval alone would give, and Student's does not."""
    wide = run_statistics.Interval(0.5, -0.5, 1.5)
    near = run_statistics.Interval(0.5, 0.4, 0.6)
    claim = CLAIM._replace(above=0.1)
    judged = [
        verdicts.of_intervals(claim._replace(id=i), effect, student, 3)
        for i, effect, student in (
            ("kept", near, near),
            ("lost", near, wide),
            ("never", wide, wide),
        )
    ]
    assert [j.verdict for j in judged] == [words.REPRODUCED, words.NOT_SETTLED, words.NOT_SETTLED]
    said = claims.by_bootstrap(judged)
    assert "alone 2 would be reproduced and 0 contradicted" in said
    assert said.endswith("those whose verdict differs: lost")
    assert claims.by_bootstrap(judged[:1]).endswith(
        "alone 1 would be reproduced and 0 contradicted"
    )


def test_the_kept_verdicts_are_printed_without_training(tmp_path, monkeypatch, capsys):
    """What a fresh clone prints: the words, what the seeds could show, and the commit."""
    file = tmp_path / "claims.csv"
    fields = ",".join(kept_claims.KeptEffect._fields)
    file.write_text(f"{fields}\nx,0.3,0.2,0.4,0.15,0.45,,5,{'ab' * 20}\n")
    none = EmpiricalClaim("y", "Sec. 8", "w", "none", reason="r")
    monkeypatch.setattr(verdicts, "load", lambda: [CLAIM._replace(above=0.1), none])
    monkeypatch.setattr(kept_claims, "file", lambda: file)
    monkeypatch.setattr(claims, "kept_lines", lambda _: "")
    monkeypatch.setattr(command, "make", lambda *_: pytest.fail("nothing is trained"))
    assert claims.main(["--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "2 claims: 1 reproduced, 1 cannot be tested here" in out
    assert "[0.150, 0.450]" in out and "could show" in out and "of commit abababa" in out
    assert (tmp_path / "out" / "claims.png").stat().st_size > 1000
    file.write_text("nonsense")
    assert claims.main(["--out", str(tmp_path / "out")]) == 1
    assert "its columns are" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["claims"], ["claims", "--train"], ["evidence"]])
def test_entries_that_cannot_be_judged_are_said_in_a_line_before_any_training(
    arguments, tmp_path, capsys, monkeypatch
):
    def refuse():
        raise verdicts.BadClaims("family x stands twice")

    monkeypatch.setattr(families, "load", refuse)
    monkeypatch.setattr(command.runner, "train", lambda *_, **__: pytest.fail("trained"))
    assert commands.main([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "error: family x stands twice\n"


def test_the_verdicts_on_rivals_are_those_of_the_kept_rows(drawn):
    """One line for each family of claims.toml, without any of their runs."""
    _, out, texts = drawn
    for family in families.load():
        assert f"{family.id} ({family.metric} against {family.baseline}, " in texts["claims"]
    for study in kept_studies.STUDIES:
        own = kept_rows.read(kept_rows.file_of(study)).values()
        (line,) = (
            t for t in texts["claims"].splitlines() if t.startswith(f"The study {study.name},")
        )
        assert all(row.commit[:7] in line for row in own)
    table = (out / "claims_again.md").read_text(encoding="utf-8")
    assert all(f"| {entry.claim.id} | {entry.setting} |" in table for entry in again.load())
    assert (out / "claims_again.png").stat().st_size > 1000


def test_a_claim_that_is_judged_again_is_labelled_by_its_setting():
    """And by its method where another is judged in the same setting."""
    entries = again.load()
    judged = again.labelled(entries, [again.judge(entry, []) for entry in entries])
    tests = [j.claim.test for j in judged]
    assert tests[0] == f"{entries[0].claim.id}, {entries[0].setting}"
    assert "control, parts of Jackpot: Jackpot, expected mask" in tests
    assert len(set(tests)) == len(tests)


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
    # studies that keep their rows, with pictures of their own
    own_hours = {"tune", "rivals", "drafted", "evidence", "smollm2"}
    drawn_by_all = set(commands.FIGURES) - {"all", "demo", "report"} - own_hours
    assert drawn_by_all == set(contents.ALL)
    names = [f.name for own in contents.figures().values() for f in own]
    assert len(names) == len(set(names))


def test_a_figure_without_runs_is_drawn_by_its_command(tmp_path):
    called = []

    def main(argv: list[str]) -> int:
        called.append(argv)
        return 0

    module = SimpleNamespace(__doc__="Figure 2: words.", main=main)
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
    assert json.loads(file.read_text())["claims"][1]["verdict"] == words.NOT_SETTLED
    assert "not settled: 1 seed" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="there is no folder"):
        claims.main(["--json", str(tmp_path / "no" / "such.json")])
