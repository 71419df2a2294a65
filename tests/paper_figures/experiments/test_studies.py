"""Runs of the studies: every one is a configuration that the trainer accepts."""

from __future__ import annotations

import pytest

from paper_figures.experiments import kept_rows, run_store, studies
from paper_figures.experiments.kept_studies import STUDIES, settings
from paper_figures.experiments.studies import JUDGED, SWEEP


@pytest.mark.parametrize("setting", settings(), ids=lambda s: f"{s.study} {s.name}")
def test_every_run_is_a_configuration_without_a_setting_that_has_no_effect(setting):
    """The trainer's own checks; a run's text and key are its own."""
    runs = [studies.entry(setting, m, JUDGED, setting.rates[-1], 10).run for m in setting.methods]
    runs.append(studies.entry(setting, setting.baseline, SWEEP, setting.rates[0], 0).run)
    assert all(run_store.folder(run) for run in runs)
    assert len({run_store.folder(run) for run in runs}) == len(runs)


def test_methods_of_a_setting_differ_in_what_is_compared_alone():
    """Same seeds, steps and models; a separate actor has three times the policy's rate."""
    for setting in settings():
        entries = studies.judged(setting, dict.fromkeys(setting.methods, 4e-4))
        assert len(entries) == len(setting.methods) * len(setting.seeds)
        for e in entries:
            own = dict(e.run.extra)
            assert own["optim.policy_lr"] == e.rate
            if own.get("actor.type", "separate") == "separate":
                assert own["actor.lr"] == pytest.approx(1.2e-3)
        steps = {dict(e.run.extra).get("run.steps") for e in entries}
        assert len(steps) == 1


def test_seeds_of_the_sweep_are_never_judged_and_those_held_back_are_of_no_other_setting():
    for setting in settings():
        judged = {e.seed for e in studies.judged(setting, dict.fromkeys(setting.methods, 1e-4))}
        assert not judged & {e.seed for e in studies.sweep(setting)}
        if setting.name.endswith(", held back"):
            others = [s for s in settings() if not s.name.endswith(", held back")]
            assert not judged & {x for s in others for x in s.seeds}


def test_studies_have_names_and_settings_of_their_own():
    names = [s[:2] for s in settings()]
    assert len(set(names)) == len(names)
    assert len({study.name for study in STUDIES}) == len(STUDIES)


@pytest.mark.parametrize("study", STUDIES, ids=lambda s: s.name)
def test_the_number_of_planned_runs_and_their_keys(study):
    entries = [e for s in study.settings for e in studies.sweep(s)]
    for s in study.settings:
        entries += studies.judged(s, dict.fromkeys(s.methods, s.rates[-1]))
    keys = {kept_rows.key(e) for e in entries}
    assert len(keys) == len(entries) == studies.planned(study)
    assert len({kept_rows.key(e) for e in studies.quick(study)} & keys) == 0
