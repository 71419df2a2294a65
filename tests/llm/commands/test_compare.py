"""Runs over each other: what counts as a seed, and what is refused."""

import pytest
from compared_runs import groups_of, make_run, seeds
from scipy import stats

from llm.commands import compare
from llm.report.comparison_plots import draw, label
from llm.settings.loading import ConfigError
from paper_figures.drawing import style


def test_runs_that_differ_by_their_seed_are_one_group(tmp_path):
    """Folder, folder of pretrained models, tracker and what is kept do not make another setting."""
    runs = seeds(tmp_path / "a", 3)
    runs.append(
        make_run(
            tmp_path / "b",
            *"--run.seed 9 --pretrain.folder w --run.tracker wandb --run.samples_kept 0".split(),
        )
    )
    (group,) = groups_of(*runs)
    assert len(group.runs) == 4


def test_groups_are_named_by_what_differs(tmp_path):
    a = seeds(tmp_path / "a", 2)
    b = seeds(tmp_path / "b", 2, "--correction.lam.value", "1.5")
    c = seeds(tmp_path / "c", 1, "--correction.lam.value", "1.5", "--optim.policy_lr", "0.001")
    names = [g.name for g in groups_of(*a, *b, *c)]
    assert names == [
        "correction.lam.value 1.0, optim.policy_lr 0.0002",
        "correction.lam.value 1.5, optim.policy_lr 0.0002",
        "correction.lam.value 1.5, optim.policy_lr 0.001",
    ]


def test_a_setting_without_effect_in_some_runs_names_none(tmp_path):
    """tis reads no top_k, so its config.toml has none; with one update there is no clip to name."""
    a = make_run(tmp_path / "a", "--actor.ppo", "False")
    b = make_run(tmp_path / "b", *"--actor.ppo False --correction.type tis".split())
    c = make_run(tmp_path / "c", *"--actor.ppo False --loss.updates_per_rollout 2".split())
    assert [g.name for g in groups_of(a, b)] == ["correction jackpot", "correction tis"]
    assert [g.name for g in groups_of(a, c)] == [f"loss.updates_per_rollout {n}" for n in (1, 2)]


FROZEN = ["--actor.type", "frozen"]


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ([], "jackpot"),
        (["--correction.mask", "expected"], "jackpot expected mask"),
        (["--correction.scope", "prefix"], "jackpot on prefixes"),
        (["--correction.type", "tis"], "tis+distill"),
        (["--correction.type", "tis", *FROZEN], "tis"),
        (["--correction.type", "none", *FROZEN], "none"),
        (["--correction.type", "icepop"], "icepop"),
        (["--correction.type", "none", "--actor.type", "self", *FROZEN[2:]], "on-policy"),
    ],
)
def test_the_method_is_read_from_the_settings(tmp_path, flags, key):
    (group,) = groups_of(make_run(tmp_path / "run", *flags))
    assert group.colour == style.METHOD_COLOURS[key]


def test_other_runs_are_compared_in_another_file(tmp_path, monkeypatch, capsys):
    """By their names, in any order; folders of one name in different places are told apart."""
    monkeypatch.chdir(tmp_path)
    a, b = (make_run(tmp_path / n, "--run.seed", n[-1]) for n in ("x/s1", "x/s2"))
    c = make_run(tmp_path / "y/s2", "--run.seed", "3")
    for runs in ([a, b], [b, a], [a, c]):
        assert compare.main([str(r) for r in runs]) == 0
    written = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert len(written) == 2 and all(name.startswith("compare_s1_s2_") for name in written)
    many = [tmp_path / f"run {i}" for i in range(5)]
    assert compare.default_out(many).name.startswith("compare_run-0_run-1_run-2_2-more_")


def test_rows_left_out_are_said_with_file_and_line(tmp_path, capsys):
    a = make_run(tmp_path / "a")
    with (a / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "pass_rate": "x"}\n')
    assert compare.main([str(a), "--out", str(tmp_path / "x.png")]) == 0
    assert "metrics.jsonl: left out" in (said := capsys.readouterr().err) and "line 3" in said


def test_different_tasks_are_refused_unless_forced(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", "--task.type", "sort")
    with pytest.raises(ConfigError, match=r"they differ in task\.type\).*--force"):
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
    runs = seeds(tmp_path / "a", 3) + seeds(tmp_path / "b", 2, "--correction.type", "tis")
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


def test_the_seeds_of_a_group_are_named(tmp_path):
    """In the table, in the legend and beside the folders."""
    runs = [make_run(tmp_path / str(s), "--run.seed", str(s)) for s in (7, 0, 1, 2)]
    groups = groups_of(*runs)
    assert compare.final_rows(groups)[0][-1] == "0 to 2, 7"
    assert label(groups[0]).endswith("(4 seeds, 95 % interval: 0 to 2, 7)")
    page = compare.document(groups)
    assert "(seed 7)" in page and "Comparison of 4 runs" in page
    one = groups_of(runs[0])
    assert "Comparison of 1 run<" in compare.document(one)
    assert label(one[0]).endswith("(one seed: 7)")


def test_hostile_numbers_are_compared(tmp_path):
    """Three seeds: their mean overflows, or is of NaN and inf."""
    kls = ((1e308, float("inf")), (1e308, 1e-300), (1.7e308, float("nan")))
    runs = [
        make_run(tmp_path / f"a$_{i}$", "--run.seed", str(i), kl=kl, rates=(-5, 1e308))
        for i, kl in enumerate(kls)
    ]
    groups = groups_of(*runs)
    assert draw(groups).startswith(b"\x89PNG")
    assert compare.table_text(groups)
