"""A method's settings are what its name says."""

from figure_runs import SEED

from llm.settings.schema import FixedLam, JackpotCorrection, TisCorrection
from paper_figures.experiments import run_store
from paper_figures.experiments.configurations import run


def test_methods_are_what_their_names_say():
    """Which correction, which actor losses: what the figures' comparisons rest on."""
    wanted = {
        "none": ("none", "token", False, False),
        "kl": ("none", "token", False, True),
        "tis": ("tis", "token", False, False),
        "tis+kl": ("tis", "token", False, True),
        "tis+ppo+kl": ("tis", "token", True, True),
        "tis+ppo": ("tis", "token", True, False),
        "jackpot": ("jackpot", "token", True, True),
        "jackpot+ppo": ("jackpot", "token", True, False),
        "jackpot prefixes": ("jackpot", "prefix", False, True),
        "tis prefixes": ("jackpot", "prefix", False, True),
    }
    for method, (name, scope, ppo, kl) in wanted.items():
        cfg = run_store.resolved(run("chain", method, SEED))
        found = getattr(cfg.correction, "scope", "token")
        assert (cfg.correction.type, found) == (name, scope), method
        assert (cfg.actor.ppo, cfg.actor.distill.coef > 0) == (ppo, kl), method
    same = run_store.resolved(run("chain", "tis prefixes", SEED)).correction
    tis = run_store.resolved(run("chain", "tis+ppo+kl", SEED)).correction
    assert isinstance(same, JackpotCorrection) and isinstance(tis, TisCorrection)
    assert (same.z.type, same.lam, same.mask) == ("none", FixedLam(value=1.0), "expected")
    assert same.c1 == tis.cap
