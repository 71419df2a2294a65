"""`python tests/fig_smoke.py OUT`: `paper_figures steadier` and `all` with models of no use.

Every world keeps its task and its methods; models, warm-ups and steps are as few as they can be.
JACKPOT_FIGURE_RUNS says where the runs go.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from paper_figures import (
    command,
    everything,
    fig1,
    pool,
    steadier,
    studies,
    table1,
    worlds,
)
from paper_figures.studies import Scale

SMOKE = Scale("smoke", (11,), (11,), 0.02)
TINY = {
    **{"policy.layers": 1, "policy.width": 16, "actor.layers": 1, "actor.width": 16},
    **{"warmup.policy_steps": 4, "warmup.actor_steps": 4, "warmup.batch_size": 4},
    **{"rollout.prompts_per_step": 2, "rollout.rollouts_per_prompt": 4, "run.eval_prompts": 8},
}


def never(*_: object) -> None:
    raise AssertionError("trained or evaluated again")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, world in worlds.WORLDS.items():
        if name != worlds.SMOLLM2:
            worlds.WORLDS[name] = world | TINY
    studies.TABLE1 = ("on-policy", "tis+kl", "jackpot")  # type: ignore[assignment]
    command.QUICK = SMOKE  # type: ignore[misc]
    pool.ProcessPoolExecutor = lambda n, context, **_: ThreadPoolExecutor(1)  # type: ignore[misc,assignment]
    options = ["--quick", "--out", sys.argv[1]]
    code = steadier.main(options) or everything.main(options)
    pool._train_one = pool._evaluate_run = never  # type: ignore[assignment]
    sys.exit(code or table1.main(options) or fig1.main(options))
