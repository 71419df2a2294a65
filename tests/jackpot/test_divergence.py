"""Divergences against 60-digit arithmetic on the same floats, and against rationals."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from backends import (
    NUMPY,
    REFERENCES,
    TORCH,
    TORCH32,
    divergence,
    floats,
    on_every_backend,
    random_rows,
)
from hypothesis import example, given
from hypothesis import strategies as st

import jackpot
from jackpot import chi2_p_q, chi2_q_p, hellinger2, js, kl_p_q, kl_q_p, tv
from sim.oracle import exact
from sim.worlds.strategies import batches, extreme_log_pairs

LOG_HALF = math.log(2) / 2
each_divergence = pytest.mark.parametrize("name", REFERENCES)


def reference(name, backend, log_p, log_q) -> list:
    rows = zip(backend.numpy(log_p), backend.numpy(log_q), strict=True)
    return [divergence(name, x, y) for x, y in rows]


# Values


@each_divergence
@on_every_backend
@given(batch=batches())
def test_a_divergence_equals_its_definition_in_60_digits(name, backend, batch):
    """The table of jackpot/divergence.py, zeros, ties and disjoint supports included."""
    log_p, log_q = map(backend.logs, batch)
    got = getattr(jackpot, name)(log_p, log_q)
    backend.check(got, reference(name, backend, log_p, log_q))


@pytest.mark.parametrize("name", ["tv", "chi2_p_q", "chi2_q_p"])
@on_every_backend
@given(batch=batches())
def test_a_rational_divergence_equals_rational_arithmetic(name, backend, batch):
    """TV and both chi-squares need no logarithm, so the oracle knows them exactly."""
    got = getattr(jackpot, name)(*map(backend.logs, batch))
    want = [getattr(exact, name)(p, q) for p, q in zip(*batch, strict=True)]
    backend.check(got, want, scale=1.0)


@each_divergence
@on_every_backend
@given(pair=extreme_log_pairs())
def test_extreme_masses_give_the_60_digit_value(name, backend, pair):
    """B5 (c): ratios of e^+-2000 and underflowing masses; inf only beyond the largest float."""
    log_p, log_q = map(backend.array, pair)
    backend.check(getattr(jackpot, name)(log_p, log_q), divergence(name, *pair))


@pytest.mark.parametrize(
    ("name", "only_q", "only_p"),
    [
        ("kl_p_q", 0.0, math.inf),
        ("kl_q_p", math.inf, 0.0),
        ("tv", 0.5, 0.5),
        ("js", LOG_HALF, LOG_HALF),
        ("hellinger2", 0.5, 0.5),
        ("chi2_p_q", 1.0, math.inf),
        ("chi2_q_p", math.inf, 1.0),
    ],
)
@on_every_backend
def test_one_sided_tokens_add_what_the_table_says(backend, name, only_q, only_p):
    """A token that one distribution lacks; the generalised KL counts its mass (0 after
    normalisation)."""
    zero, half = [-math.inf, -math.inf, 0.0], [-math.inf, 0.0, 0.0]
    generalised = 1.0 if name in ("kl_p_q", "kl_q_p") else 0.0
    f = getattr(jackpot, name)
    backend.check(f(backend.array(zero), backend.array(half)), only_q + generalised * (only_q == 0))
    backend.check(f(backend.array(half), backend.array(zero)), only_p + generalised * (only_p == 0))


# Near zero


@pytest.mark.parametrize(
    "name", ["kl_p_q", "kl_q_p", "js", "tv", "hellinger2", "chi2_p_q", "chi2_q_p"]
)
@on_every_backend
@pytest.mark.parametrize("gap", [2.0**-34, 2.0**-30, 2.0**-20])
def test_a_tiny_divergence_keeps_its_digits(backend, name, gap):
    """B5 (a): KL ~ 1e-19 comes out to full relative precision, not as cancellation noise."""
    log_p = backend.array([-(2.0**-8), -1.0, -1.0 - 2.0**-12])
    log_q = backend.array(backend.numpy(log_p) + np.array([-gap, gap, -gap]))
    want = divergence(name, log_p, log_q)
    backend.check(getattr(jackpot, name)(log_p, log_q), want)


@pytest.mark.parametrize("name", ["kl_p_q", "kl_q_p"])
@pytest.mark.parametrize("backend", [NUMPY, TORCH], ids=lambda b: b.name)
def test_kl_just_below_the_largest_ratio_is_not_negative(backend, name):
    """B5 (a): at lam = M (1 - 1e-9) the closed form gives -1.1e-16 for a KL of 1.25e-19."""
    p = [Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)]
    distribution = exact.post_rejection(p, p[::-1], 2 * (1 - Fraction(1, 10**9)))
    log_p, log_q = backend.logs(p), backend.logs(distribution)
    want = divergence(name, log_p, log_q)
    assert 0 < want < 1e-18
    backend.check(getattr(jackpot, name)(log_p, log_q), want)


@pytest.mark.parametrize("name", ["kl_p_q", "kl_q_p", "js", "hellinger2"])
@on_every_backend
@given(exponent=st.integers(-40, 40), sign=st.sampled_from([-1.0, 1.0]))
def test_every_size_of_log_ratio_keeps_its_digits(backend, name, exponent, sign):
    """log(q / p) from 1e-6 to 1e6: no seam where one formula hands over to another."""
    x = 10.0 ** (exponent / 6)
    pair = ([-x - 0.5], [-0.5]) if sign > 0 else ([-0.5], [-x - 0.5])
    log_p, log_q = map(backend.array, pair)
    backend.check(getattr(jackpot, name)(log_p, log_q), divergence(name, log_p, log_q))


@each_divergence
@on_every_backend
@given(batch=batches())
def test_equal_distributions_are_at_distance_exactly_zero(name, backend, batch):
    """D(p || p) = 0, not 1e-17."""
    log_p = backend.logs(batch[0])
    assert (backend.numpy(getattr(jackpot, name)(log_p, log_p)) == 0.0).all()


@on_every_backend
@given(batch=batches())
def test_no_divergence_is_negative(backend, batch):
    """Every term is non-negative, so every sum is."""
    log_p, log_q = map(backend.logs, batch)
    for f in (kl_p_q, kl_q_p, tv, js, hellinger2, chi2_p_q, chi2_q_p):
        assert (backend.numpy(f(log_p, log_q)) >= 0).all()


# Sizes


@each_divergence
@on_every_backend
def test_a_whole_vocabulary_agrees_with_an_exactly_rounded_sum(name, backend):
    """v = 151,936, against math.fsum of float64 terms on the same floats."""
    log_p, log_q = map(backend.array, random_rows((2, 151_936), seed=2))
    lp, lq = floats(backend.numpy(log_p)), floats(backend.numpy(log_q))
    p, q = np.exp(lp), np.exp(lq)
    m = (p + q) / 2
    terms = {
        "kl_p_q": p * (lp - lq) - p + q,
        "kl_q_p": q * (lq - lp) - q + p,
        "tv": abs(p - q) / 2,
        "js": (p * (lp - np.log(m)) + q * (lq - np.log(m))) / 2,
        "hellinger2": (np.sqrt(p) - np.sqrt(q)) ** 2 / 2,
        "chi2_p_q": (p - q) ** 2 / q,
        "chi2_q_p": (p - q) ** 2 / p,
    }[name]
    backend.check(getattr(jackpot, name)(log_p, log_q), [math.fsum(row) for row in terms])


@each_divergence
@on_every_backend
def test_leading_axes_are_kept(name, backend):
    """Shape (2, 3, v) gives (2, 3), each row by itself."""
    log_p, log_q = map(backend.array, random_rows((2, 3, 4), seed=3))
    want = [reference(name, backend, log_p[i, ...], log_q[i, ...]) for i in range(2)]
    backend.check(getattr(jackpot, name)(log_p, log_q), want)


@each_divergence
@on_every_backend
def test_an_empty_batch_gives_no_numbers(name, backend):
    """Leading dimension 0."""
    empty = backend.array(np.zeros((0, 4)))
    backend.check(getattr(jackpot, name)(empty, empty), np.zeros(0))


# Gradients


@pytest.mark.parametrize("f", [kl_p_q, kl_q_p], ids=lambda f: f.__name__)
@pytest.mark.parametrize("width", [1e-3, 0.5, 3.0])
def test_the_gradient_of_kl_is_the_finite_difference(f, width):
    """With respect to both arguments, for log-ratios in every branch of the formula."""
    generator = torch.Generator().manual_seed(4)
    log_p = torch.randn(3, 5, generator=generator, dtype=torch.float64).log_softmax(-1) - 0.1
    log_q = log_p + width * torch.rand(3, 5, generator=generator, dtype=torch.float64) - width
    log_p, log_q = log_p.requires_grad_(), log_q.requires_grad_()
    assert torch.autograd.gradcheck(f, (log_p, log_q))
    assert torch.autograd.gradcheck(lambda x, y: f(y, x), (log_p, log_q))


@pytest.mark.parametrize("backend", [TORCH, TORCH32], ids=lambda b: b.name)
@given(pair=extreme_log_pairs())
@example(pair=([-math.inf, -0.5, 0.0], [-0.5, -math.inf, -2000.0]))
@example(pair=([-math.inf, -2000.0, 0.0], [-math.inf, 0.0, -2000.0]))
def test_the_gradient_of_kl_is_finite_wherever_kl_is(backend, pair):
    """d KL / d log p = p (log p - log q) and d KL / d log q = q - p, at zeros and e^+-2000 too."""
    pair = [(x, y) for x, y in zip(*pair, strict=True) if y > -math.inf or x == -math.inf] or [
        (0.0, 0.0)
    ]
    log_p, log_q = (backend.array(list(x)).requires_grad_() for x in zip(*pair, strict=True))
    kl_p_q(log_p, log_q).backward()
    slope_p = [math.exp(x) * (x - y) if x > -math.inf else 0.0 for x, y in pair]
    slope_q = [math.exp(y) - math.exp(x) for x, y in pair]
    backend.check(log_p.grad, slope_p)
    backend.check(log_q.grad, slope_q)
    reverse = [backend.array(list(x)).requires_grad_() for x in zip(*pair, strict=True)]
    kl_q_p(reverse[1], reverse[0]).backward()
    backend.check(reverse[0].grad, slope_p)
    backend.check(reverse[1].grad, slope_q)
