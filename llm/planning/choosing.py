"""Which setting the evidence speaks for: the table of docs/choosing.md, and the line that fits.

The evidence is of small models on running sums. Where it is of completions of nine tokens alone, or
there is none, the line says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from llm.settings.loading import Config
from llm.settings.validation import is_lossless

PAGE = "docs/choosing.md"
SHORT, MIDDLE = (
    16,
    97,
)  # tokens a completion: up to these the studies of 9 and of 11 to 97 are taken


class Situation(NamedTuple):
    """A line of the table.

    when: the situation; mismatch: KL of policy and actor in the runs of the evidence; use: the
    settings; presets: files of llm/configs/ that set them, read after the main configuration;
    evidence: with 95 % intervals; sources: (words, link from docs/) of it; limits: what it does not
    say; fits: whether a configuration is in the situation.
    """

    id: str
    when: str
    mismatch: str
    use: str
    presets: tuple[str, ...]
    evidence: str
    sources: tuple[tuple[str, str], ...]
    limits: str
    fits: Callable[[Config], bool]


class Advice(NamedTuple):
    """A setting that does not depend on the situation."""

    setting: str
    use: str
    evidence: str
    sources: tuple[tuple[str, str], ...]
    limits: str


_EVIDENCE_9 = ("drafted rollouts at nine tokens", "evidence.md#drafted-rollouts-at-nine-tokens")
_DRAFTED_49 = ("drafted rollouts at 49 tokens", "evidence.md#drafted-rollouts-at-49-tokens")
_EVIDENCE_49 = ("sums of 48 digits", "evidence.md#results-with-sums-of-48-digits")
_FINAL = (
    "10 to 96 sums",
    "evidence.md#results-with-10-to-96-sums-of-which-the-last-two-are-scored",
)
_FORMS = ("2,048 ids", "evidence.md#results-with-2048-ids")
_STALE = ("stale rollouts at 49 tokens", "evidence.md#do-stale-rollouts-need-a-clip-at-49-tokens")
_RIVALS = ("rivals at 49 tokens", "rivals.md#results")
_FIVE = (
    "five rivals",
    "evidence.md#do-the-five-best-rivals-learn-more-than-tis",
)
_REAL = ("a real model", "evidence.md#a-real-model")
_CLAIMS = ("the claims", "../paper_figures/README.md#what-the-claims-say")
_AGAIN = ("the claims again", "evidence.md#the-papers-claims-again")
_OURS = ("rejection on prefixes", "../paper_figures/README.md#ours-rejection-on-prefixes")
_BEYOND = ("beyond the paper", "../paper_figures/README.md#beyond-the-paper")
_SWEEPS = ("sweeps", "../paper_figures/README.md#choices-and-the-seeds-they-were-made-on")
_DRAFTING = ("drafted rollouts, measured", "drafting.md#measured")
_PREFIXES = ("estimators, C6", "theory_estimators.md")


def _drafted(cfg: Config) -> bool:
    return cfg.rollout.mode.type == "drafted"


def _copy(cfg: Config) -> bool:
    return cfg.actor.type in ("quantized", "early_exit", "noisy", "stale")


def _far_copy(cfg: Config) -> bool:
    a = cfg.actor
    return a.type == "early_exit" or (a.type == "quantized" and a.bits == 4)


def _own_old(cfg: Config) -> bool:
    """Completions of the policy itself, from before its last updates."""
    old = cfg.loss.updates_per_rollout > 1 or cfg.rollout.max_staleness > 0
    return cfg.actor.type == "self" and old


# In this order; the first that fits is the line of a configuration, and the last fits every one.
SITUATIONS: tuple[Situation, ...] = (
    Situation(
        "drafted-lossless",
        "the actor drafts, and the policy verifies with lam = 1",
        "KL(policy, actor) 0.06 to 0.3 nats a token at the end; completions follow the policy",
        "`rollout.mode.type = drafted`, `correction.type = none`; the actor may be frozen",
        ("drafted.toml",),
        "Mean pass rate less that of on-policy at nine tokens and three learning rates: +0.004 "
        "[-0.003, +0.012], +0.009 [-0.003, +0.020], +0.008 [-0.035, +0.051]; at 49 tokens and two: "
        "+0.002 [-0.015, +0.019], +0.007 [-0.019, +0.032]. None is settled; 0.014 to 0.082 could "
        "be shown. Jackpot with a trained actor: -0.026, -0.115, -0.477; -0.059, -0.305, all "
        "worse. Eight seeds each. That the samples are the policy's is proved.",
        (_EVIDENCE_9, _DRAFTED_49),
        "Running sums only. It need not be faster: the rollout took 0.72 to 1.84 of the seconds of "
        "decoding with the policy.",
        is_lossless,
    ),
    Situation(
        "drafted-lenient",
        "the actor drafts, and the policy verifies with lam below 1 or a lam for each state",
        "0.06 to 0.3 nats a token at the end; p / s between lam and mu at every token",
        "lam of 0.5 or more, `correction.type = importance`",
        ("drafted_half.toml",),
        "Less on-policy at nine tokens and three learning rates: lam = 0.5 +0.013 [+0.005, "
        "+0.021], better; +0.010 [-0.004, +0.023] and +0.004 [-0.025, +0.033], not settled; "
        "lam = 0.25 +0.003 [-0.012, +0.018], +0.001 [-0.019, +0.021], -0.041 [-0.086, +0.004], not "
        "settled. At 49 tokens and two rates: lam = 0.5 -0.011 [-0.024, +0.003], -0.031 [-0.069, "
        "+0.006], lam = 0.25 -0.029 [-0.053, -0.005], -0.153 [-0.286, -0.019], not settled; 0.026 "
        "to 0.256 could be shown. Eight seeds.",
        (_EVIDENCE_9, _DRAFTED_49),
        "Running sums and a frozen actor only. No gain over lam = 1 is shown: no such comparison "
        "was fixed. Nothing explains why lam = 0.5 learns more than on-policy at one rate of five.",
        _drafted,
    ),
    Situation(
        "stale",
        "the policy samples for itself, with several updates on a rollout or ahead of the updates",
        "grows with the updates",
        "few updates per rollout; `objective.type = ppo` with its clip; any correction",
        ("stale.toml",),
        "On-policy less 128 updates with the clip: 0.088 [0.073, 0.116] in mean pass "
        "rate, reproduced; at 49 tokens +0.122 [+0.104, +0.140], and of 64 updates +0.108 [+0.084, "
        "+0.132], both reproduced. At 49 tokens and 16 updates no difference of an objective from "
        "TIS is settled; 0.10 to 0.51 could be shown. The clip less none in mean pass rate: at 64 "
        "updates +0.058 [-0.034, +0.150], at 128 -0.039 [-0.078, +0.000]; not settled, 0.162 and "
        "0.069 could be shown. That training without the clip crashes is contradicted at 128 "
        "updates: +0.008 [-0.141, +0.157] in last pass rate.",
        (_CLAIMS, _AGAIN, _RIVALS, _STALE),
        "The clip is customary; no gain by it is settled. Three seeds; five in the differences at"
        " 49 tokens with 64 and 128 updates. Training without the clip is not shown to crash at "
        "64 updates. It ended 0.224 [0.090, 0.357] lower than with it there, a single interval. "
        "Rollouts ahead of the updates were not run.",
        _own_old,
    ),
    Situation(
        "on-policy",
        "the policy samples for itself, one update per rollout",
        "none",
        "`correction.type = none`",
        ("controls/on_policy.toml",),
        "p = q, so every weight is 1: exact. TIS with a trained actor learns less, mean pass "
        "rate: at nine tokens and three learning rates -0.027 [-0.045, -0.010], -0.107 [-0.152, "
        "-0.062], -0.437 [-0.510, -0.363], worse. At 49 tokens on-policy less TIS: +0.120 "
        "[+0.095, +0.145], better; at 11 to 97 tokens +0.110 [+0.078, +0.141], better; with 2,048 "
        "ids +0.065 [+0.051, +0.079], better. Eight seeds each.",
        (_EVIDENCE_9, _EVIDENCE_49, _FINAL, _FORMS),
        "Running sums only. At 49 and at 11 to 97 tokens on-policy has twice the rate of TIS, so "
        "method and rate stand together. It costs the policy's own decoding.",
        lambda cfg: cfg.actor.type == "self",
    ),
    Situation(
        "far-copy",
        "a copy of the policy with 4-bit weights, or its first layers, samples",
        "SmolLM2: 0.9 nats a token (4-bit) and 2.7 (29 of 30 layers)",
        "let it draft: `rollout.mode.type = drafted`, `correction.type = none`",
        ("drafted.toml",),
        "SmolLM2, final pass rate less on-policy's, three seeds: early exit with TIS or Jackpot "
        "-0.622 [-0.681, -0.562], worse, and drafted +0.038 [+0.006, +0.071]; 4-bit with TIS "
        "-0.155 [-0.351, +0.042], with Jackpot -0.257 [-0.357, -0.156], and drafted +0.016 "
        "[-0.063, +0.094]. All but the first are not settled; 0.109 to 0.658 could be shown.",
        (_REAL,),
        "One-digit sums, one learning rate, 20 steps. Drafting by these actors need not be faster "
        "than decoding with the policy: nobody measured it.",
        _far_copy,
    ),
    Situation(
        "near-copy",
        "a copy of the policy samples: int8, noisy or older",
        "1e-5 nats a token (int8, our models) to 0.006 (int8, SmolLM2)",
        "`correction.type = tis`",
        ("controls/tis.toml",),
        "int8: Jackpot less no correction 0.013 [0.005, 0.028] and less TIS 0.021 [0.014, 0.024] "
        "in final pass rate at nine tokens. Within 0.03 is not settled by Student's t; three "
        "seeds. At 49 tokens and two updates +0.008 [-0.002, +0.019] and +0.007 [-0.003, +0.017], "
        "both within 0.03, reproduced; five seeds. SmolLM2, less "
        "on-policy's: TIS -0.007 [-0.090, +0.076], Jackpot -0.007 [-0.059, +0.045]; not settled, "
        "0.279 and 0.175 could be shown.",
        (_CLAIMS, _AGAIN, _REAL),
        "Only int8 was trained with, at 9, 12 and 49 tokens. That a correction is needed there is "
        "not shown. TIS is proposed because it costs next to nothing and has no rejected tokens. "
        "Noise and older copies were not compared.",
        _copy,
    ),
    Situation(
        "frozen-actor",
        "another model samples and is not trained",
        "0.06 to 0.7 nats a token at the end; it grows as the policy learns",
        "train the actor (`actor.type = separate`, distilled), or draft",
        ("drafted.toml",),
        "The last KL of TIS with a fixed actor is 0.464 [0.310, 0.751] nats a token above that of "
        "Jackpot with a trained one; reproduced. Its final pass rate is 0.232 [0.101, 0.396] "
        "below; not settled by Student's t, five seeds. At 49 tokens, mean pass rate less that of "
        "TIS with a trained actor, eight seeds: TIS -0.122 [-0.173, -0.072], worse; drafted "
        "+0.112 [+0.084, +0.139], better. At 11 to 97 tokens: -0.119 [-0.159, -0.079], worse; "
        "+0.086 [+0.053, +0.119], better. With 2,048 ids: -0.081 [-0.133, -0.030], worse; +0.106 "
        "[+0.093, +0.119], better.",
        (_CLAIMS, _EVIDENCE_49, _FINAL, _FORMS),
        "Method and rate stand together: each runs at the rate of its own sweep, TIS with a fixed "
        "actor at half or twice that with a trained one. With an actor nearly as large as the "
        "policy, TIS with a fixed actor was not seen to end lower (three seeds, nine tokens).",
        lambda cfg: cfg.actor.type == "frozen",
    ),
    Situation(
        "trained-short",
        f"another model samples and is trained; completions of at most {SHORT} tokens",
        "prefixes: 0.03 to 0.25 nats a token at the end, more at higher rates",
        "`correction.scope = prefix` with the expected mask; the actor distilled, without PPO",
        ("prefixes.toml",),
        "Mean pass rate less that of on-policy at rates of 4e-4, 8e-4 and 1.6e-3: prefixes -0.003 "
        "[-0.013, +0.008] and -0.019 [-0.037, -0.001], not settled, and -0.140 [-0.211, -0.069], "
        "worse; Jackpot -0.026, -0.115, -0.477 and TIS -0.027, -0.107, -0.437, all worse. At 8e-4 "
        "the lowest late pass rate of prefixes less that of TIS is +0.172 [+0.093, +0.251]. Eight "
        "seeds each.",
        (_EVIDENCE_9, _OURS),
        "Nine tokens and one task only. No gain over TIS on prefixes is shown.",
        lambda cfg: cfg.actor.type == "separate" and cfg.rollout.max_new_tokens <= SHORT,
    ),
    Situation(
        "trained-middle",
        f"another model samples and is trained; completions of {SHORT + 1} to {MIDDLE} tokens",
        "0.01 to 0.16 nats a token at the end",
        "`correction.scope = prefix` with the expected mask; the actor distilled, without PPO",
        ("prefixes.toml",),
        "Mean pass rate of prefixes less that of TIS: at one constant rate for both +0.053 "
        "[+0.022, +0.085] (4e-4) and +0.289 [+0.201, +0.376] (8e-4), each a single interval of a "
        "comparison that was not fixed before; with a falling rate, each at its own, +0.083 "
        "[+0.061, +0.106], better; at 11 to 97 tokens and one rate +0.056 [+0.042, +0.070], "
        "better; with 2,048 ids, each at its own, +0.028 [+0.012, +0.044], better. Jackpot on "
        "tokens in these three: -0.021 [-0.036, -0.005], worse; -0.018 [-0.059, +0.024], not "
        "settled; +0.001 [-0.013, +0.015], not settled. Eight seeds each.",
        (_DRAFTED_49, _EVIDENCE_49, _FINAL, _FORMS, _RIVALS, _FIVE),
        "Running sums alone, of 11 to 97 tokens. In another study, each method at the rate of its "
        "own sweep and five seeds, no difference of seventeen corrections and objectives with a "
        "distilled actor from TIS was settled after Holm's adjustment. TIS on prefixes less TIS in "
        "the three worlds, five seeds each: +0.082 [+0.030, +0.134], better, and +0.037 [+0.007, "
        "+0.068], not settled, at twice the rate of TIS; +0.066 [+0.044, +0.088], better, at one "
        "rate for both. No gain of rejection on prefixes over TIS on prefixes is shown.",
        lambda cfg: cfg.actor.type == "separate" and cfg.rollout.max_new_tokens <= MIDDLE,
    ),
    Situation(
        "trained-long",
        f"another model samples and is trained; completions of more than {MIDDLE} tokens",
        "not measured",
        "`correction.type = tis`, whose weights are of single tokens; the actor distilled",
        ("controls/tis.toml",),
        "No run. Rejection on prefixes keeps about the acceptance rate to the power t at position "
        "t: 37 % of the hundredth token at 99 %.",
        (_PREFIXES,),
        "Nothing is known here. Watch KL and pass rate (`alarm`), and compare with "
        "`controls/on_policy.toml`.",
        lambda cfg: True,
    ),
)

ADVICE: tuple[Advice, ...] = (
    Advice(
        "actor losses",
        "distil (`actor.distill.coef = 1`); PPO of the actor is optional",
        "Jackpot without distillation: -0.034 [-0.062, -0.021] in mean pass rate. Without PPO of "
        "the actor no effect was seen.",
        (_BEYOND,),
        "Nine tokens, three seeds, the bootstrap's interval alone.",
    ),
    Advice(
        "cost of the actor's pass over the policy's",
        "look for a saving only where decoding dominates the step",
        "Time of on-policy over Jackpot's to 80 % of the way: 1.23 [1.10, 1.32] for a policy of 8 "
        "layers and 17 tokens, not settled by Student's t (three seeds); 0.51 [0.40, 0.76] for 2 "
        "layers and 9 tokens (five seeds): it costs more. For 8 layers and 49 tokens Jackpot did "
        "not come so far on two of five seeds, though its rollout took 0.172 [0.163, 0.181] of the "
        "time.",
        (_BEYOND, _AGAIN),
        "On CPUs. `python -m llm plan` predicts times for others.",
    ),
    Advice(
        "drafting",
        "where Z is high, the actor's pass costs a fifth of the policy's or less, and batches are "
        "small",
        "Seconds over those of decoding with the policy, batch 8: 0.75 at Z = 0.98, 0.84 at 0.93, "
        "1.15 at 0.78, 1.84 at 0.49. Decoding with the actor alone is 2 to 9 times faster than "
        "drafting.",
        (_DRAFTING,),
        "Random weights on one CPU; five turns each. Nothing was measured on a GPU.",
    ),
    Advice(
        "learning rate",
        "sweep it for each method, on seeds that are not judged",
        "Of 1e-4, 2e-4 and 4e-4, the highest was best for all methods at nine tokens, but for "
        "those with a fixed actor (2e-4). At 49 tokens the best differed by method. At 8e-4 pairs "
        "with a trained actor were unsteady.",
        (_SWEEPS,),
        "Models of 3e3 to 3e5 weights. Rates of other models differ; 1e-6 in the presets of Qwen "
        "is customary and not tested here.",
    ),
)


def fitting(cfg: Config) -> Situation:
    """The line of the table for a configuration."""
    return next(situation for situation in SITUATIONS if situation.fits(cfg))


def sentence(situation: Situation) -> str:
    """The line in plain text, for a terminal."""
    presets = "".join(f", llm/configs/{p}" for p in situation.presets)
    use = situation.use.replace("`", "") + presets
    evidence, limits = situation.evidence, situation.limits.replace("`", "")
    return f"{situation.when}: use {use}. Evidence: {evidence} Limits: {limits} See {PAGE}"


def tables() -> str:
    """The two tables of the page, as Markdown; presets and sources are links from docs/."""
    head = ("situation", "KL in the runs", "use", "evidence [95 % interval]", "limits")
    rows = [(c.when, c.mismatch, c.use + _presets(c), _evidence(c), c.limits) for c in SITUATIONS]
    more = [(a.setting, a.use, _evidence(a), a.limits) for a in ADVICE]
    return f"{_markdown(head, rows)}\n{_markdown(('setting', *head[2:]), more)}"


def _presets(situation: Situation) -> str:
    links = [f"[{p}](../llm/configs/{p})" for p in situation.presets]
    return f" ({', '.join(links)})" if links else ""


def _evidence(line: Situation | Advice) -> str:
    links = ", ".join(f"[{words}]({link})" for words, link in line.sources)
    return f"{line.evidence} ({links})"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
