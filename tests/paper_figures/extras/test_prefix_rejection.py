"""The headline of prefix rejection, by hand."""

import figure_runs

from paper_figures.analysis import run_statistics
from paper_figures.experiments import run_lists
from paper_figures.experiments.run_lists import FULL
from paper_figures.extras import prefix_rejection


def test_the_headline_is_the_chosen_setting_less_the_base(tmp_path, monkeypatch):
    """Its sign: a better chosen setting is a positive difference."""
    rates = {run_lists.CHOSEN: 0.75, run_lists.BASE: 0.5}
    own = {name: run_lists.candidates((901, 902, 903))[name] for name in rates}
    for name, mine in own.items():
        for r in mine:
            figure_runs.write(r, tmp_path, [rates[name]] * len(figure_runs.evaluated_steps(r)))
    monkeypatch.setattr(run_lists, "prefix_rejection", lambda scale: own)
    paired = run_statistics.paired
    monkeypatch.setattr(run_statistics, "paired", lambda a, b, m: paired(a, b, m, tmp_path))
    found = prefix_rejection.effects(FULL)
    assert set(found) == {run_lists.CHOSEN}
    assert found[run_lists.CHOSEN]["lowest_late"] == (0.25, 0.25, 0.25)
