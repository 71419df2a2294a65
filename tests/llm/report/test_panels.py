"""What a report draws, what it says in a line, and what share a panel."""

from llm.report import panels


def rows_of(**metrics):
    return [
        {"step": i, **dict(zip(metrics, v, strict=True))}
        for i, v in enumerate(zip(*metrics.values(), strict=True))
    ]


def test_evaluation_sets_share_a_panel_for_each_kind_of_metric():
    """Also where there are more sets than lines can be told apart."""
    sets = [f"set_{i}" for i in range(8)]
    rows = rows_of(
        pass_rate=[0, 1], **{f"{m}_at_k_{s}": [0.1, 0.2] for m in ("mean", "pass") for s in sets}
    )
    first, *others = panels.panels_for(rows)
    assert "pass_rate" in first.series
    assert [len(p.series) for p in others] == [6, 2, 6, 2]
    assert others[0].series["mean_at_k_set_0"] == "set_0"
    assert "mean@k" in others[0].title and "pass@k" in others[2].title


def test_a_panel_in_which_nothing_moves_is_said_and_not_drawn():
    """NaN at every step is one value, and a curve that moves keeps the others of its panel."""
    nan = float("nan")
    rows = rows_of(
        kappa=[1, 1, 1], lam_mean=[nan] * 3, accept_rate=[0.1, 0.2, 0.1], z_mean=[0.5] * 3
    )
    drawn, constant = panels.divided(rows, panels.panels_for(rows))
    assert [list(p.series) for p in drawn] == [["accept_rate", "z_mean"]]
    assert constant["kappa"] == 1 and constant["lam_mean"] != constant["lam_mean"]
    assert len(constant) == 2


def test_metrics_of_other_names_are_drawn_up_to_a_number():
    rows = rows_of(pass_rate=[0, 1], **{f"odd_{i}": [0, i + 1] for i in range(400)})
    drawn, _ = panels.divided(rows, panels.panels_for(rows))
    assert len(drawn) == 1 + panels.OTHERS_MAX


def test_a_name_is_one_short_line():
    assert panels.shown("a\n\x07b") == "a\ufffd\ufffdb"
    assert len(panels.shown("x" * 10_000)) == panels.NAME_MAX
    assert panels.shown("a$_b$\\") == "a$_b$\\"
