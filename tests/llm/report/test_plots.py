"""A report's pictures: every metric is drawn, and long runs are drawn in windows."""

import pytest
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
