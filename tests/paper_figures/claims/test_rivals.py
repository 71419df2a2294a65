"""`python -m paper_figures rivals`: drawn from kept rows alone, wherever training stopped."""

from __future__ import annotations

import pytest
import rival_rows

from paper_figures.claims import families, rivals
from paper_figures.experiments import kept_rows, rival_lists
from paper_figures.extras import rivals as runs


@pytest.fixture
def kept(tmp_path, monkeypatch):
    file = tmp_path / "kept.csv"
    monkeypatch.setattr(runs, "KEPT", file)
    monkeypatch.setattr(runs.runner, "train", lambda *_, **__: pytest.fail("nothing is trained"))
    return file


def test_every_method_and_family_has_its_name():
    methods = {m for s in rival_lists.SETTINGS for m in s.methods}
    assert methods - {"on-policy", "no clip", "uniform"} <= set(rivals.LABELS)
    assert {f.id for f in families.load()} == set(rivals.TITLES)


def test_pictures_table_and_verdicts_are_drawn_without_training(
    kept, tmp_path, capsys, monkeypatch
):
    save = rivals.plots.save

    def save_one(figure, out, name):  # to lay out a large picture takes seconds
        if name == "rivals_completions":
            return save(figure, out, name)
        (out / f"{name}.png").touch()
        rivals.plots.plt().close(figure)

    monkeypatch.setattr(rivals.plots, "save", save_one)
    rows = rival_rows.whole({"jackpot": 0.4}, noise=0.01)
    for row in [r for r in rows.values() if r.study == "objectives"]:
        kept_rows.append(kept, row)
    assert rivals.main(["--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "Jackpot " in out and "better" in out and "of commit 0123456" in out
    assert "rivals-completions (area against grpo, 0 of 3 seeds): nothing settled" in out
    pictures = {p.name for p in (tmp_path / "out").glob("*.png")}
    assert pictures == {f"rivals_{s}.png" for s in ("objectives", "completions", "allocation")}
    assert (tmp_path / "out" / "rivals.csv").read_text().count("\n") == 58


def test_no_rows_at_all_are_drawn_as_such(kept, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rivals.plots, "save", lambda figure, *_: rivals.plots.plt().close(figure))
    assert rivals.main(["--out", str(tmp_path / "out")]) == 0
    assert f"0 of {rival_lists.planned()} runs are kept" in capsys.readouterr().out
    assert not kept.exists()


def test_damaged_and_foreign_rows_are_an_error(kept, tmp_path, capsys):
    row = next(iter(rival_rows.whole().values()))
    kept_rows.append(kept, row._replace(key="f" * 16))
    assert rivals.main(["--out", str(tmp_path / "out")]) == 1
    assert "are of no run" in capsys.readouterr().err
    kept.write_text("nonsense")
    assert rivals.main(["--out", str(tmp_path / "out")]) == 1
    assert "its columns are" in capsys.readouterr().err


def test_flags_that_contradict_each_other_are_refused(capsys):
    for flags in (["--train", "--quick"], ["--workers", "0"]):
        with pytest.raises(SystemExit):
            rivals.main(flags)
    assert "choose one" in capsys.readouterr().err


def test_the_kept_rows_of_the_repository_are_whole():
    """Each is of a run of the lists, with a summary that is its curve's."""
    assert len(runs.checked(kept_rows.HERE / "rivals.csv")) > 60
