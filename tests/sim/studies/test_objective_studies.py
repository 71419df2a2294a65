"""The table and the picture of corrections and objectives."""

from __future__ import annotations

import math

import pytest

from sim.studies import objective_studies as study
from sim.worlds.trees import make_tree

NAMES = [e.name for e in study.all_estimators(3)]


def test_every_objective_and_correction_stands_in_the_table_once():
    rows = study.by_mismatch(make_tree(3, 2), [0], (0.3,))
    assert [row["estimator"] for row in rows] == NAMES and len(set(NAMES)) == len(NAMES) > 35
    of = {row["estimator"]: row for row in rows}
    assert of["sequence importance"]["bias"] < 1e-12
    assert of["gspo (inf)"]["group"] == "around the actor, p_inf"
    kinds = {e.objective for e in study.objective_estimators(1)}
    assert kinds == {
        *("ppo", "cispo", "gspo", "dppo", "minpro", "bapo", "m2po"),
        *("a_star_po", "dmpo", "alpha_dpo"),
    }
    # no dmpo estimate of p* is far from the direction of the gradient, and none has its length
    assert of["dmpo, neg"]["cosine"] > 0.9 and of["dmpo, neg"]["bias"] > 1
    assert study.WORLDS >= 50 and study.HORIZONS == (3, 4, 5, 6, 7, 8)


def test_the_summary_has_means_and_intervals():
    """95%: 1.96 standard errors, by hand; of the noise the median, which inf does not spoil."""
    base = {"vocab": 3, "horizon": 2, "kl": 0.1, "group": "g", "estimator": "e"}
    values = [0.1, 0.3, 0.8]
    rows = [
        {**base, "seed": i, **dict.fromkeys(study.COLUMNS, x), "noise": 5.0 if i else math.inf}
        for i, x in enumerate(values)
    ]
    (line,) = study.summary(rows)
    sd = math.sqrt(sum((x - 0.4) ** 2 for x in values) / 2)
    assert line["worlds"] == 3 and line["cosine"] == pytest.approx(0.4)
    assert line["bias_half"] == pytest.approx(1.96 * sd / math.sqrt(3))
    assert line["noise_median"] == 5.0 and "noise" not in line
    assert math.isnan(study.interval([1.0])[1])
