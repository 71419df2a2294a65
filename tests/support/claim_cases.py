"""Claims of the registry, and claims outside it, for tests."""

from sim.claims import check, registry
from sim.claims import trajectories as paths

check.load_claims()


def examined(id, cases=40, seed=0):
    """The finding of one claim; of its example alone if cases is 1."""
    return registry.examine(registry.CLAIMS[id], cases, seed)


def example(id):
    return registry.CLAIMS[id].example


def distributions(id):
    """P, Q and Q~ of a resampling example."""
    e = example(id)
    rows = e["p1"], e["q1"], e["p2"], e["q2"]
    after = paths.resampled(*rows, e["lam"])
    return paths.joint(e["p1"], e["p2"]), paths.joint(e["q1"], e["q2"]), after


def finding(id, cases=40, seed=0):
    """One claim examined, together with the claim it corrects."""
    claim = registry.CLAIMS[id]
    found = {id: registry.examine(claim, cases, seed)}
    if claim.corrects:
        found[claim.corrects] = registry.examine(registry.CLAIMS[claim.corrects], cases, seed)
    found[id].verdict = registry.verdict(found[id], found)
    return found[id]


def tiny(statement, checks, **keywords):
    """A claim outside the registry that yields the given checks."""

    def body(draw):
        yield from checks

    body.__doc__ = statement
    return registry.Claim("x", "here", statement, registry.HOLDS, body, None, 1.0, {}, **keywords)


def verdict_of(*checks):
    found = registry.examine(tiny("s", checks), 3, 0)
    return registry.verdict(found, {})
