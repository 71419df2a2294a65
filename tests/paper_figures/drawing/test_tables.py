"""The paper's tables beside ours: which row is which, how they are written and laid out."""

import itertools

import pytest
from figure_runs import SCALE, rows

from paper_figures.drawing import plots, tables
from paper_figures.experiments import run_lists
from paper_figures.tables import table1, table2, table3


def paper_lines(*parts: str) -> dict[str, float]:
    """Numbers of the paper's file, read by hand: lines that hold all parts."""
    text = tables.PAPER_TABLES.read_text(encoding="utf-8").splitlines()
    lines = [line.split(",") for line in text if all(p in line for p in parts)]
    return {line[-2]: float(line[-1]) for line in lines}


def test_tables_find_the_papers_rows():
    eight = tables.paper(1, *table1.PAPER["jackpot"])
    assert (eight["MATH-500 mean@4"], eight["AIME24 pass@4"]) == (0.8265, 0.3657)
    assert tables.paper(1, *table1.PAPER["on-policy small"])["MATH-500 mean@4"] == 0.6590
    assert tables.paper(1, *table1.PAPER["kl"])["GSM8K mean@4"] == 0.7417
    assert tables.paper(2, table2.PARTS["int8"][2], table2.PAPER["int8 tis"]) == paper_lines(
        "FP8 KV", ",TIS,"
    )
    crash = tables.paper(3, table3.BLOCKS[128], table3.PAPER["no clip"])
    assert crash == paper_lines("128x", ",No-clip,")
    assert crash["MATH-500 mean@4"] == 0.191
    assert tables.paper(3, table3.BLOCKS[64], "On-policy")["GSM8K mean@4"] == 0.9219  # of 4B


def test_a_row_that_the_paper_lacks_or_has_twice_is_refused():
    with pytest.raises(KeyError, match="0 numbers"):
        tables.paper(3, table3.BLOCKS[128], "On-policy")
    with pytest.raises(KeyError, match="Table 1 has 16 numbers"):
        tables.paper(1, "Qwen3-1.7B", "Jackpot")


def test_table_1_has_our_means_beside_the_papers(drawn):
    home, out, texts = drawn
    found = {row["method"]: row for row in rows(out / "table1.csv")}
    assert list(found) == list(run_lists.TABLE1)
    mine = found["jackpot"]
    assert float(mine["8 digits mean@4"]) == pytest.approx(0.51)
    assert float(mine["4 digits pass@4"]) == 0.875
    assert mine["paper MATH-500 mean@4"] == "0.8265"
    assert found["tis+ppo+kl"]["paper GSM8K mean@4"] == ""
    assert all((home / name).is_dir() for name in mine["runs"].split())
    line = next(x for x in texts["table1"].splitlines() if x.startswith("Jackpot  "))
    assert "0.510 / 0.875" in line
    assert line.endswith("1.7B → 8B")


def test_table_2_compares_each_with_the_plain_method_of_its_part(drawn):
    _, out, _ = drawn
    found = {row["method"]: row for row in rows(out / "table2.csv")}
    for part, methods in (("stale", run_lists.KEPT), ("int8", run_lists.INT8)):
        plain, *others = methods
        assert found[plain]["minus plain"] == ""
        for name in others:
            difference = float(found[name]["final"]) - float(found[plain]["final"])
            assert found[name]["part"] == part
            assert float(found[name]["minus plain"]) == pytest.approx(difference)
    assert found["int8"]["paper GSM8K mean@4"] == ""
    assert found["int8 tis"]["paper GSM8K mean@4"] == "0.9268"


def test_table_3_counts_runs_that_diverged(drawn):
    _, out, texts = drawn
    found = {(row["updates per rollout"], row["method"]): row for row in rows(out / "table3.csv")}
    gone = found["128", "no clip"]
    assert (gone["diverged"], float(gone["final"])) == ("3", 0)
    assert gone["paper MATH-500 mean@4"] == "0.191"
    assert found["16", "no clip"]["paper MATH-500 mean@4"] == ""
    assert "3 runs diverged" in texts["table3"]
    assert len(found) == 1 + len(run_lists.STALE) * len(run_lists.STALENESS)


TABLE = tables.Table(
    "t", "A | title", ("", "one\ntwo"), (("part",), ("a | b", "0.1\n[0, 1]")), ("A note.", "More.")
)


def test_markdown_gives_a_table_back():
    assert tables.read_markdown(tables.markdown(TABLE)) == TABLE._replace(name="")


def test_a_table_too_wide_for_the_page_is_refused():
    wide = TABLE._replace(rows=(("x" * 90, "y" * 90),))
    with pytest.raises(ValueError, match="do not fit"):
        tables.picture(wide)


def test_no_two_texts_of_a_table_overlap(drawn):
    home, _, _ = drawn
    for module in (table1, table2, table3):
        fig = tables.picture(module.table(module.numbers(SCALE, home)))
        renderer = fig.canvas.get_renderer()
        boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in fig.texts if t.get_text()]
        assert len(boxes) > 30
        for (a, one), (b, other) in itertools.combinations(boxes, 2):
            assert not one.shrunk(0.95, 0.8).overlaps(other.shrunk(0.95, 0.8)), f"{a!r}, {b!r}"
        assert all(box.x0 >= 0 and box.x1 <= fig.bbox.x1 and box.y0 >= -2 for _, box in boxes)
        plots.plt().close(fig)
