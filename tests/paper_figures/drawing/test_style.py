"""Text from outside in pictures."""

from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from paper_figures.drawing import style
from sim.studies import topk_figure


@pytest.mark.parametrize("name", ["a$_b$", r"\\$x$", "$", r"a\$b$c", r"\frac{", "_hidden", "$$$$"])
def test_a_name_from_outside_is_shown_as_it_is(name):
    """By what matplotlib itself would draw, and a legend does not leave it out."""
    for literal in (style.literal, topk_figure._literal):
        text: Any = Text(text=literal(name))
        drawn, is_formula = text._preprocess_math(literal(name))
        assert (drawn.strip(), bool(is_formula)) == (name, False)
    ax = Figure().subplots()
    ax.plot([0, 1], label=style.literal(name))
    assert len(ax.get_legend_handles_labels()[1]) == 1
