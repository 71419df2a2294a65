"""The study of a real model: its command without model, without rows and with some; its figure."""

from __future__ import annotations

import made_rows
import numpy as np
import pytest

from llm.commands import train as train_command
from llm.settings.loading import resolve
from paper_figures.claims import smollm2
from paper_figures.experiments import kept_rows, studies
from paper_figures.extras import kept_runs

STUDY = smollm2.STUDY
(SETTING,) = STUDY.settings


@pytest.fixture
def kept(tmp_path, monkeypatch):
    file = tmp_path / "kept.csv"
    monkeypatch.setattr(kept_rows, "file_of", lambda study: file)
    monkeypatch.setattr(smollm2, "MODEL", tmp_path / "no model")
    monkeypatch.setattr(
        kept_runs.runner, "train", lambda *_, **__: pytest.fail("nothing is trained")
    )
    return file


@pytest.fixture
def drawn(monkeypatch):
    """Names of the figures that are saved."""
    names = []

    def save(figure, out, name):
        names.append(name)
        smollm2.plots.plt().close(figure)

    monkeypatch.setattr(smollm2.plots, "save", save)
    return names


def whole():
    return [*made_rows.whole({"drafted, int8 actor": 0.3}, 0.01, STUDY).values()]


def test_a_clone_without_rows_and_model_draws_its_one_figure_and_says_what_is_missing(
    kept, drawn, tmp_path, capsys
):
    assert smollm2.main(["--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "0 of 30 runs are kept" in out and "(python -m paper_figures smollm2 --long)" in out
    assert drawn == ["smollm2"] and not kept.exists()


def test_the_rows_that_are_kept_are_drawn_and_judged_against_on_policy(
    kept, drawn, tmp_path, capsys
):
    for row in whole():
        kept_rows.append(kept, row)
    assert smollm2.main(["--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "30 of 30 runs are kept" in out and "900 seconds of one worker" in out
    assert "would take" not in out
    assert "final pass rate, against on-policy" in out and "drafted, int8 actor better" in out
    table = (tmp_path / "out" / "smollm2.csv").read_text()
    assert table.count("\nsmollm2,final,on-policy,") == 9


def test_long_without_the_model_says_how_to_get_it_and_trains_nothing(kept, tmp_path, capsys):
    assert smollm2.main(["--long", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "python -m llm fetch smollm2" in said
    assert not kept.exists()


def test_long_trains_what_has_no_row_by_one_worker_or_as_many_as_are_asked_for(
    kept, drawn, tmp_path, monkeypatch
):
    trained = []

    def train(by_run, workers, ended):
        trained.append((workers, len(by_run)))
        for run in by_run:
            ended(run)

    monkeypatch.setattr(kept_runs.runner, "train", train)
    monkeypatch.setattr(kept_runs, "row", made_rows.made)
    monkeypatch.setattr(smollm2, "MODEL", tmp_path)
    for row in whole()[:7]:
        kept_rows.append(kept, row)
    assert smollm2.main(["--long", "--out", str(tmp_path / "out")]) == 0
    kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:-4]))
    assert smollm2.main(["--long", "--workers", "3", "--out", str(tmp_path / "out")]) == 0
    assert trained == [(1, 23), (3, 4)]
    monkeypatch.setattr(smollm2, "MODEL", tmp_path / "none")  # nothing is left to train
    assert smollm2.main(["--long", "--out", str(tmp_path / "out")]) == 0
    assert len(trained) == 2


@pytest.mark.parametrize("flag", ["--quick", "--train"])
def test_there_are_no_quick_runs_of_a_real_model(flag, capsys):
    with pytest.raises(SystemExit):
        smollm2.main([flag])
    assert f"unrecognized arguments: {flag}" in capsys.readouterr().err


def test_each_panel_shows_its_actors_means_and_the_range_of_the_seeds():
    """Against means by hand: above the pass rates with on-policy's, below the KLs without."""
    rows = whole()
    ((name, figure),) = smollm2.pictures(STUDY, rows, [])
    assert name == "smollm2" and len(figure.axes) == 6
    above = figure.axes[1]  # 4-bit
    labels = [line.get_label() for line in above.lines]
    assert labels == ["on-policy", "TIS", "Jackpot", "drafted, lam 1"]
    curves = [dict(r.curve) for r in rows if r.method == "jackpot, 4-bit actor"]
    means = [sum(c[x] for c in curves) / 3 for x in sorted(curves[0])]
    assert [*above.lines[2].get_ydata()] == pytest.approx(means)
    band = above.collections[2].get_paths()[0].get_extents()
    assert band.ymin == pytest.approx(min(min(c.values()) for c in curves))
    assert band.ymax == pytest.approx(max(max(c.values()) for c in curves))
    below = figure.axes[4]
    assert [line.get_label() for line in below.lines] == labels[1:]
    assert all(np.allclose(line.get_ydata(), 0.03) for line in below.lines)
    smollm2.plots.plt().close(figure)


def test_a_part_of_the_rows_is_drawn_as_a_part():
    rows = [r for r in whole() if r.method in ("on-policy", "tis, int8 actor") and r.seed == 500]
    ((_, figure),) = smollm2.pictures(STUDY, rows, [])
    assert [len(ax.lines) for ax in figure.axes] == [2, 1, 1, 1, 0, 0]
    assert figure.get_suptitle() == "2 of 30 runs"
    smollm2.plots.plt().close(figure)


@pytest.mark.parametrize(
    "method", ["drafted, int8 actor", "drafted, 4-bit actor", "drafted, early exit actor"]
)
def test_the_methods_train_a_tiny_model(method, tmp_path):
    """A policy of two layers in place of SmolLM2, and an exit after the first."""
    world = {
        "policy.layers": 2,
        "policy.width": 32,
        "task.type": "chain",
        "pretrain.policy_steps": 0,
    }
    world |= {"rollout.prompts_per_step": 2, "rollout.rollouts_per_prompt": 4, "run.steps": 1}
    world |= {
        "optim.lr_warmup_steps": 0,
        "run.eval_prompts": 4,
        "run.folder": str(tmp_path / "run"),
    }
    own = dict(studies.entry(SETTING, method, studies.JUDGED, 1e-4, 500).run.extra)
    if "actor.exit_layers" in own:
        own["actor.exit_layers"] = 1
    assert train_command.run_config(resolve(world, own)) == 0
