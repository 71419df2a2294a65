"""`python tests/support/figure_smoke.py OUT`: `prefix_rejection` and `all` with models of no use.

Every world keeps its task and its methods; models, pretraining, steps, digits and held-out problems
are as few as they can be, pixels too.
JACKPOT_FIGURE_RUNS says where the runs go.
"""

from __future__ import annotations

import functools
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from matplotlib.figure import Figure

from paper_figures import figure
from paper_figures.claims import verdicts
from paper_figures.drawing import style
from paper_figures.experiments import configurations, kept_rows, run_lists, run_store, runner
from paper_figures.experiments.configurations import RunSpec, Settings
from paper_figures.experiments.run_lists import Scale
from paper_figures.extras import prefix_rejection
from paper_figures.figures import fig1
from paper_figures.report import everything
from paper_figures.tables import table1
from sim.studies import sweep

SMOKE = Scale("smoke", (11,), (11,), 0.02)
TINY = {
    **{"policy.layers": 1, "policy.width": 16, "actor.layers": 1, "actor.width": 16},
    **{"pretrain.policy_steps": 4, "pretrain.actor_steps": 4, "pretrain.batch_size": 4},
    **{"rollout.prompts_per_step": 2, "rollout.rollouts_per_prompt": 2, "run.eval_prompts": 2},
}
SHORT = {"task.digits_min": 2, "task.digits_max": 2, "rollout.max_new_tokens": 3}


def fewer_updates(run: RunSpec) -> list[Settings]:
    """As it is, but an eighth of the updates of a stale rollout batch, evaluated as often."""
    world, own = configurations.layers(run)
    updates = own.get("loss.updates_per_rollout", 1)
    if updates >= 16:
        own |= dict.fromkeys(("loss.updates_per_rollout", "rollout.prompts_per_step"), updates // 8)
        own |= {"run.eval_updates": 2} if "run.eval_updates" in own else {}
    return [world, own]


def never(*_: object) -> None:
    raise AssertionError("trained or evaluated again")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, world in configurations.WORLDS.items():
        if name != configurations.SMOLLM2:
            lengths = {} if name == "chain lengths" else SHORT  # that one is tested on 4 to 8
            configurations.WORLDS[name] = world | TINY | lengths
    run_lists.STALE_PROMPTS, run_store.layers = 1, fewer_updates
    run_lists.TABLE1 = ("on-policy", "tis+kl", "jackpot")  # type: ignore[assignment]
    # the layout is not looked at here; tests/paper_figures/figures look at it
    Figure.get_layout_engine = lambda self: None  # type: ignore[method-assign]
    style.RC |= {"savefig.dpi": 50, "pdf.fonttype": 3}
    runner.Evaluation.__new__.__defaults__ = (16, 4)  # prompts, samples
    figure.QUICK = SMOKE
    few = functools.cache(lambda name, seed: sweep.sweep(seed, True, (name,)))
    verdicts._family = few
    runner.ProcessPoolExecutor = lambda n, context, **_: ThreadPoolExecutor(1)  # type: ignore[misc,assignment]
    kept_rows.HERE = Path(sys.argv[1]) / "no kept rows"  # those kept are of the world as it is
    options = ["--quick", "--out", sys.argv[1]]
    code = prefix_rejection.main(options) or everything.main(options)
    runner._train_one = runner._evaluate_run = never  # type: ignore[assignment]
    for module in (table1, fig1):  # drawn once is enough
        module.FIGURE = module.FIGURE._replace(draw=lambda *_: "")  # type: ignore[attr-defined]
    sys.exit(code or table1.main(options) or fig1.main(options))
