"""What an acceptance rate, or a KL, of each token means for a whole completion.

Formulas and no runs. The acceptance rate and the KL are the same at every token, and tokens are
independent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paper_figures.drawing import plots, style

NAME = "evidence_acceptance"
TOKENS_MAX = 1000
RATES = {0.99: (style.GREEN, ":"), 0.95: (style.VERMILION, "-"), 0.9: (style.BLUE, "--")}
KLS = {0.001: (style.GREEN, ":"), 0.01: (style.BLUE, "--"), 0.1: (style.VERMILION, "-")}
SHARE_MIN = 1e-4  # where the axis of effective shares ends


def all_accepted(z: float, tokens: ArrayLike) -> NDArray[np.float64]:
    """Probability that every one of so many tokens is accepted, at the acceptance rate z of one."""
    return z ** np.asarray(tokens, dtype=np.float64)


def tokens_before_rejection(z: float, tokens: ArrayLike) -> NDArray[np.float64]:
    """Expected number of tokens before the first rejection, in completions of so many tokens:
    z + z^2 + ... + z^tokens. z: acceptance rate of a token, below 1."""
    return z * (1 - all_accepted(z, tokens)) / (1 - z)


def effective_share(kl: float, tokens: ArrayLike) -> NDArray[np.float64]:
    """Effective sample size over number of completions, exp(-2 KL), if each has its own weight.

    The log weight of a completion is normal and nothing is truncated. The KL of the completion,
    kl * tokens nats, is then half the variance of the log weight. kl: nats a token.
    """
    return np.exp(-2 * kl * np.asarray(tokens, dtype=np.float64))


def picture() -> Any:
    """Left the tokens before the first rejection against length, right the effective share."""
    plt = plots.plt()
    tokens = np.arange(1, TOKENS_MAX + 1)
    with plt.rc_context(style.RC):
        fig, (left, right) = plt.subplots(
            1, 2, figsize=(style.TEXT_WIDTH, 2.2), layout="constrained"
        )
        for z, (colour, line) in RATES.items():
            label = f"{z:.0%} of tokens are accepted"
            kept = tokens_before_rejection(z, tokens)
            left.plot(tokens, kept, color=colour, linestyle=line, label=label)
        left.plot(tokens, tokens, color=style.GREY, linewidth=0.6, label="all tokens")
        for kl, (colour, line) in KLS.items():
            share = effective_share(kl, tokens)
            right.plot(tokens, share, color=colour, linestyle=line, label=f"{kl:g} nats a token")
        for ax in (left, right):
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_xlabel("tokens of a completion")
        left.set_ylim(0.8, TOKENS_MAX)
        right.set_ylim(SHARE_MIN, 1.2)
        left.legend()
        right.legend(loc="lower left")
        style.panel_title(left, "a", "tokens before the first rejection")
        style.panel_title(right, "b", "effective share of whole completions")
    return fig
