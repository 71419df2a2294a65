"""What is trained for the comparison of the rivals, in which order, and at which rates."""

from __future__ import annotations

import pytest
import rival_rows

from paper_figures.experiments import kept_rows, rival_lists
from paper_figures.experiments.rival_lists import RATES, SETTINGS
from paper_figures.extras import rivals


def test_the_rate_of_the_sweep_is_the_one_of_the_largest_area_and_the_lower_of_equal_ones():
    setting = SETTINGS[0]
    rows = {}
    for e in rival_lists.sweep(setting):
        gain = {"jackpot": e.rate == RATES[2], "icepop": e.rate == RATES[0]}.get(e.method, 0)
        row = rival_rows.made(e, 0.3 * gain, noise=0.0)
        rows[row.key] = row
    rates = rivals.best_rates(setting, rows)
    assert (rates["jackpot"], rates["icepop"], rates["tis"]) == (RATES[2], RATES[0], RATES[0])
    taken_over = next(s for s in SETTINGS if s.rates_of)
    assert rivals.best_rates(taken_over, rows) == rates
    del rows[next(iter(rows))]
    with pytest.raises(KeyError):
        rivals.best_rates(setting, rows)


def test_only_what_has_no_row_is_trained_and_each_run_leaves_its_row(tmp_path, monkeypatch):
    file = tmp_path / "rows.csv"
    entries = rival_lists.sweep(SETTINGS[2])
    trained = []

    def train(by_run, workers, ended):
        for run in by_run:
            trained.append(run)
            ended(run)

    monkeypatch.setattr(rivals.runner, "train", train)
    monkeypatch.setattr(rivals, "row", rival_rows.made)
    kept_rows.append(file, rival_rows.made(entries[0]))
    rivals.train(entries, file, 1)
    assert trained == [e.run for e in entries[1:]]
    assert len(kept_rows.read(file)) == len(entries)
    rivals.train(entries, file, 1)  # nothing is left
    assert len(trained) == len(entries) - 1
