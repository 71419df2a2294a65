"""`python tests/fig_smoke.py OUT`: `paper_figures all`, everything of it, with models of no use.

Every world keeps its task and its methods; models, warm-ups and steps are as few as they can be.
JACKPOT_FIGURE_RUNS says where the runs go.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from paper_figures import command, everything, pool, smollm2, worlds
from paper_figures.studies import Scale

SMOKE = Scale("smoke", (11,), (11,), 0.02)
TINY = {
    **{"policy.layers": 1, "policy.width": 16, "actor.layers": 1, "actor.width": 16},
    **{"warmup.policy_steps": 4, "warmup.actor_steps": 4, "warmup.batch_size": 4},
    **{"rollout.prompts_per_step": 2, "rollout.rollouts_per_prompt": 4, "run.eval_prompts": 8},
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, world in worlds.WORLDS.items():
        if name != smollm2.WORLD:
            worlds.WORLDS[name] = world | TINY
    command.QUICK = SMOKE  # type: ignore[misc]
    pool.ProcessPoolExecutor = lambda n, context, **_: ThreadPoolExecutor(1)  # type: ignore[misc,assignment]
    sys.exit(everything.main(["--quick", "--out", sys.argv[1]]))
