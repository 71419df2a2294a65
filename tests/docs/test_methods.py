"""The examples of docs/methods.md are what the code computes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from optional import not_none

from jackpot.torch import objectives
from jackpot.torch.correction import CorrectionInputs, CorrectionState, token_weights
from jackpot.torch.objectives import ObjectiveTokens
from llm.settings.loading import resolve
from llm.settings.schema import Settings
from llm.settings.sections import all_keys
from llm.training.keywords import correction_keywords, objective_keywords

PAGE = (Path(__file__).resolve().parents[2] / "docs/methods.md").read_text(encoding="utf-8")
EXAMPLES = {
    name: (float(first), float(second))
    for name, first, second in re.findall(
        r"^\| ([a-z_0-9 ]+) \|[^|]*\| (-?[\d.]+) \| (-?[\d.]+) \|$", PAGE, re.M
    )
}
SECTIONS = {
    title: set(re.findall(r"^\| (?!name)([a-z_0-9 ]+) \|", text, re.M))
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
}
SETTINGS = {  # of each row: {name: value}, and the names that it gives no value
    cells[0]: re.findall(r"`([a-z_.]+)(?: = ([a-z_0-9]+))?`", cells[-1])
    for line in PAGE.splitlines()
    if len(cells := [cell.strip() for cell in line.split("|")[1:-1]]) == 8
    if cells[0] not in ("name", "---")
}
CORRECTIONS: dict[str, dict] = {
    "none": {},
    "importance": {},
    "tis": {"cap": 1.1},
    "icepop": {"low": 0.5, "high": 1.2},
    "jackpot": {"lam": 1.0, "z": "none"},
}
PPO = {"type": "ppo", "clip_low": 0.2, "clip_high": 0.2}
OBJECTIVES: dict[str, dict] = {
    "ppo": PPO,
    "cispo": {"type": "cispo", "clip_low": math.inf, "clip_high": 0.4},
    "gspo": {"type": "gspo", "clip_low": 0.2, "clip_high": 0.2},
    "dppo binary_tv": {"divergence": "binary_tv", "delta": 0.08},
    "dppo binary_kl": {"divergence": "binary_kl", "delta": 0.01},
    "dppo top_k_tv": {"divergence": "top_k_tv", "delta": 0.12},
    "dppo top_k_kl": {"divergence": "top_k_kl", "delta": 0.05},
    "minpro": {"type": "minpro", "ratio": "inf", "clip_low": 0.2, "clip_high": 0.28},
    "bapo": {"type": "bapo", "share": 0.65},
    "m2po": {"type": "m2po", "ratio": "inf", "tau": 0.02},
    "opsm": {**PPO, "opsm_delta": 0.1},
}


def logs(*values):
    return torch.tensor(values, dtype=torch.float64).log()


INF, REF = logs(0.5, 0.4), logs(0.4, 0.5)


@pytest.mark.parametrize("name", CORRECTIONS)
def test_a_corrections_example_is_what_the_code_computes(name):
    one = torch.ones(2)
    inputs = CorrectionInputs(
        *(INF, REF, REF, INF[:, None], REF[:, None]),
        in_topk=one > 0,
        uniform=0 * one,
        sequence=torch.zeros(2).long(),
    )
    weight = token_weights(inputs, CorrectionState(), type=name, **CORRECTIONS[name]).weight
    assert weight.tolist() == pytest.approx(EXAMPLES[name], abs=5e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objectives_example_is_what_the_code_computes(name):
    keywords = dict(OBJECTIVES[name])
    if "divergence" in keywords:
        keywords |= {"type": "dppo", "ratio": "inf", "cap": 20.0}
    advantage = {"bapo": [1.0, -1.0], "opsm": [-1.0, -1.0]}.get(name, [1.0, 1.0])
    tokens = ObjectiveTokens(
        logs(0.3 if name == "opsm" else 0.6, 0.45).requires_grad_(),
        *(REF, INF, torch.tensor(advantage), torch.zeros(2).long()),
        topk_logp_new=logs(0.6, 0.35)[:, None],
        topk_logp_inf=logs(0.5, 0.5)[:, None],
        in_topk=torch.tensor([True, False]),
    )
    one = torch.ones(2)
    if bounds := objectives.bounds_of(tokens, one, **keywords):
        keywords = {k: v for k, v in keywords.items() if k in ("type", "ratio")} | bounds
    if name == "bapo":
        assert bounds == pytest.approx({"low": 0.6, "high": 1.35})
    objectives.policy_loss_sum(tokens, one, one, **keywords).loss.backward()
    factor = -not_none(tokens.logp_new.grad) / tokens.advantage
    assert factor.tolist() == pytest.approx(EXAMPLES[name], abs=5e-5)


def test_every_row_has_an_example_and_every_example_a_row():
    assert SECTIONS["Corrections"] == set(CORRECTIONS)
    assert SECTIONS["Objectives"] == set(OBJECTIVES)
    assert set(EXAMPLES) == set(CORRECTIONS) | set(OBJECTIVES)


@pytest.mark.parametrize("name", CORRECTIONS)
def test_a_corrections_setting_loads_and_chooses_it(name):
    cfg = resolve({key: value for key, value in SETTINGS[name] if value})
    assert correction_keywords(cfg)["type"] == name
    assert {key for key, _ in SETTINGS[name]} <= set(all_keys(Settings))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objectives_setting_loads_and_chooses_it(name):
    """With two updates per rollout and no correction, so that nothing is refused."""
    chosen = {key: value for key, value in SETTINGS[name] if value}
    around = {"correction.type": "none", "loss.updates_per_rollout": 2}
    around |= {"loss.denominator": "sequence"} if name == "gspo" else {}
    cfg = resolve(around | chosen)
    keywords = objective_keywords(cfg)
    found = " ".join(str(keywords[key]) for key in ("type", "divergence") if key in keywords)
    assert found == ("ppo" if name == "opsm" else name)
    assert math.isfinite(keywords["opsm_delta"]) == (name == "opsm")
    assert {key for key, _ in SETTINGS[name]} <= set(all_keys(Settings))
