"""Figure 3 is written as pictures and a table, and its labels do not collide."""

from __future__ import annotations

import csv
import importlib
import inspect
import itertools
from pathlib import Path

import pytest
from importing import imported
from matplotlib import rc_context

from paper_figures.commands import main as figures_main
from paper_figures.drawing import style
from paper_figures.figures import fig3

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def drawn():
    with rc_context(style.RC):
        figure = fig3.draw()
        figure.canvas.draw()
        yield figure


def test_an_arrow_carries_a_real_parameter():
    for edge in fig3.EDGES:
        targets = [imported(name) for name, _ in fig3.NODES[edge.target].names]
        known = {x for target in targets for x in inspect.signature(target).parameters}
        if edge.target == "update":  # the losses, by their names in the sum
            source = inspect.getsource(importlib.import_module("llm.train"))
            known = {name for name in edge.carried if f'"{name}"' in source}
        assert set(edge.carried) <= known, edge


def test_the_command_draws_nothing_from_a_stale_name(monkeypatch, tmp_path, capsys):
    node = fig3.NODES["sample"]
    stale = node._replace(
        names=(("llm.rollout.sampling.draw_samples", "llm.rollout.engines.base.generate"),)
    )
    monkeypatch.setitem(fig3.NODES, "sample", stale)
    assert figures_main(["fig3", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "llm.rollout.sampling.draw_samples" in said and "paper_figures/figures/fig3.py" in said
    assert not list(tmp_path.iterdir())


def test_the_command_writes_pictures_and_a_table_of_nodes_and_edges(tmp_path):
    out = tmp_path / "out"
    assert figures_main(["fig3", "--out", str(out)]) == 0
    assert {f.name for f in out.iterdir()} == {"fig3.png", "fig3.pdf", "fig3.csv"}
    assert (out / "fig3.png").read_bytes()[:4] == b"\x89PNG"
    with (out / "fig3.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    nodes = [row for row in rows if row["kind"] == "node"]
    assert len(rows) - len(nodes) == len(fig3.EDGES)
    assert {row["box"] for row in nodes} == set(fig3.NODES)
    for row in rows:
        file, line = row["defined_at"].split(":")
        text = (ROOT / file).read_text().splitlines()[int(line) - 1]
        assert row["name"].rsplit(".", 1)[-1] in text


def test_every_box_says_its_name(drawn):
    texts = {t.get_text().replace("\n", "") for t in drawn.axes[0].texts}
    for node in fig3.NODES.values():
        assert fig3.shown(node.names[0][0]) in texts


def test_no_two_texts_overlap_and_all_are_inside(drawn):
    renderer, whole = drawn.canvas.get_renderer(), drawn.bbox
    texts = [t for t in drawn.axes[0].texts if t.get_text()]
    boxes = [(t.get_text(), t.get_window_extent(renderer).shrunk(0.98, 0.9)) for t in texts]
    assert len(boxes) > 30
    for (a, one), (b, other) in itertools.combinations(boxes, 2):
        assert not one.overlaps(other), f"{a!r} and {b!r} overlap"
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= whole.x1 and box.y1 <= whole.y1, text


def test_texts_stay_in_their_boxes_and_labels_out_of_them(drawn):
    ax, renderer = drawn.axes[0], drawn.canvas.get_renderer()
    carried = {e.label: e.carried[0] for e in fig3.EDGES if e.label}
    for text in ax.texts:
        if not text.get_text():
            continue
        found = text.get_window_extent(renderer).transformed(ax.transData.inverted())
        (x0, x1), (y0, y1) = sorted((found.x0, found.x1)), sorted((found.y0, found.y1))
        is_label = carried.get(text.get_position()) == text.get_text()
        for node in fig3.NODES.values():
            x, y, w, h = node.box
            apart = x1 <= x or x0 >= x + w or y1 <= y or y0 >= y + h
            inside = x0 >= x and x1 <= x + w and y0 >= y and y1 <= y + h
            assert apart or (inside and not is_label), text.get_text()


def test_no_label_lies_on_a_line(drawn):
    ax, renderer = drawn.axes[0], drawn.canvas.get_renderer()
    for edge in fig3.EDGES:
        if not edge.label:
            continue
        (text,) = [t for t in ax.texts if t.get_position() == edge.label]
        found = text.get_window_extent(renderer).shrunk(1, 0.75)
        found = found.transformed(ax.transData.inverted())
        (x0, x1), (y0, y1) = sorted((found.x0, found.x1)), sorted((found.y0, found.y1))
        for other in fig3.EDGES:
            for (ax0, ay0), (bx, by) in itertools.pairwise(other.path):
                across = max(min(ax0, bx), x0) <= min(max(ax0, bx), x1)
                along = max(min(ay0, by), y0) <= min(max(ay0, by), y1)
                assert not (across and along), f"{edge.carried[0]} on {other.source}"


def test_the_text_is_legible_when_printed(drawn):
    assert drawn.get_figwidth() <= 7
    assert min(t.get_fontsize() for t in drawn.axes[0].texts if t.get_text()) >= 5.5
