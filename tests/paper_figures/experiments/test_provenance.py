"""What a picture is of: all code and data of sim and paper_figures, wherever they lie."""

import hashlib
import json
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


def test_another_version_of_the_code_that_trains_makes_a_picture_stale(monkeypatch):
    before = provenance.version.__wrapped__()
    monkeypatch.setattr(provenance, "code_version", lambda: "0" * 12)
    assert provenance.version.__wrapped__() != before


DRAWN = {  # picture: (version of the code, sha256 of the file): see "Which code drew them"
    "fig1.png": ("9a76b7f", "1b2ad03eac3399bf"),
    "prefix_rejection.png": ("9a76b7f", "626a8fd1b34edb7a"),
    "cost_slopes.png": ("21d3518", "a83778d4f716c1ff"),
    "demo.png": ("4fe8d7f", "f9e6cbbcc6117342"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_committed_picture_is_the_one_its_version_drew(name):
    """One that is drawn anew, under whatever name, needs a new row in the README's table."""
    version, digest = DRAWN[name]
    content = (ROOT / "docs" / name).read_bytes()
    assert hashlib.sha256(content).hexdigest().startswith(digest)
    text = (ROOT / "paper_figures" / "README.md").read_text(encoding="utf-8")
    (row,) = [x for x in text.splitlines() if x.startswith("|") and f"](../docs/{name})" in x]
    assert row.split("|")[2].strip().startswith(version)


def test_a_renamed_figure_keeps_its_entry_and_the_check_of_it(tmp_path):
    """By its new name alone, and only while the code is what the entry says."""
    kept = {"scale": "full", "seeds": [100], "code": provenance.version()}
    file = tmp_path / provenance.FILE
    file.write_text(json.dumps({"steadier": kept}))
    assert provenance.fresh(tmp_path, "prefix_rejection") == "not made yet"
    file.write_text(json.dumps({"prefix_rejection": kept}))
    assert provenance.fresh(tmp_path, "prefix_rejection") == ""
    file.write_text(json.dumps({"prefix_rejection": kept | {"code": "0" * 12}}))
    assert "another version" in provenance.fresh(tmp_path, "prefix_rejection")
