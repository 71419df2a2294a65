"""What is trained for a study, in which order, and at which rates."""

from __future__ import annotations

import json
import re

import figure_runs
import made_rows
import pytest

from paper_figures.analysis import run_statistics
from paper_figures.experiments import (
    drafted_lists,
    evidence_lists,
    kept_rows,
    smollm2_lists,
    studies,
)
from paper_figures.experiments.rival_lists import STUDY
from paper_figures.experiments.studies import RATES
from paper_figures.extras import kept_runs


def test_the_rate_of_the_sweep_is_the_one_of_the_largest_area_and_the_lower_of_equal_ones():
    setting = STUDY.settings[0]
    rows = {}
    for e in studies.sweep(setting):
        gain = {"jackpot": e.rate == RATES[2], "icepop": e.rate == RATES[0]}.get(e.method, 0)
        row = made_rows.made(e, 0.3 * gain, noise=0.0)
        rows[row.key] = row._replace(final=1.0 - row.area, lowest_late=1.0 - row.area)
    rates = kept_runs.best_rates(STUDY, setting, rows)
    assert (rates["jackpot"], rates["icepop"], rates["tis"]) == (RATES[2], RATES[0], RATES[0])
    taken_over = setting._replace(name="another", rates_of=setting.name)
    assert kept_runs.best_rates(STUDY, taken_over, rows) == rates
    del rows[next(iter(rows))]
    with pytest.raises(KeyError):
        kept_runs.best_rates(STUDY, setting, rows)


def test_only_what_has_no_row_is_trained_and_each_run_leaves_its_row(tmp_path, monkeypatch):
    file = tmp_path / "rows.csv"
    entries = studies.sweep(STUDY.settings[2])
    trained = []

    def train(by_run, workers, ended):
        for run in by_run:
            trained.append(run)
            ended(run)

    monkeypatch.setattr(kept_runs.runner, "train", train)
    monkeypatch.setattr(kept_runs, "row", made_rows.made)
    kept_rows.append(file, made_rows.made(entries[0]))
    kept_runs.train(entries, file, 1)
    assert trained == [e.run for e in entries[1:]]
    assert len(kept_rows.read(file)) == len(entries)
    kept_runs.train(entries, file, 1)  # nothing is left
    assert len(trained) == len(entries) - 1


def test_a_row_is_what_the_files_of_its_run_say(tmp_path):
    """Six evaluations by hand: their last three, and the median step of sampling and of updates."""
    entry = next(e for e in studies.sweep(STUDY.settings[0]) if e.method == "jackpot")
    rates = [0.25, 0.5, 0.5, 0.5, 0.625, 0.75]
    folder = figure_runs.write(entry.run, tmp_path, rates[:5], kl=0.125, seconds=2.0)
    last = {"step": 40, "pass_rate": rates[-1], "kl_policy_actor": 0.5}
    file = folder / "metrics.jsonl"
    steps = [{"step": 41, "seconds_rollout": 9.0, "seconds_update": 3.0}] * 2
    more = "".join(json.dumps(row) + "\n" for row in (*steps, last))
    text = file.read_text().replace('"seconds_update": 2.0', '"seconds_update": 1.0')
    file.write_text(text + more)
    start = {"commit": made_rows.COMMIT}
    (folder / "provenance.json").write_text(json.dumps([{"commit": "0" * 40}, start]))
    row = kept_runs.row(entry, tmp_path)
    assert (row.key, row.commit, row.exit) == (kept_rows.key(entry), made_rows.COMMIT, 0)
    assert row[1:7] == entry[:6]
    assert row.final == pytest.approx(0.625) and row.kl_last == pytest.approx(0.25)
    assert (row.seconds_rollout, row.seconds_update) == (2.0, 1.0)
    first, *others = file.read_text().splitlines()  # it diverged before a step was made
    lines = [re.sub(r'"seconds_[a-z]+": [0-9.]+', '"tokens": 1', x) for x in (first, others[0])]
    file.write_text("\n".join(lines) + "\n")
    run_statistics.rows.cache_clear()
    assert kept_runs.row(entry, tmp_path)[-2:] == (None, None)


@pytest.mark.parametrize("study", [smollm2_lists.STUDY, drafted_lists.STUDY], ids=lambda s: s.name)
def test_the_checkpoints_of_a_real_model_go_once_its_row_is_kept(study, tmp_path, monkeypatch):
    """1.6 GB a run. Those of small models stay."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "state").touch()
    one = study._replace(settings=(study.settings[0]._replace(seeds=(7,)),))
    monkeypatch.setattr(kept_runs.run_store, "folder", lambda run: tmp_path)
    monkeypatch.setattr(kept_runs, "row", made_rows.made)
    monkeypatch.setattr(kept_runs.runner, "train", lambda runs, _, ended: ended(next(iter(runs))))
    append = kept_rows.append

    def full(*_):
        raise OSError("no space")

    monkeypatch.setattr(kept_rows, "append", full)
    with pytest.raises(OSError, match="no space"):
        kept_runs.train_all(one, tmp_path / "rows.csv", 1)
    assert (tmp_path / "checkpoints" / "state").is_file()  # no row, so the run is still needed
    monkeypatch.setattr(kept_rows, "append", append)
    kept_runs.train_all(one, tmp_path / "rows.csv", 1)
    assert (tmp_path / "checkpoints").exists() == (not study.long)


def test_a_rate_that_is_given_is_not_swept():
    setting = drafted_lists.STUDY.settings[0]
    assert studies.sweep(setting) == []
    rates = kept_runs.best_rates(drafted_lists.STUDY, setting, {})
    assert set(rates.values()) == set(setting.rates) and set(rates) == set(setting.methods)


def test_the_rate_of_gradient_descent_is_the_one_of_its_sweep():
    rows = kept_rows.read(kept_rows.file_of(evidence_lists.STUDY))
    (swept,) = (s for s in evidence_lists.STUDY.settings if s.name == "descent's rate")
    rates = kept_runs.best_rates(evidence_lists.STUDY, swept, rows)
    assert rates == {"on-policy": evidence_lists.DESCENT_RATE}


def test_seeds_that_are_held_back_run_at_the_rates_of_the_judged_ones():
    rows = kept_rows.read(kept_rows.file_of(evidence_lists.STUDY))
    by_name = {s.name: s for s in evidence_lists.STUDY.settings}
    judged, held_back = (
        kept_runs.best_rates(evidence_lists.STUDY, by_name[name], rows)
        for name in ("chain 48 falling", "chain 48 falling, held back")
    )
    assert held_back == judged and len(set(judged.values())) > 1
