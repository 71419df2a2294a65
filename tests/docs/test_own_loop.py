"""The loop of docs/index.md is run as it stands: rewards rise and the actor nears the policy."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def test_the_loop_runs_and_learns():
    page = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, re.S)
    loop = source.split("\n\n", 1)[1]
    first: dict = {}
    torch.manual_seed(0)
    exec(compile(source.replace("range(80)", "range(1)"), "index.md", "exec"), first)
    torch.manual_seed(0)
    last: dict = {}
    exec(compile(source, "index.md", "exec"), last)
    assert "for step in range(80)" in loop
    assert len(loop.splitlines()) <= 21
    assert last["reward"].mean() > first["reward"].mean() + 0.4
    kl = "kl_target_inf_est"
    assert last["weights"].metrics[kl] < 0.25 * first["weights"].metrics[kl]


def test_every_setting_that_the_page_names_is_one():
    page = (ROOT / "docs/own_loop.md").read_text(encoding="utf-8")
    from jackpot.torch.corrector_settings import check_settings

    named = page.split("as plain keywords:")[1].split("One\n", 1)[0]
    names = re.findall(r"`(\w+)`", named)
    assert len(names) == 15
    for name in names:
        try:
            check_settings({name: "none" if name in ("type", "z") else "nonsense"})
        except ValueError:  # a value that does not fit, or no effect: it exists
            continue
