"""Figure 2 draws the sweep's numbers, keeps the paper's apart, and its labels do not collide."""

import csv
import itertools
import math

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.text import Annotation

from paper_figures import paths
from paper_figures.commands import main as figures_main
from paper_figures.drawing import style
from paper_figures.figures import fig2, fig2_ladder
from sim.studies import sweep


@pytest.fixture(scope="module")
def drawn():
    """The rows and the figure, full size, rendered once; tick labels depend on the rc in force."""
    rows = sweep.sweep()
    with rc_context(style.RC):
        figure = fig2.draw(sweep.toy(), rows, fig2_ladder.read_rungs())
        figure.canvas.draw()
        yield rows, figure


def line(ax, label):
    return next(x for x in ax.lines if x.get_label() == label)


@pytest.mark.parametrize(
    ("panel", "column"), [(1, "z"), (2, "kl_after"), (3, "z"), (4, "kl_after"), (5, "kl_after_95")]
)
def test_every_family_is_drawn_from_the_sweep(drawn, panel, column):
    rows, figure = drawn
    for name in sweep.FAMILIES:
        mine = [row for row in rows if row["family"] == name]
        found = line(figure.axes[panel], name)
        assert list(found.get_xdata()) == [row["kl_before"] for row in mine]
        assert list(found.get_ydata()) == [row[column] for row in mine]


def test_the_papers_points_stand_apart(drawn):
    _, figure = drawn
    for panel, y in ((1, [0.955, 0.92]), (2, [0.0007, 0.0024])):
        stars = line(figure.axes[panel], "paper (read off)")
        assert list(stars.get_xdata()) == [0.009, 0.024]
        assert list(stars.get_ydata()) == y
        assert stars.get_marker() == "*"
        assert all(line(figure.axes[panel], name).get_marker() != "*" for name in sweep.FAMILIES)
    settings = [t.get_text() for t in figure.axes[6].texts if "(paper)" in t.get_text()]
    assert len(settings) == 3


def test_the_floor_is_drawn_at_95_percent(drawn):
    """A6: KL - log(1/.95), and no curve of panel f below it."""
    rows, figure = drawn
    x, y = next(v.get_data() for v in figure.axes[5].lines if v.get_color() == style.BLACK)
    assert y == pytest.approx(x - math.log(1 / 0.95))
    for row in rows:
        assert row["kl_after_95"] >= row["kl_before"] - math.log(1 / 0.95)


def test_no_two_labels_overlap(drawn):
    _, figure = drawn
    renderer = figure.canvas.get_renderer()
    for ax in figure.axes:
        texts = [*ax.texts, ax._left_title]
        if ax.axison:
            texts += [*_ticks(ax), ax.xaxis.label, ax.yaxis.label]
        boxes = [(t.get_text(), _box(t, renderer)) for t in texts if t.get_text().strip()]
        assert len(boxes) > 8
        for (a, one), (b, other) in itertools.combinations(boxes, 2):
            assert not one.overlaps(other), f"{a!r} and {b!r} overlap"


def test_nothing_is_cut_off(drawn):
    _, figure = drawn
    renderer = figure.canvas.get_renderer()
    for ax in figure.axes:
        box = ax.get_tightbbox(renderer)
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def _ticks(ax):
    """The tick labels inside the axes' limits; matplotlib keeps others, and does not draw them."""
    x, y = ax.get_xlim(), ax.get_ylim()
    for labels, (low, high), i in ((ax.get_xticklabels(), x, 0), (ax.get_yticklabels(), y, 1)):
        yield from (t for t in labels if low <= t.get_position()[i] <= high)


def _box(text, renderer):
    if isinstance(text, Annotation):
        text.update_positions(renderer)
    return text.get_window_extent(renderer).shrunk(0.98, 0.98)


def stored() -> list[dict]:
    with paths.LADDER.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_rung_says_where_it_is_from_and_is_measured_as_claimed():
    rows = stored()
    assert {row["kind"] for row in rows} == set(fig2_ladder.KINDS)
    for row in rows:
        assert row["model"] and "smollm2_ladder.py" in row["command"] and "torch" in row["versions"]
        assert int(row["states"]) >= 256 and int(row["vocabulary"]) == 49152
        number = {k: float(row[k]) for k in ("kl_before", "kl_q_p", "z", "kl_after", "kl_ratio")}
        for name in ("kl_before", "kl_q_p", "z", "kl_after", "top20"):
            assert float(row[f"{name}_low"]) <= float(row[name]) <= float(row[f"{name}_high"]), row
        assert number["kl_ratio"] == pytest.approx(number["kl_after"] / number["kl_before"], 1e-4)
        # 1 - Z is the total variation: Pinsker. Rejection never adds to the KL: Theorem 3.3
        assert 1 - number["z"] <= math.sqrt(min(number["kl_before"], number["kl_q_p"]) / 2)
        assert 0 < number["kl_after"] <= number["kl_before"]


def test_the_rungs_agree_with_the_states_measured_for_the_top_k_study():
    """bfloat16 at the same states: stored separately, by another program, from float32."""
    path = paths.HERE.parent / "sim/data/topk_smollm2.csv"
    lines = [x for x in path.read_text().splitlines() if not x.startswith("#")]
    (z,) = {float(row["z"]) for row in csv.DictReader(lines) if row["source"] == "bfloat16"}
    (mine,) = [float(row["z"]) for row in stored() if row["actor"] == "bfloat16"]
    assert mine == pytest.approx(z, abs=1e-5)


def test_real_actors_accept_as_much_as_the_families_do(drawn):
    """README's claim: within what the families span, wherever two or more of them reach."""
    rows, _ = drawn
    seen = 0
    for row in stored():
        kl, z = float(row["kl_before"]), float(row["z"])
        at = [sweep.interpolate(rows, name, kl, lambda r: r["z"]) for name in sweep.FAMILIES]
        if sum(x == x for x in at) >= 2:
            assert np.nanmin(at) - 1e-3 <= z <= np.nanmax(at) + 1e-3, row["actor"]
            seen += 1
    assert seen >= 9


def test_every_rung_is_marked_once_inside_the_axes_and_named_in_the_key(drawn):
    _, figure = drawn
    rows = sorted(stored(), key=lambda row: float(row["kl_before"]))
    for ax, y in ((figure.axes[6], "z"), (figure.axes[7], "kl_after")):
        marks = {c.get_label(): c for c in ax.containers}
        assert list(marks) == [str(i) for i in range(1, len(rows) + 1)]
        for row, mark in zip(rows, marks.values(), strict=True):
            ((x_at, y_at),) = zip(*mark.lines[0].get_data(), strict=True)
            assert (x_at, y_at) == (float(row["kl_before"]), float(row[y]))
            assert ax.get_xlim()[0] < x_at < ax.get_xlim()[1]
            assert ax.get_ylim()[0] < y_at < ax.get_ylim()[1]
        numbers = [t.get_text() for t in ax.texts if t.get_text().isdigit()]
        assert sorted(numbers, key=int) == list(marks)
    key = [t.get_text() for t in figure.axes[8].texts]
    for i, row in enumerate(rows, start=1):
        at = key.index(str(i))
        assert key[at + 1].removesuffix(" *") == row["actor"]


def test_kinds_of_actor_differ_in_colour_and_in_marker():
    looks = list(fig2_ladder.KINDS.values())
    assert len({c for c, _ in looks}) == len({m for _, m in looks}) == len(looks)


def test_crowded_numbers_are_spread_and_keep_their_order():
    found = fig2_ladder.spread([0.0, 0.1, 0.15, 2.0], 0.5)
    assert found == pytest.approx([-0.4167, 0.0833, 0.5833, 2.0], abs=1e-3)
    assert fig2_ladder.spread([1.0, 0.0], 0.5) == [0.0, 1.0]


def test_text_is_legible_when_printed(drawn):
    """No text under 5.5 points in a figure as wide as the text block."""
    _, figure = drawn
    assert figure.get_figwidth() <= 7
    assert min(t.get_fontsize() for ax in figure.axes for t in ax.texts) >= 5.5


def test_one_colour_per_method_and_one_look_per_family():
    assert len(set(style.METHOD_COLOURS.values())) == len(style.METHOD_COLOURS)
    assert len(set(style.FAMILY_STYLES.values())) == len(style.FAMILY_STYLES)
    assert set(style.FAMILY_STYLES) == set(sweep.FAMILIES)
    named = {"on-policy", "none", "tis", "tis+distill", "icepop", "importance", "jackpot"}
    assert named <= set(style.METHOD_COLOURS)


def test_the_papers_numbers_live_in_columns_named_after_it():
    with paths.PAPER_FIG2.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(column.startswith("paper_") for column in rows[0])
    assert {row["paper_panel"] for row in rows} == {"points", "settings"}


def test_the_command_writes_pictures_and_the_numbers_in_them(tmp_path, capsys):
    out = tmp_path / "out"
    assert figures_main(["fig2", "--quick", "--seed", "2", "--out", str(out)]) == 0
    assert {f.name for f in out.iterdir()} == {
        *("fig2.png", "fig2.pdf", "fig2.csv", "fig2_toy.csv", "fig2_ladder.csv")
    }
    assert (out / "fig2.png").read_bytes()[:4] == b"\x89PNG"
    assert (out / "fig2.pdf").read_bytes()[:4] == b"%PDF"
    with (out / "fig2.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    expected = sweep.sweep(seed=2, quick=True)
    assert np.array([float(row["z"]) for row in found]) == pytest.approx(
        np.array([row["z"] for row in expected]), rel=1e-5
    )
    with (out / "fig2_toy.csv").open(newline="") as file:
        assert [float(row["post_rejection"]) for row in csv.DictReader(file)] == pytest.approx(
            [0.32, 0.28, 4 / 15, 2 / 15], rel=1e-5
        )
    assert "fig2.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "no" / "such", "there is no folder"),
        (lambda path: path / "file", "is a file; give a folder"),
    ],
)
def test_a_bad_folder_is_refused_before_any_work(monkeypatch, tmp_path, capsys, make, message):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sweep, "sweep", lambda *a: pytest.fail("work had started"))
    with pytest.raises(SystemExit, match="2"):
        figures_main(["fig2", "--out", str(make(tmp_path))])
    assert message in capsys.readouterr().err
