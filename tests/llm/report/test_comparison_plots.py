"""Pictures of compared runs: looks, axes and bands."""

import numpy as np
import pytest
from compared_runs import groups_of, make_run, seeds
from optional import not_none
from scipy import stats

from llm.commands import compare
from llm.report import comparison_plots, plots
from paper_figures.drawing import style


def test_a_method_has_the_colour_it_has_in_the_figures():
    """Constants in two packages that may not import each other: here they are held equal."""
    assert plots.METHOD_COLOURS == style.METHOD_COLOURS


def test_no_two_settings_of_a_method_look_alike(tmp_path):
    runs = [make_run(tmp_path / str(i), "--correction.lam.value", str(1 + i)) for i in range(8)]
    groups = groups_of(*runs)
    assert len({(g.colour, g.line) for g in groups}) == 8
    assert len({g.colour for g in groups}) == 7, "colours before lines: bands have no line"


@pytest.mark.parametrize(
    "methods", [["icepop"] * 24, ["tis", "jackpot"] * 12, [f"own {i}" for i in range(24)]]
)
def test_twenty_four_groups_have_twenty_four_looks(methods):
    assert len({(c, str(line)) for c, line in comparison_plots.looks(methods)}) == 24


def test_methods_keep_their_colours_where_none_is_there_twice():
    methods = list(style.METHOD_COLOURS)
    assert comparison_plots.looks(methods) == [(style.METHOD_COLOURS[m], "-") for m in methods]


def drawn_kl(groups):
    """The axes of the KL panel."""
    (panel,) = (p for p in comparison_plots.PANELS if "kl_policy_actor" in p.series)
    with plots.figure(4, 3) as fig:
        ax = fig.subplots()
        comparison_plots._draw_panel(ax, groups, panel)
        fig.draw_without_rendering()
        return ax


def test_the_kl_axis_holds_the_bands_whole(tmp_path):
    """A range of 2 seeds: all of it. An interval that reaches 0: its upper end."""
    two = [
        make_run(tmp_path / "a", kl=(0.5, 0.02)),
        make_run(tmp_path / "b", "--run.seed", "1", kl=(9.0, 0.3)),
    ]
    low, high = drawn_kl(groups_of(*two)).get_ylim()
    assert low <= 0.02 and high >= 9.0
    groups = groups_of(*two, make_run(tmp_path / "c", "--run.seed", "2", kl=(1.0, 0.1)))
    found = not_none(comparison_plots.band(groups[0].runs, "kl_policy_actor"))
    ax = drawn_kl(groups)
    assert ax.get_yscale() == "log"
    assert found.low.min() == 0.0
    assert ax.get_ylim()[1] >= found.high.max() > 9.0


def test_an_end_next_to_zero_or_infinite_leaves_the_kl_axis_to_the_curves():
    steps, mean = np.arange(2), np.array([1.0, 2.0])
    tiny = comparison_plots.Band(steps, mean, np.array([1e-9, 0.5]), np.array([3.0, np.inf]))
    assert comparison_plots.limits([tiny]) == (0.5, 3.0)
    nothing = comparison_plots.Band(steps, mean * np.nan, mean * np.nan, mean * np.nan)
    assert comparison_plots.limits([nothing]) == (0.0, 0.0)


def test_bands_grow_fainter_with_their_number(tmp_path):
    def alphas(n):
        runs = [
            r
            for i in range(n)
            for r in seeds(tmp_path / f"{n}-{i}", 2, "--correction.lam.value", str(1 + i))
        ]
        return {c.get_facecolor()[0, 3] for c in drawn_kl(groups_of(*runs)).collections}

    (two,), (six,) = alphas(2), alphas(6)
    assert six < 0.5 * two


def test_the_band_is_students_interval_from_three_seeds_on():
    """Against scipy, for every number of seeds that the table holds."""
    rng = np.random.default_rng(0)
    for n in range(3, 32):
        values = rng.normal(0, 1, (n, 2))
        mean, low, high = comparison_plots.interval(values, (-np.inf, np.inf))
        for j in range(2):
            wanted = stats.t.interval(0.95, n - 1, values[:, j].mean(), stats.sem(values[:, j]))
            assert (low[j], high[j]) == pytest.approx(wanted, abs=1e-6)
        assert mean == pytest.approx(values.mean(axis=0))


def test_the_band_is_cut_off_at_bounds_within_which_all_values_lie():
    """A reward function may give less than 0 or more than 1."""
    rates = np.array([[0.0, 0.1], [0.9, 0.0], [0.1, 0.9]])
    _, low, high = comparison_plots.interval(rates, (0.0, 1.0))
    assert low.min() == 0.0 and high.max() == 1.0
    rewards = rates - 0.5
    _, shifted, _ = comparison_plots.interval(rewards, (0.0, 1.0))
    assert shifted.min() < -0.5


def test_the_band_of_two_seeds_is_their_range_and_the_legend_says_which(tmp_path):
    two = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "--run.seed", "1", rates=(0.3, 0.8))]
    (group,) = groups_of(*two)
    found = not_none(comparison_plots.band(group.runs, "pass_rate"))
    assert (found.low.tolist(), found.high.tolist()) == ([0.2, 0.4], [0.3, 0.8])
    assert "2 seeds, range" in comparison_plots.label(group)
    (three,) = groups_of(*two, make_run(tmp_path / "c", "--run.seed", "2"))
    assert "3 seeds, 95 % interval" in comparison_plots.label(three)
    (one,) = groups_of(two[0])
    assert "one seed" in comparison_plots.label(one)


def test_a_band_never_leaves_what_the_quantity_can_be(tmp_path):
    runs = [
        make_run(tmp_path / str(i), "--run.seed", str(i), rates=(r, r), kl=(k, k))
        for i, (r, k) in enumerate([(0.0, 0.1), (0.5, 2.0), (1.0, 0.2)])
    ]
    (group,) = groups_of(*runs)
    rate = not_none(comparison_plots.band(group.runs, "pass_rate"))
    kl = not_none(comparison_plots.band(group.runs, "kl_policy_actor"))
    assert (rate.low.min(), rate.high.max(), kl.low.min()) == (0.0, 1.0, 0.0)


def test_seeds_are_averaged_at_the_steps_that_all_have(tmp_path):
    """An interrupted seed shortens its group's curve; nothing is made up."""
    long = make_run(tmp_path / "a", rates=(0.2, 0.4, 0.6), kl=(1, 1, 1), steps=(0, 10, 20))
    short = make_run(tmp_path / "b", "--run.seed", "1")
    (group,) = groups_of(long, short)
    found = not_none(comparison_plots.band(group.runs, "pass_rate"))
    assert found.steps.tolist() == [0, 10]
    assert found.mean.tolist() == pytest.approx([0.2, 0.4])
    assert "10 to 20 (not complete)" in compare.final_rows([group])[0]
