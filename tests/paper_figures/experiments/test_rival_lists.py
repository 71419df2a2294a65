"""Runs that compare the rivals: every one is a configuration that the trainer accepts."""

from __future__ import annotations

import pytest

from paper_figures.experiments import kept_rows, rival_lists, run_store
from paper_figures.experiments.rival_lists import JUDGED, RATES, SETTINGS, SWEEP


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s.study} {s.name}")
def test_every_run_is_a_configuration_without_a_setting_that_has_no_effect(setting):
    """The trainer's own checks; a run's text and key are its own."""
    runs = [rival_lists.entry(setting, m, JUDGED, RATES[1], 10).run for m in setting.methods]
    runs.append(rival_lists.entry(setting, setting.baseline, SWEEP, RATES[0], 0).run)
    assert all(run_store.folder(run) for run in runs)
    assert len({run_store.folder(run) for run in runs}) == len(runs)


def test_methods_of_a_setting_differ_in_what_is_compared_alone():
    """Same seeds, steps and models; a separate actor has three times the policy's rate."""
    for setting in SETTINGS:
        entries = rival_lists.judged(setting, dict.fromkeys(setting.methods, 4e-4))
        assert len(entries) == len(setting.methods) * len(setting.seeds)
        for e in entries:
            own = dict(e.run.extra)
            assert own["optim.policy_lr"] == e.rate
            if own.get("actor.type", "separate") == "separate":
                assert own["actor.lr"] == pytest.approx(1.2e-3)
        steps = {dict(e.run.extra).get("run.steps") for e in entries}
        assert len(steps) == 1


def test_seeds_of_the_sweep_are_never_judged():
    for setting in SETTINGS:
        judged = {e.seed for e in rival_lists.judged(setting, dict.fromkeys(setting.methods, 1e-4))}
        assert not judged & {e.seed for e in rival_lists.sweep(setting)}


def test_the_number_of_planned_runs_and_their_keys():
    entries = [e for s in SETTINGS for e in rival_lists.sweep(s)]
    for s in SETTINGS:
        entries += rival_lists.judged(s, dict.fromkeys(s.methods, RATES[2]))
    keys = {kept_rows.key(e) for e in entries}
    assert len(keys) == len(entries) == rival_lists.planned()
    assert len({kept_rows.key(e) for e in rival_lists.quick()} & keys) == 0
