"""`python -m paper_figures all` with models of no use: every part runs and writes its files."""

import csv
from pathlib import Path

import llm_process

from paper_figures.report import contents

SCRIPT = Path(__file__).parents[2] / "support" / "figure_smoke.py"


def test_all_trains_draws_judges_and_reports_and_trains_nothing_twice(tmp_path):
    """Each picture has its PNG, PDF and CSV; each row of a CSV of runs names one that exists."""
    out, home, stderr = tmp_path / "out", tmp_path / "runs", tmp_path / "stderr"
    out.mkdir()
    env = {"JACKPOT_FIGURE_RUNS": str(home), "OMP_NUM_THREADS": "1"}
    process = llm_process.scripted(SCRIPT, [str(out)], env, stderr)
    process.join()
    assert process.exitcode == 0, stderr.read_text()[-3000:]
    names = [f.name for own in contents.figures().values() for f in own]
    for name in set(names) - {"beyond_smollm2"}:
        for suffix in ("png", "pdf", "csv"):
            file = out / f"{name}.{suffix}"
            assert file.exists() and file.stat().st_size > 0, file.name
    checked = 0
    for file in out.glob("*.csv"):
        with file.open(newline="", encoding="utf-8") as text:
            for row in csv.DictReader(text):
                for column in ("run", "runs", "against"):
                    for run in (row.get(column) or "").split():
                        assert (home / run / "outcome.json").exists(), (file.name, run)
                        checked += 1
    assert checked > 300
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Not here" in page and page.count("data:image/png") >= len(names) - 6
