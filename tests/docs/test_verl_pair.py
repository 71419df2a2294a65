"""The example of docs/verl_pair.md is run as it stands, in verl's environment: `make test-verl`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import jackpot.torch as jt

pytestmark = pytest.mark.verl

ROOT = Path(__file__).parents[2]


def run(steps: int, top_k: int = 4) -> dict:
    page = (ROOT / "docs/verl_pair.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, re.S)
    changes = {"range(80)": f"range({steps})", "T, K = 8, 32, 5, 4": f"T, K = 8, 32, 5, {top_k}"}
    for old, new in changes.items():
        assert source.count(old) == 1
        source = source.replace(old, new)
    names: dict = {}
    torch.manual_seed(0)
    exec(compile(source, "verl_pair.md", "exec"), names)
    return names


def test_the_pair_learns_through_verls_losses():
    first, last = run(1), run(80)
    assert last["reward"].mean() > first["reward"].mean() + 0.4
    kl = "jackpot/kl_target_inf_est"
    assert last["metrics"][kl].aggregate() < 0.5 * first["metrics"][kl].aggregate()
    assert "jackpot/hook_calls" in last["metrics"]


def test_the_actors_loss_is_that_of_jackpot_torch():
    """With all tokens among the top k, verl's divergence is the whole KL."""
    names = run(1, top_k=8)
    _, _, data = names["prepared"]()
    got, _ = names["actor_loss"](data)
    mask, ids = data["response_mask"].bool(), torch.cat([data["prompts"], data["responses"]], 1)
    log_p, log_q = (names[m](ids[:, :-1]).log_softmax(-1) for m in ("policy", "actor"))
    logp = log_q.gather(-1, ids[:, 1:, None])[..., 0]
    n = int(mask.sum())
    want = jt.actor_loss(logp, data["old_log_probs"], data["advantages"], mask, n)
    want = want + jt.distill_loss(log_p.detach(), log_q, mask, n)
    assert float(got.detach()) == pytest.approx(float(want.detach()), rel=1e-4, abs=1e-6)
    (g,) = torch.autograd.grad(got, names["actor"].weight)
    (w,) = torch.autograd.grad(want, names["actor"].weight)
    assert torch.allclose(g, w, atol=1e-6) and bool(g.any())
