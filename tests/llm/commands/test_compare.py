"""Runs over each other: what counts as a seed, what the band is, and what is refused."""

import json

import numpy as np
import pytest
from scipy import stats

from llm import settings
from llm.commands import compare
from llm.report import comparison_plots, plots
from llm.report.run_files import read_run
from llm.settings.loading import ConfigError
from paper_figures.drawing import style


def make_run(folder, *flags, rates=(0.2, 0.4), kl=(0.5, 0.3), steps=(0, 10)):
    folder.mkdir(parents=True)
    cfg = settings.load([], ["--run.folder", str(folder), *flags])
    (folder / "config.toml").write_text(settings.dump(cfg))
    rows = [
        {"step": s, "pass_rate": p, "kl_policy_actor": k, "reward_mean": p, "accept_rate": 0.9}
        for s, p, k in zip(steps, rates, kl, strict=True)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def seeds(folder, n, *flags, **more):
    return [make_run(folder / f"s{i}", "--run.seed", str(i), *flags, **more) for i in range(n)]


def groups_of(*folders, force=False):
    return compare.grouped([read_run(f) for f in folders], force=force)


def test_runs_that_differ_by_their_seed_are_one_group(tmp_path):
    """Folder, warm-up folder, tracker and what is kept do not make another setting."""
    runs = seeds(tmp_path / "a", 3)
    runs.append(
        make_run(
            tmp_path / "b",
            *"--run.seed 9 --warmup.folder w --run.tracker wandb --run.samples_kept 0".split(),
        )
    )
    (group,) = groups_of(*runs)
    assert len(group.runs) == 4


def test_groups_are_named_by_what_differs(tmp_path):
    a = seeds(tmp_path / "a", 2)
    b = seeds(tmp_path / "b", 2, "--correction.lam", "1.5")
    c = seeds(tmp_path / "c", 1, "--correction.lam", "1.5", "--optim.policy_lr", "0.001")
    names = [g.name for g in groups_of(*a, *b, *c)]
    assert names == [
        "correction.lam 1.0, optim.policy_lr 0.0002",
        "correction.lam 1.5, optim.policy_lr 0.0002",
        "correction.lam 1.5, optim.policy_lr 0.001",
    ]


def test_a_method_has_the_colour_it_has_in_the_figures():
    """Constants in two packages that may not import each other: here they are held equal."""
    assert plots.METHOD_COLOURS == style.METHOD_COLOURS


FROZEN = ["--actor.kind", "frozen", "--loss.actor_ppo", "False", "--loss.distill_coef", "0"]


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ([], "jackpot"),
        (["--correction.mask", "expected"], "jackpot expected mask"),
        (["--correction.scope", "prefix"], "jackpot on prefixes"),
        (["--correction.name", "tis"], "tis+distill"),
        (["--correction.name", "tis", *FROZEN], "tis"),
        (["--correction.name", "none", *FROZEN], "none"),
        (["--correction.name", "icepop"], "icepop"),
        (["--correction.name", "none", "--actor.kind", "self", *FROZEN[2:]], "on-policy"),
    ],
)
def test_the_method_is_read_from_the_settings(tmp_path, flags, key):
    (group,) = groups_of(make_run(tmp_path / "run", *flags))
    assert group.colour == style.METHOD_COLOURS[key]


def test_no_two_settings_of_a_method_look_alike(tmp_path):
    runs = [make_run(tmp_path / str(i), "--correction.lam", str(1 + i)) for i in range(8)]
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
    found = comparison_plots.band(groups[0].runs, "kl_policy_actor")
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
            for r in seeds(tmp_path / f"{n}-{i}", 2, "--correction.lam", str(1 + i))
        ]
        return {c.get_facecolor()[0, 3] for c in drawn_kl(groups_of(*runs)).collections}

    (two,), (six,) = alphas(2), alphas(6)
    assert six < 0.5 * two


def test_rows_left_out_are_said_with_file_and_line(tmp_path, capsys):
    a = make_run(tmp_path / "a")
    with (a / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "pass_rate": "x"}\n')
    assert compare.main([str(a), "--out", str(tmp_path / "x.png")]) == 0
    assert "metrics.jsonl: left out" in (said := capsys.readouterr().err) and "line 3" in said


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


def test_the_band_of_two_seeds_is_their_range_and_the_legend_says_which(tmp_path):
    two = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "--run.seed", "1", rates=(0.3, 0.8))]
    (group,) = groups_of(*two)
    found = comparison_plots.band(group.runs, "pass_rate")
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
    rate, kl = (comparison_plots.band(group.runs, m) for m in ("pass_rate", "kl_policy_actor"))
    assert (rate.low.min(), rate.high.max(), kl.low.min()) == (0.0, 1.0, 0.0)


def test_seeds_are_averaged_at_the_steps_that_all_have(tmp_path):
    """An interrupted seed shortens its group's curve; nothing is made up."""
    long = make_run(tmp_path / "a", rates=(0.2, 0.4, 0.6), kl=(1, 1, 1), steps=(0, 10, 20))
    short = make_run(tmp_path / "b", "--run.seed", "1")
    (group,) = groups_of(long, short)
    found = comparison_plots.band(group.runs, "pass_rate")
    assert found.steps.tolist() == [0, 10]
    assert found.mean.tolist() == pytest.approx([0.2, 0.4])
    assert "10 to 20 (not complete)" in compare.final_rows([group])[0]


def test_different_tasks_are_refused_unless_forced(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", "--task.name", "sort")
    with pytest.raises(ConfigError, match=r"they differ in task\.name\).*--force"):
        groups_of(a, b)
    assert [g.name for g in groups_of(a, b, force=True)] == ["task chain", "task sort"]


def test_one_measurement_does_not_count_twice(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    with pytest.raises(ConfigError, match="same seed 0: they are one measurement"):
        groups_of(a, b)


def test_a_run_without_rows_is_refused_by_name(tmp_path):
    a = make_run(tmp_path / "a")
    (a / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"a cannot be compared yet: its metrics\.jsonl"):
        groups_of(a)


def test_the_table_holds_mean_and_interval(tmp_path):
    runs = [
        make_run(tmp_path / str(i), "--run.seed", str(i), rates=(0.1, r))
        for i, r in enumerate((0.4, 0.5, 0.6))
    ]
    (row,) = compare.final_rows(groups_of(*runs))
    assert row[:3] == ["all runs", "3", "10 (not complete)"]
    half = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    assert row[3] == f"0.5 [{0.5 - half:.3g}, {0.5 + half:.3g}]"


@pytest.mark.parametrize("suffix", ["html", "png"])
def test_the_command_writes_a_page_or_a_picture(tmp_path, capsys, suffix):
    runs = seeds(tmp_path / "a", 3) + seeds(tmp_path / "b", 2, "--correction.name", "tis")
    out = tmp_path / "new" / f"compare.{suffix}"
    assert compare.main([*map(str, runs), "--out", str(out)]) == 0
    start = {"html": b"<!DOCTYPE html>", "png": b"\x89PNG"}[suffix]
    assert out.read_bytes().startswith(start)
    assert "correction jackpot" in capsys.readouterr().out


def test_names_from_a_run_are_escaped(tmp_path):
    path = tmp_path / "<script>alert(1)<"
    page = compare.document(groups_of(make_run(path)))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"must end in \.html or \.png"):
        compare.main([str(make_run(tmp_path / "a")), "--out", "x.pdf"])
