"""A report's pictures: every metric is drawn, and long runs are drawn in windows."""

import warnings

import numpy as np
import pytest
from matplotlib.text import Text
from report_runs import make_run

from llm.report import panels, plots
from llm.report.run_files import read_run


def test_a_single_row_and_a_single_evaluation_are_drawn(tmp_path):
    files = read_run(make_run(tmp_path))
    for panel in panels.panels_for(files.rows[:1])[:2]:
        assert plots.curve(files.rows[:1], panel).startswith(b"\x89PNG")
    png = plots.histograms(files.histograms[:1], "weight", "title", "label")
    assert png.startswith(b"\x89PNG")


def test_a_metric_that_no_panel_names_is_drawn_by_itself(run):
    found = panels.panels_for(read_run(run).rows)
    assert [p.title for p in found][-1] == "odd"
    drawn = [k for p in found for k in p.series]
    assert len(drawn) == len(set(drawn))
    assert {"pass_rate", "accept_rate", "tokens_per_second"} <= set(drawn)


def test_windows_keep_the_mean_and_bound_the_points():
    steps = list(range(10_000))
    x, y = plots.windows(steps, [float(s % 7) for s in steps], points=100)
    assert len(x) == 100
    assert y.mean() == pytest.approx(3.0, abs=0.01)
    assert (x[0], x[-1]) == (pytest.approx(49.5, abs=1), pytest.approx(9949.5, abs=1))
    few = plots.windows([0, 5], [1.0, 2.0])
    assert few[1].tolist() == [1.0, 2.0]


NAN, INF = float("nan"), float("inf")
HOSTILE = {
    "huge": [1e308, -1e308, 1.7e308],
    "huge and tiny": [1e308, 5e-324, 1.0],
    "tiny": [1e-300, 2e-300, 5e-324],
    "no number": [NAN, INF, -INF],
    "some numbers": [NAN, 2.0, INF],
    "equal": [3.0, 3.0, 3.0],
    "zero": [0, 0, -0.0],
    "negative": [-1.0, 0.5, 2**52],
}


@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
def test_any_numbers_are_drawn_on_any_axis(values):
    """Their axes are finite, and what is no number is said."""
    rows = [{"step": s, "x": v} for s, v in zip((0, 1, 2**53 - 1), values, strict=True)]
    for kind in ("log", "linear"):
        with plots.figure(2, 1.5) as fig:
            ax = fig.subplots()
            finite = plots.drawable(values)
            finite = finite[np.isfinite(finite)]
            ax.plot([0, 1, 2], plots.drawable(values))
            panel = panels.Panel("", {"x": ""}, kind, (0, 1))
            if len(finite):
                plots.scale(ax, panel, float(finite.min()), float(finite.max()))
            fig.draw_without_rendering()
            assert np.isfinite(ax.get_ylim()).all() and ax.get_ylim()[0] < ax.get_ylim()[1]
    panel = panels.Panel("", {"x": ""}, "log")
    assert plots.curve(rows, panel).startswith(b"\x89PNG")


def test_labels_are_literal(monkeypatch):
    """`$` and a backslash mean themselves, and no formatter of an axis writes markup."""
    texts = []

    def drawn(fig):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")
            fig.draw_without_rendering()
        texts.extend(fig.findobj(Text))
        return b""

    monkeypatch.setattr(plots, "png", drawn)
    names = {"x": r"a$_b$ \frac{", "y": "$$ \U0001f600 é漢"}
    rows = [{"step": s, "x": 10.0**s, "y": -(10.0**s)} for s in range(4)]
    plots.curve(rows, panels.Panel(r"$\frac{1$ \alpha", names, "log"))
    plots.curve(rows, panels.Panel("", {"x": "x"}, "log"))
    histogram = {"edges": [-1e308, 1e-308, 1e308], "counts": [1, 2, 3, 4]}
    stored: list[dict] = [{"step": s, "tokens": 9, "weight": histogram} for s in (1, 1, 0)]
    plots.histograms(stored, "weight", "$a$", "b$c$")
    plots.pass_at_k([("$x$", [{"k": k, "low": 0.1, "value": 0.2, "high": 0.3} for k in (1, 2, 4)])])
    assert {t.get_parse_math() for t in texts} == {False}
    said = [t.get_text() for t in texts]
    assert names["x"] in said and "$a$" in said and "100" in said
    assert not [t for t in said if "mathdefault" in t]


def test_windows_leave_out_what_is_no_number():
    values = [1e308 if s % 2 else NAN for s in range(1000)]
    _, y = plots.windows(list(range(1000)), [NAN] * 500 + values[500:], points=10)
    assert np.isnan(y[:5]).all() and y[5:] == pytest.approx(plots.LARGEST)
