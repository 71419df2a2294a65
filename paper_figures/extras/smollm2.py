"""Beyond the paper (d): SmolLM2-135M trained from the rollouts of its own int8 copy."""

from __future__ import annotations

from pathlib import Path

from paper_figures import figure as command
from paper_figures.analysis import run_statistics
from paper_figures.drawing import plots, style
from paper_figures.experiments.configurations import SMOLLM2, RunSpec, run
from paper_figures.experiments.run_lists import Scale
from paper_figures.experiments.run_store import ROOT

MODEL = ROOT / "runs" / "smollm2" / "model"
MISSING = "SmolLM2 is not here, so its figure was left out; get it by python -m llm fetch smollm2\n"


def runs(scale: Scale) -> list[RunSpec]:
    """One run of one seed, and none at a scale of less than all or without the model."""
    return [run(SMOLLM2, "jackpot", scale.seeds[0])] if scale.length == 1 and MODEL.is_dir() else []


def figure(scale: Scale, out: Path) -> str:
    own = runs(scale)
    if not own:
        return MISSING if not MODEL.is_dir() else ""
    plt = plots.plt()
    with plt.rc_context(style.RC):
        fig, axes = plt.subplots(1, 2, figsize=(style.TEXT_WIDTH, 2.2), layout="constrained")
        colour = style.METHOD_COLOURS["jackpot"]
        for column, label, line in (
            ("reward_mean", "rollouts", ":"),
            ("pass_rate", "held out", "-"),
        ):
            axes[0].plot(
                *run_statistics.curve(own[0], column), color=colour, linestyle=line, label=label
            )
        axes[0].set(xlabel="step", ylabel="share of right answers", ylim=(0, 1))
        axes[0].legend()
        axes[1].plot(*run_statistics.curve(own[0], "accept_rate"), color=colour)
        axes[1].set(xlabel="step", ylabel="share of tokens accepted")
        style.panel_title(axes[0], "a", "SmolLM2-135M, sums of one-digit numbers")
        style.panel_title(axes[1], "b", "against its own int8 copy")
        plots.save(fig, out, "beyond_smollm2")
    columns = ("reward_mean", "pass_rate", "accept_rate", "kl_policy_actor")
    run_statistics.write_csv(out / "beyond_smollm2.csv", run_statistics.plotted(own, columns))
    first, last = (run_statistics.curve(own[0], "pass_rate")[1][i] for i in (0, -1))
    accepted = run_statistics.curve(own[0], "accept_rate")[1]
    start = run_statistics.curve(own[0], "kl_policy_actor")[1][0]
    seconds = run_statistics.seconds_rollout(own[0]) + run_statistics.seconds_update(own[0])
    return (
        f"SmolLM2: pass rate {first:.2f} -> {last:.2f} on 16 prompts, one seed; "
        f"{accepted.min():.3f} to {accepted.max():.3f} of the tokens accepted, KL at the start "
        f"{start:.4f} nats, {seconds:.0f} s a step\n"
    )


FIGURE = command.Figure("beyond_smollm2", "a real model and its int8 copy", runs, figure)
