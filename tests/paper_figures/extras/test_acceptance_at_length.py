"""Formulas against sums and products by fractions, a simulation, and the table of the page."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from paper_figures.extras import acceptance_at_length

PAGE = Path(__file__).resolve().parents[3] / "docs" / "evidence.md"
HEAD = "| tokens of a completion | all tokens are accepted"


@pytest.mark.parametrize("z", [Fraction(1, 2), Fraction(19, 20)])
@pytest.mark.parametrize("tokens", [1, 2, 9, 49])
def test_tokens_before_the_first_rejection_by_their_distribution(z, tokens):
    """The sum over n of n * P(the first rejection comes after n tokens)."""
    expected = sum((n * z**n * (1 - z) for n in range(tokens)), tokens * z**tokens)
    found = acceptance_at_length.tokens_before_rejection(float(z), tokens)
    assert found == pytest.approx(float(expected), rel=1e-12)
    assert acceptance_at_length.all_accepted(float(z), tokens) == pytest.approx(float(z**tokens))


def test_the_effective_share_is_that_of_normal_log_weights():
    """Samples of a completion's log weight, -KL + sd * normal with sd^2 = 2 KL, by hand."""
    kl, tokens = 0.02, 10
    normal = np.random.default_rng(0).standard_normal(400_000)
    weights = np.exp(-kl * tokens + np.sqrt(2 * kl * tokens) * normal)
    share = weights.sum() ** 2 / (weights**2).sum() / weights.size
    assert acceptance_at_length.effective_share(kl, tokens) == pytest.approx(share, rel=0.01)


def test_the_table_of_the_page_has_these_numbers():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(HEAD)) + 2
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([float(cell.replace(",", "")) for cell in line.strip("| ").split("|")])
    assert len(rows) == 5
    for tokens, every, before, kl, share in rows:
        assert every == pytest.approx(acceptance_at_length.all_accepted(0.95, tokens), rel=0.05)
        kept = acceptance_at_length.tokens_before_rejection(0.95, tokens)
        assert before == pytest.approx(kept, abs=0.05)
        assert kl == pytest.approx(0.1 * tokens)
        found = acceptance_at_length.effective_share(0.1, tokens)
        assert np.log(share) == pytest.approx(np.log(found), abs=0.35)  # one digit is shown


def test_the_picture_draws_every_rate_and_kl():
    figure = acceptance_at_length.picture()
    left, right = figure.axes
    assert len(left.lines) == len(acceptance_at_length.RATES) + 1
    assert len(right.lines) == len(acceptance_at_length.KLS)
    x, y = left.lines[1].get_data()
    assert y[list(x).index(9)] == pytest.approx(7.0, abs=0.05)  # 95 %, as the page says
    acceptance_at_length.plots.plt().close(figure)
