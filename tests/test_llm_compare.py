"""Runs over each other: what counts as a seed, what the band is, and what is refused."""

import json

import numpy as np
import pytest
from scipy import stats

from llm import compare, config, report_plots
from llm.config import ConfigError
from llm.report_files import read_run
from paper_figures import style


def make_run(folder, *flags, rates=(0.2, 0.4), kl=(0.5, 0.3), steps=(0, 10)):
    folder.mkdir(parents=True)
    cfg = config.load([], ["--run.folder", str(folder), *flags])
    (folder / "config.toml").write_text(config.dump(cfg))
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
    assert report_plots.METHOD_COLOURS == style.METHOD_COLOURS


FROZEN = ["--actor.kind", "frozen", "--loss.actor_ppo", "False", "--loss.distill_coef", "0"]


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ([], "jackpot"),
        (["--correction.mask", "expected"], "jackpot expected mask"),
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


def test_groups_of_one_method_differ_by_their_line(tmp_path):
    runs = [make_run(tmp_path / str(i), "--correction.lam", str(1 + i)) for i in range(3)]
    groups = groups_of(*runs)
    assert len({g.colour for g in groups}) == 1
    assert len({g.line for g in groups}) == 3


def test_the_band_is_students_interval_from_three_seeds_on():
    """Against scipy, for every number of seeds that the table holds."""
    rng = np.random.default_rng(0)
    for n in range(3, 32):
        values = rng.normal(0, 1, (n, 2))
        mean, low, high = compare.interval(values, (-np.inf, np.inf))
        for j in range(2):
            wanted = stats.t.interval(0.95, n - 1, values[:, j].mean(), stats.sem(values[:, j]))
            assert (low[j], high[j]) == pytest.approx(wanted, abs=1e-6)
        assert mean == pytest.approx(values.mean(axis=0))


def test_the_band_of_two_seeds_is_their_range_and_the_legend_says_which(tmp_path):
    two = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "--run.seed", "1", rates=(0.3, 0.8))]
    (group,) = groups_of(*two)
    found = compare.band(group.runs, "pass_rate")
    assert (found.low.tolist(), found.high.tolist()) == ([0.2, 0.4], [0.3, 0.8])
    assert "2 seeds, range" in compare.label(group)
    (three,) = groups_of(*two, make_run(tmp_path / "c", "--run.seed", "2"))
    assert "3 seeds, 95 % interval" in compare.label(three)
    (one,) = groups_of(two[0])
    assert "one seed" in compare.label(one)


def test_a_band_never_leaves_what_the_quantity_can_be(tmp_path):
    runs = [
        make_run(tmp_path / str(i), "--run.seed", str(i), rates=(r, r), kl=(k, k))
        for i, (r, k) in enumerate([(0.0, 0.1), (0.5, 2.0), (1.0, 0.2)])
    ]
    (group,) = groups_of(*runs)
    rate, kl = (compare.band(group.runs, m) for m in ("pass_rate", "kl_policy_actor"))
    assert (rate.low.min(), rate.high.max(), kl.low.min()) == (0.0, 1.0, 0.0)


def test_seeds_are_averaged_at_the_steps_that_all_have(tmp_path):
    """An interrupted seed shortens its group's curve; nothing is made up."""
    long = make_run(tmp_path / "a", rates=(0.2, 0.4, 0.6), kl=(1, 1, 1), steps=(0, 10, 20))
    short = make_run(tmp_path / "b", "--run.seed", "1")
    (group,) = groups_of(long, short)
    found = compare.band(group.runs, "pass_rate")
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
