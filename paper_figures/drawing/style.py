"""Fonts, sizes and colours of every figure. One colour per method, the same in all of them.

The colours are Okabe and Ito's eight, which colour-blind readers can tell apart; lines and markers
differ as well, so that no figure depends on colour alone.
"""

from __future__ import annotations

from typing import Any

TEXT_WIDTH = 6.9

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
WINE = "#882255"  # Tol's; dark, and apart from the eight in lightness
GREY = "#777777"

METHOD_COLOURS = {
    "on-policy": BLACK,
    "none": GREY,
    "tis": SKY,
    "tis+distill": BLUE,
    "icepop": ORANGE,
    "importance": PURPLE,
    "jackpot": VERMILION,
    "jackpot expected mask": GREEN,
    "jackpot on prefixes": WINE,
}

# method of worlds.METHODS: label, colour above, line
METHOD_LOOKS = {
    "on-policy": ("on-policy (large)", "on-policy", "-"),
    "on-policy small": ("on-policy (small)", "on-policy", ":"),
    "none": ("no alignment, actor fixed", "none", "-"),
    "none+ppo+kl": ("no correction, same actor losses", "none", "-."),
    "kl": ("only KL", "none", "--"),
    "tis": ("TIS, actor fixed", "tis", "-"),
    "tis+kl": ("TIS + KL", "tis", "--"),
    "tis+ppo+kl": ("TIS + the same actor losses", "tis+distill", "-"),
    "tis+ppo": ("TIS without KL", "tis", "-"),
    "areal+ppo+kl": ("AReaL + the same actor losses", "importance", "-"),
    "icepop+ppo+kl": ("IcePop + the same actor losses", "icepop", "-"),
    "jackpot": ("Jackpot", "jackpot", "-"),
    "jackpot expected": ("Jackpot, expected mask", "jackpot expected mask", "-"),
    "jackpot prefixes": ("Jackpot on prefixes, KL alone (ours)", "jackpot on prefixes", "-"),
    "tis prefixes": ("TIS on prefixes, KL alone", "jackpot on prefixes", ":"),
    "jackpot frozen": ("Jackpot, actor fixed", "jackpot", "--"),
    "jackpot+ppo": ("Jackpot without KL", "jackpot", "-"),
    "clipped": ("PPO clip", "icepop", "-"),
    "no clip": ("no clip", "none", "-"),
    "capped": ("ratio capped at 3", "importance", "-"),
    "tis new": ("TIS on the new policy", "tis+distill", "-"),
    "jackpot new": ("Jackpot, no clip", "jackpot", "-"),
    "jackpot expected new": ("Jackpot, expected mask, no clip", "jackpot expected mask", "-"),
    "jackpot clipped": ("Jackpot with the PPO clip", "jackpot", "-"),
    "int8": ("no correction", "none", "-"),
    "int8 tis": ("TIS", "tis", "-"),
    "int8 jackpot": ("Jackpot", "jackpot", "-"),
}

# families of (p, q) in the numerical figures: colour, marker
FAMILY_STYLES = {
    "noise in q": (VERMILION, "o"),
    "noise in q, Dirichlet(1.5)": (ORANGE, "D"),
    "noise in p": (BLUE, "s"),
    "Gaussian logits": (GREEN, "^"),
    "Student-t logits": (PURPLE, "v"),
    "temperature": (SKY, "<"),
    "Zipf, v = 20,000": (GREY, ">"),
}

PAPER: dict[str, Any] = {
    "marker": "*",
    "color": BLACK,
    "linestyle": "none",
    "markersize": 10,
    "markeredgecolor": "white",
    "markeredgewidth": 0.6,
    "zorder": 5,
}

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.hashsalt": "jackpot",
}


def family_style(name: str) -> dict[str, Any]:
    """Keywords of `Axes.plot` for one family."""
    colour, marker = FAMILY_STYLES[name]
    return {"color": colour, "marker": marker}


def method_label(name: str) -> str:
    return METHOD_LOOKS[name][0]


def method_style(name: str) -> dict[str, Any]:
    """Keywords of `Axes.plot` for one method."""
    _, colour, line = METHOD_LOOKS[name]
    return {"color": METHOD_COLOURS[colour], "linestyle": line}


def literal(text: str) -> str:
    """Text from outside as a label that shows just this: no formula between `$`, and not left out
    of a legend for an underscore at its beginning. Ticks of logarithmic axes remain formulas."""
    escaped = text.replace("$", "\\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def note(ax, text: str, xy: tuple[float, float], **text_keywords) -> None:
    """A small grey remark at data coordinates."""
    ax.annotate(text, xy, color="#444444", fontsize=6, **text_keywords)


def panel_title(ax, letter: str, text: str) -> None:
    """(a) What the panel shows, flush left."""
    ax.set_title(f"({letter}) {text}", loc="left")
