"""What a picture is of: all code and data of sim and paper_figures, wherever they lie."""

import os

import pytest

from paper_figures.experiments import provenance
from paper_figures.experiments.run_store import ROOT


def test_every_file_that_draws_is_in_the_hash():
    """Against another way of listing them; folders of any depth."""
    kinds, files = (".py", ".toml", ".csv"), set()
    for top in ("sim", "paper_figures"):
        for folder, folders, names in os.walk(ROOT / top):
            if folder == str(ROOT / "paper_figures"):
                folders[:] = [name for name in folders if name != "out"]
            files |= {os.path.join(folder, name) for name in names if name.endswith(kinds)}
    assert {str(p) for p in provenance.drawn_by()} == files
    assert len(files) > 85
    places = {p.relative_to(ROOT).as_posix() for p in provenance.drawn_by()}
    assert "paper_figures/data/paper_fig2.csv" in places
    assert "sim/oracle/exact.py" in places
    assert any(place.endswith(".toml") for place in places)


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("sim/new.py", True),
        ("sim/a/b/new.py", True),
        ("paper_figures/a/b/new.toml", True),
        ("paper_figures/data/deep/new.csv", True),
        ("sim/out/new.py", True),  # only paper_figures/out is what was drawn
        ("paper_figures/out/new.csv", False),
        ("paper_figures/out/full/new.csv", False),
        ("paper_figures/notes.md", False),
        ("llm/new.py", False),  # code that trains is of run_store
    ],
)
def test_a_file_counts_by_its_place_and_kind(tmp_path, file, counts):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text("")
    assert provenance.drawn_by(tmp_path) == [path] * counts


def test_a_changed_file_makes_a_picture_stale(tmp_path, monkeypatch):
    (tmp_path / "sim/worlds").mkdir(parents=True)
    (tmp_path / "sim/worlds/trees.py").write_text("x = 1\n")
    files = provenance.drawn_by
    monkeypatch.setattr(provenance, "drawn_by", lambda: files(tmp_path))
    before = provenance.version.__wrapped__()
    (tmp_path / "sim/worlds/trees.py").write_text("x = 2\n")
    assert provenance.version.__wrapped__() != before
