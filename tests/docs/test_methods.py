"""The examples of docs/methods.md are what the code computes."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from optional import not_none
from scipy.stats import beta as beta_distribution

from jackpot import allocation, selection
from jackpot.torch import objectives
from jackpot.torch.correction import CorrectionInputs, CorrectionState, token_weights
from jackpot.torch.objectives import ObjectiveTokens
from jackpot.torch.sequence_objectives import (
    GapStatistics,
    a_star_po,
    alpha_dpo,
    dmpo,
    optimal_value,
)
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
WHOLE_EXAMPLES = {
    cells[0]: [float(cell) for cell in cells[2:]]
    for line in PAGE.splitlines()
    if len(cells := [cell.strip() for cell in line.split("|")[1:-1]]) == 5
    if cells[0] not in ("name", "---")
}
SECTIONS = {
    title: set(re.findall(r"^\| (?!name)([a-z_0-9 -]*[a-z_0-9]) \|", text, re.M))
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


PRE_Y, INF_Y, NEW_Y = logs(0.2, 0.2, 0.1), logs(0.25, 0.25, 0.2), logs(0.3, 0.1, 0.1)
REWARD, ONE_PROMPT = torch.tensor([1.0, 0.0, 0.0]), torch.zeros(3).long()
PASS_RATES = np.array([0.5, 0.1, 0.8])
RANGE = {"low": 2, "high": 8}


def optimum(value):
    """The 12 rollouts, 2 to 8 for each of the three prompts, of the largest summed value."""
    counts = [c for c in itertools.product(range(2, 9), repeat=3) if sum(c) == 12]
    return max(counts, key=lambda c: sum(map(value, c, PASS_RATES.tolist())))


def of_a_star_po():
    value = torch.full((3,), optimal_value(torch.tensor([1.0, 0.0]), beta=1.0))
    return a_star_po(NEW_Y, PRE_Y, REWARD, value, beta=1.0).coefficient


def of_dmpo():
    return dmpo(NEW_Y, PRE_Y, INF_Y, REWARD, ONE_PROMPT, alpha=1.0, baseline="neg").coefficient


def of_alpha_dpo():
    batch = (NEW_Y, PRE_Y, torch.full((3,), 2), REWARD > 0, ONE_PROMPT, GapStatistics())
    return alpha_dpo(*batch, beta=2.5, gamma_beta_ratio=0.6, alpha=0.2, decay=0.0)[0].coefficient


def of_vip():
    assert optimum(lambda n, p: -4 * p * (1 - p) / (n - 1)) == (5, 3, 4)
    return allocation.vip(PASS_RATES, 12, **RANGE, estimator="rloo")


def of_coba():
    alpha = allocation.coba_alpha([0.7], concentration=11.0)
    tau = 3 + 9 * np.var(PASS_RATES) / 0.1667
    density = beta_distribution(1 + 9 * 0.7, 11 - 1 - 9 * 0.7).pdf
    assert optimum(lambda n, p: (1 - math.exp(-n * p * (1 - p) / tau)) * density(p)) == (3, 2, 7)
    return allocation.coba(PASS_RATES, 12, alpha, concentration=11.0, **RANGE)


def of_down_sampling():
    rewards = [0.6, 1.0, 0.0]
    pairs = itertools.combinations(range(3), 2)
    assert max(pairs, key=lambda pair: np.var(np.take(rewards, pair))) == (1, 2)
    return np.isin(range(3), selection.pods(rewards, keep=2, rule="max_variance"))


def of_pruning():
    """The coin is thrown until it keeps the candidate; dropped, its weight is 0."""
    weights = [
        selection.horvitz_thompson([0.1, 0.5, 0.6], 0.5, 1 / 3, np.random.default_rng(seed))[1]
        for seed in range(20)
    ]
    assert {tuple(w) for w in weights} == {(0.0, 1.0, 1.0), (2.0, 1.0, 1.0)}
    return max(weights, key=sum)


WHOLE = {
    "a_star_po": of_a_star_po,
    "dmpo": of_dmpo,
    "alpha_dpo": of_alpha_dpo,
    "uniform": lambda: allocation.uniform(3, 12),
    "vip": of_vip,
    "coba": of_coba,
    "down-sampling": of_down_sampling,
    "pruning": of_pruning,
}


@pytest.mark.parametrize("name", WHOLE)
def test_an_example_of_whole_completions_or_prompts_is_what_the_code_computes(name):
    assert [float(x) for x in WHOLE[name]()] == pytest.approx(WHOLE_EXAMPLES[name], abs=5e-5)


def test_every_row_of_whole_completions_or_prompts_has_an_example():
    sections = ("Objectives of whole completions", "Before and after sampling")
    assert set.union(*(SECTIONS[title] for title in sections)) == set(WHOLE)
    assert set(WHOLE_EXAMPLES) == set(WHOLE)


def test_the_settings_of_these_rows_exist():
    for title in ("Objectives of whole completions", "Before and after sampling"):
        section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
        keys = set(re.findall(r"`((?:task|rollout|loss|objective)\.[a-z_.]+)", section))
        assert keys and keys <= set(all_keys(Settings))
