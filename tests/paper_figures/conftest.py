"""Pictures, tables and pages of made-up runs, drawn once for all tests that read them."""

import figure_runs
import pytest
from figure_runs import CLAIM, HOSTILE, SCALE

from paper_figures.claims import page as claims
from paper_figures.claims import verdicts
from paper_figures.claims.verdicts import EmpiricalClaim
from paper_figures.experiments import provenance
from paper_figures.figures import fig1
from paper_figures.report import page as report
from paper_figures.tables import table1, table2, table3


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """The three tables and a registry of two claims, of runs that are made up."""
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
