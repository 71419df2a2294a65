"""Runs of the studies: every one is a configuration that the trainer accepts."""

from __future__ import annotations

import pytest

from llm.settings.loading import flatten
from paper_figures.experiments import kept_rows, run_store, smollm2_lists, studies
from paper_figures.experiments.configurations import Settings
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
        assert len(steps) == 1 or not setting.seeds


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


def test_the_methods_of_the_real_model_differ_in_what_samples_and_in_the_correction_alone():
    """Nine methods beside on-policy: three actors, each with TIS, with Jackpot and drafting."""
    (setting,) = smollm2_lists.STUDY.settings
    found: dict[str, Settings] = {}
    for e in studies.judged(setting, dict.fromkeys(setting.methods, smollm2_lists.RATE)):
        cfg = run_store.resolved(e.run)
        assert (cfg.run.steps, cfg.run.eval_every, cfg.run.eval_prompts) == (20, 5, 64)
        assert (cfg.policy.dtype, cfg.run.device, cfg.optim.policy_lr) == ("float32", "auto", 5e-6)
        # an interrupted run saves itself; else there is one checkpoint of 1.6 GB, at the end
        assert (cfg.run.checkpoint_every, cfg.run.checkpoints_kept) == (20, 1)
        own = flatten(cfg)
        parts = ("actor.", "correction.", "rollout.mode.", "run.seed", "run.folder")
        found.setdefault(e.method, {k: v for k, v in own.items() if not k.startswith(parts)})
        (mode, _, actor), correction = e.method.partition(", "), cfg.correction.type
        if e.method == "on-policy":
            assert (cfg.actor.type, correction) == ("self", "none")
            continue
        assert {
            "int8 actor": ("quantized", 8, None),
            "4-bit actor": ("quantized", 4, None),
            "early exit actor": ("early_exit", None, 29),
        }[actor] == (
            cfg.actor.type,
            getattr(cfg.actor, "bits", None),
            getattr(cfg.actor, "exit_layers", None),
        )
        assert not any("distill" in k or "ppo" in k for k in own if k.startswith("actor."))
        wanted = {"tis": ("tis", "plain"), "jackpot": ("jackpot", "plain")}
        assert wanted.get(mode, ("none", "drafted")) == (correction, cfg.rollout.mode.type)
        if mode == "drafted":
            assert own["rollout.mode.lam.value"] == 1.0
    assert len(found) == 10
    first = found["on-policy"]
    assert all(settings == first for settings in found.values())
