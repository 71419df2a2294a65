"""Which runs a figure has: its seeds and its chosen settings."""

import csv
import math

import pytest

from llm.settings.schema import PpoObjective
from paper_figures.experiments import configurations, run_lists, run_store
from paper_figures.extras import tuning


@pytest.mark.parametrize("scale", [run_lists.FULL, run_lists.QUICK], ids=["full", "quick"])
def test_no_figure_uses_a_seed_that_choices_were_made_on(scale):
    drawn = [*run_lists.fig1(scale), *run_lists.without_kl(scale), *run_lists.long_runs(scale)]
    drawn += [*run_lists.table1(scale), *run_lists.own_rates(scale)]
    for groups in (
        run_lists.fig4,
        run_lists.fig5,
        run_lists.table2,
        run_lists.ablation,
        run_lists.cost,
    ):
        drawn += [r for own in groups(scale).values() for r in own]
    drawn += [r for own in run_lists.prefix_rejection(scale).values() for r in own]
    chosen = {*configurations.TUNING_SEEDS, *run_lists.CANDIDATE_SEEDS}
    own = {*run_lists.JUDGED_SEEDS} if scale is run_lists.FULL else {*run_lists.QUICK.seeds}
    assert {r.seed for r in drawn} == own
    assert not chosen & {*run_lists.JUDGED_SEEDS, *run_lists.QUICK.seeds}
    assert not {*run_lists.JUDGED_SEEDS} & {*run_lists.QUICK.seeds}


def test_what_was_chosen_is_what_the_kept_sweeps_say():
    """The highest lowest late pass rate of the candidates (or a tie); the best rates by area."""

    def best(name: str, column: str) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        with (tuning.DATA / f"tuning_{name}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["name"], []).append(float(row[column]))
        return {k: sum(v) / len(v) for k, v in found.items()}

    late = best("candidates", "lowest_late")
    assert late[run_lists.CHOSEN] == max(late.values())
    assert run_lists.CHOSEN in run_lists.SHOWN and run_lists.BASE in run_lists.SHOWN
    area: dict[str, dict[float, float]] = {}
    for name, value in best("rates", "area").items():
        method, rate = name.rsplit(", ", 1)
        area.setdefault(method, {})[float(rate)] = value
    for method, by_rate in area.items():
        own = run_lists.OWN_RATE if method in run_lists.OWN_RATES else 4e-4
        assert max(by_rate, key=by_rate.__getitem__) == own, method


def test_table_2_has_settings_that_the_trainer_takes():
    """Two updates of as many prompts as elsewhere, sampled by an int8 copy; the clip kept."""
    for own in run_lists.table2(run_lists.FULL).values():
        for r in own:
            cfg = run_store.resolved(r)
            updates = cfg.loss.updates_per_rollout
            each = 8 if updates == 2 else run_lists.STALE_PROMPTS
            assert cfg.rollout.prompts_per_step == each * updates
            assert isinstance(cfg.objective, PpoObjective) and math.isfinite(
                cfg.objective.clip_high
            )
            kind = "quantized" if r.method.startswith("int8") else "self"
            assert (cfg.actor.type, updates) == (kind, 2 if kind == "quantized" else 64)
