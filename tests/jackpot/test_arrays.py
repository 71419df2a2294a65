"""Public functions: which arguments each refuses, with which words, and that none is changed."""

import math

import array_api_strict
import numpy as np
import pytest
import torch
from backends import BACKENDS, NUMPY, STRICT, TORCH, TORCH32, on_every_backend, random_rows

import jackpot
from jackpot import (
    accept_prob,
    acceptance_rate,
    chi2_p_q,
    chi2_q_p,
    common_lam_for_budget,
    expected_weight,
    hellinger2,
    icepop,
    importance,
    js,
    kappa,
    kl_p_q,
    kl_q_p,
    lam_for_budget,
    lam_from_samples,
    obrs_weight,
    post_rejection,
    tis,
    tv,
    z_topk,
)

PAIRS = {  # every public function of two rows of log-probabilities
    "accept_prob": lambda p, q: accept_prob(p, q, 2.0),
    "acceptance_rate": lambda p, q: acceptance_rate(p, q, 2.0),
    "post_rejection": lambda p, q: post_rejection(p, q, 2.0),
    "lam_for_budget": lambda p, q: lam_for_budget(p, q, 0.5),
    "common_lam_for_budget": lambda p, q: common_lam_for_budget(p, q, 0.5),
    "kl_p_q": kl_p_q,
    "kl_q_p": kl_q_p,
    "tv": tv,
    "js": js,
    "hellinger2": hellinger2,
    "chi2_p_q": chi2_p_q,
    "chi2_q_p": chi2_q_p,
    "z_topk": lambda p, q: z_topk(p, q, 2.0, p[..., 0], q[..., 0]),
}
RATIOS = {  # every public function of log-ratios alone
    "obrs_weight": lambda x: obrs_weight(x, 2.0, 0.5),
    "expected_weight": lambda x: expected_weight(x, 2.0, 0.5, 3.0),
    "importance": importance,
    "tis": lambda x: tis(x, 2.0),
    "icepop": lambda x: icepop(x, 0.5, 2.0),
    "lam_from_samples": lambda x: lam_from_samples(x, 0.5),
}
WITH_LAM = ["accept_prob", "acceptance_rate", "post_rejection", "z_topk"]

each_pair_function = pytest.mark.parametrize("name", PAIRS)
each_ratio_function = pytest.mark.parametrize("name", RATIOS)


def rows(backend, shape=(2, 3), seed=16):
    return tuple(map(backend.array, random_rows(shape, seed)))


def with_lam(name, p, q, lam):
    f = getattr(jackpot, name)
    return f(p, q, lam, p[..., 0], q[..., 0]) if name == "z_topk" else f(p, q, lam)


def test_every_public_function_is_covered_here():
    """A new public name of these modules must be added to the tables above."""
    modules = {f"jackpot.{m}" for m in ("obrs", "budget", "divergence", "weights")}
    public = {n for n in jackpot.__all__ if getattr(jackpot, n).__module__ in modules}
    assert {*PAIRS, *RATIOS} == public | {"z_topk"}


# Inputs stay as they were


@each_pair_function
@on_every_backend
def test_a_pair_is_not_changed_in_place(name, backend):
    """CPU tensors share memory with numpy, so one in-place line would show up in the caller's."""
    log_p, log_q = (x - 0.0 for x in rows(backend, (3, 4)))
    before = backend.numpy(log_p), backend.numpy(log_q)
    PAIRS[name](log_p, log_q)
    np.testing.assert_array_equal(backend.numpy(log_p), before[0])
    np.testing.assert_array_equal(backend.numpy(log_q), before[1])


@each_ratio_function
@on_every_backend
def test_ratios_are_not_changed_in_place(name, backend):
    """Weights are new arrays."""
    log_r = backend.array([-math.inf, -1.0, 0.0, 3.0])
    RATIOS[name](log_r)
    backend.check(log_r, [-math.inf, -1.0, 0.0, 3.0])


@on_every_backend
def test_parameters_are_not_changed_in_place(backend):
    """Arrays of lam, budget, z, weights, coins and rates."""
    log_p, log_q = rows(backend)
    half = backend.array([0.5, 0.25])
    accept_prob(log_p, log_q, half)
    lam_for_budget(log_p, log_q, half)
    common_lam_for_budget(log_p, log_q, 0.5, half)
    obrs_weight(half, half, half)
    expected_weight(half, half, half, 1.0)
    z_topk(log_p, log_q, half, -half, -half)
    kappa(half, half)
    backend.check(half, [0.5, 0.25])


# Values


@each_pair_function
@on_every_backend
def test_nan_is_counted_and_located(name, backend):
    """NaN is never legal, in either argument; the message gives the first index."""
    good = backend.numpy(rows(backend)[0])
    bad = good.copy()
    bad[1, :2] = math.nan
    message = r"holds 2 NaN, the first at index \(1, 0\); NaN is never legal"
    for pair, argument in (((bad, good), "log_p"), ((good, bad), "log_q")):
        with pytest.raises(ValueError, match=argument + r"\w* " + message):
            PAIRS[name](*map(backend.array, pair))


@each_pair_function
@on_every_backend
@pytest.mark.parametrize("value", [math.inf, 2.5, 0.002])
def test_what_exceeds_probability_one_is_refused(name, backend, value):
    """+inf, logits, and anything above 0 that rounding cannot explain."""
    good = backend.numpy(rows(backend)[0])
    bad = good.copy()
    bad[0, 1] = value
    message = rf"holds {value:g}, but a log-probability is at most 0; if these are logits"
    for pair, argument in (((bad, good), "log_p"), ((good, bad), "log_q")):
        with pytest.raises(ValueError, match=argument + r"\w* " + message):
            PAIRS[name](*map(backend.array, pair))


@each_pair_function
@on_every_backend
def test_rounding_above_zero_is_tolerated(name, backend):
    """A float32 log_softmax may return 1e-4 for a certain token."""
    log_p, log_q = backend.array([[1e-4, -20.0]]), backend.array([[1e-4, -21.0]])
    PAIRS[name](log_p, log_q)


@pytest.mark.parametrize("name", WITH_LAM)
@on_every_backend
@pytest.mark.parametrize(
    ("lam", "message"),
    [
        (0, r"lam must lie in \(0, inf\), got 0"),
        (-1.5, r"lam must lie in \(0, inf\), got -1.5"),
        (math.inf, r"lam must lie in \(0, inf\), got inf"),
        (-math.inf, r"lam must lie in \(0, inf\), got -inf"),
        (math.nan, r"lam holds NaN; it must lie in \(0, inf\)"),
    ],
)
def test_a_lam_that_is_no_threshold_is_refused(name, backend, lam, message):
    """As a number and as one entry of an array."""
    log_p, log_q = rows(backend)
    for value in (lam, np.float64(lam), backend.array([1.0, lam]), backend.array(lam)):
        with pytest.raises(ValueError, match=message):
            with_lam(name, log_p, log_q, value)


@on_every_backend
@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0, r"budget must lie in \(0, 1\], got 0"),
        (-0.5, r"budget must lie in \(0, 1\], got -0.5"),
        (1.25, r"budget must lie in \(0, 1\], got 1.25"),
        (math.nan, r"budget holds NaN; it must lie in \(0, 1\]"),
    ],
)
def test_a_budget_that_is_no_rate_is_refused(backend, budget, message):
    """As a number and as one entry of an array."""
    log_p, log_q = rows(backend)
    for value in (budget, backend.array(budget), backend.array([0.5, budget])):
        with pytest.raises(ValueError, match=message):
            lam_for_budget(log_p, log_q, value)
    with pytest.raises(ValueError, match=message):
        common_lam_for_budget(log_p, log_q, budget)


# Shapes


@each_pair_function
@on_every_backend
def test_arguments_of_different_shapes_are_refused(name, backend):
    """Nothing is broadcast between p and q; both shapes are named."""
    log_p, log_q = rows(backend)
    with pytest.raises(ValueError, match=r"shape \(2, 3\) but log_q\w* has shape \(1, 3\)"):
        PAIRS[name](log_p, log_q[:1, :])


@each_pair_function
@on_every_backend
@pytest.mark.parametrize("shape", [(), (2, 0)])
def test_a_vocabulary_of_no_tokens_is_refused(name, backend, shape):
    """The last axis is the vocabulary; a distribution needs a token."""
    empty = backend.array(np.zeros(shape))
    f = PAIRS[name]
    if name == "z_topk":
        f = lambda p, q: z_topk(p, q, 1.0, backend.array(0.0), backend.array(0.0))  # noqa: E731
    with pytest.raises(ValueError, match=r"log_p.* needs a last axis of at least one token"):
        f(empty, empty)


@pytest.mark.parametrize("name", WITH_LAM)
@on_every_backend
def test_a_lam_of_another_shape_is_refused(name, backend):
    """lam is a number or one per state; the vocabulary axis is not one of them."""
    log_p, log_q = rows(backend)
    for shape in ((3,), (2, 1), (2, 3)):
        with pytest.raises(ValueError, match=r"lam has shape .* a number or have shape"):
            with_lam(name, log_p, log_q, backend.array(np.ones(shape)))


@on_every_backend
def test_a_budget_of_another_shape_is_refused(backend):
    """One per state, or one number; a common budget is one number."""
    log_p, log_q = rows(backend)
    wrong = backend.array([0.5, 0.5, 0.5])
    for f in (lam_for_budget, common_lam_for_budget):
        with pytest.raises(ValueError, match=r"budget has shape \(3,\); it must be a number"):
            f(log_p, log_q, wrong)
    with pytest.raises(ValueError, match=r"budget has shape \(3,\); it must be a number"):
        lam_from_samples(log_p, wrong)


# Kinds of array


def cast(backend, dtype):
    """ones(2, 3) of a dtype, as this library's array."""
    return backend.library.ones((2, 3), dtype=dtype)


BAD_DTYPES = [
    (NUMPY, np.float16, "so few bits"),
    (NUMPY, np.int64, "not a real floating-point array"),
    (NUMPY, np.bool_, "not a real floating-point array"),
    (NUMPY, np.complex128, "not a real floating-point array"),
    (TORCH, torch.bfloat16, "so few bits"),
    (TORCH, torch.float16, "so few bits"),
    (TORCH, torch.int32, "not a real floating-point array"),
    (STRICT, array_api_strict.int64, "not a real floating-point array"),
]
each_bad_dtype = pytest.mark.parametrize(("backend", "dtype", "why"), BAD_DTYPES)


@each_pair_function
@each_bad_dtype
def test_other_dtypes_of_log_probabilities_are_refused(name, backend, dtype, why):
    """bf16, fp16 and integers lose the acceptance rate; the message names the dtype."""
    bad = cast(backend, dtype)
    f = PAIRS[name]
    if name == "z_topk":
        f = lambda p, q: z_topk(p, q, 1.0, None, None)  # noqa: E731
    with pytest.raises(TypeError, match=f"log_p.* has dtype .*{_short(dtype)}.*{why}"):
        f(bad, bad)


@each_ratio_function
@each_bad_dtype
def test_other_dtypes_of_ratios_are_refused(name, backend, dtype, why):
    """As for log-probabilities."""
    with pytest.raises(TypeError, match=f"log_ratio has dtype .*{_short(dtype)}.*{why}"):
        RATIOS[name](cast(backend, dtype))


def _short(dtype) -> str:
    name = getattr(dtype, "__name__", str(dtype)).split(".")[-1]
    return name.removesuffix("_")


@on_every_backend
def test_integer_parameters_in_arrays_are_refused(backend):
    """Python integers are numbers; integer arrays are not thresholds, rates or budgets."""
    log_p, log_q = rows(backend)
    whole = backend.library.asarray([1, 1])
    ones = backend.array([1.0, 1.0])
    for call, name in (
        (lambda: accept_prob(log_p, log_q, whole), "lam"),
        (lambda: lam_for_budget(log_p, log_q, whole), "budget"),
        (lambda: common_lam_for_budget(log_p, log_q, 0.5, whole), "state_weight"),
        (lambda: obrs_weight(ones, 1.0, whole), "z"),
    ):
        with pytest.raises(TypeError, match=rf"{name} has dtype .*int64, expected float32"):
            call()


@on_every_backend
@pytest.mark.parametrize("value", ["1", None, True, [1.0, 1.0], 1j])
def test_what_is_no_number_is_refused(backend, value):
    """Strings, None, booleans, lists and complex numbers; the message names the type."""
    log_p, log_q = rows(backend)
    kind = type(value).__name__
    for f, name in ((accept_prob, "lam"), (lam_for_budget, "budget")):
        with pytest.raises(TypeError, match=f"{name} must be a real number .* got {kind}"):
            f(log_p, log_q, value)
    with pytest.raises(TypeError, match=f"cap must be a real number .* got {kind}"):
        tis(log_p, value)


@each_pair_function
def test_lists_are_refused_with_advice(name):
    """An array says its dtype; a list does not."""
    f = (lambda p, q: z_topk(p, q, 1.0, p, q)) if name == "z_topk" else PAIRS[name]
    with pytest.raises(TypeError, match=r"log_p\w* must be a numpy or torch array, got list; wrap"):
        f([[-1.0]], [[-1.0]])


@each_ratio_function
def test_a_plain_number_is_no_array_of_ratios(name):
    """Weights are of arrays."""
    with pytest.raises(TypeError, match="log_ratio must be a numpy or torch array, got float"):
        RATIOS[name](0.5)


@each_pair_function
@pytest.mark.parametrize("other", [TORCH, STRICT], ids=lambda b: b.name)
def test_libraries_are_not_mixed(name, other):
    """numpy for p and another library for q; the message names both."""
    library = {"torch float64": "torch", "strict float64": "array_api_strict"}[other.name]
    with pytest.raises(TypeError, match=rf"log_p\w*: numpy, log_q\w*: {library}"):
        PAIRS[name](rows(NUMPY)[0], rows(other)[1])


@pytest.mark.parametrize("name", WITH_LAM)
def test_a_parameter_of_another_library_is_refused(name):
    """lam as a numpy array beside torch tensors; the message names both."""
    log_p, log_q = rows(TORCH)
    with pytest.raises(TypeError, match=r"the log-probabilities: torch, lam: numpy"):
        with_lam(name, log_p, log_q, np.ones(2))


@each_pair_function
def test_precisions_are_not_mixed(name):
    """float32 for one and float64 for the other; nothing is cast silently."""
    message = r"log_p\w* is torch.float32 but log_q\w* is torch.float64; cast one"
    with pytest.raises(TypeError, match=message):
        PAIRS[name](rows(TORCH32)[0], rows(TORCH)[1])


def test_tails_and_coins_share_the_precision_of_the_rest():
    """z_topk's tails and kappa's coins."""
    log_p, log_q = rows(TORCH)
    tail = TORCH32.array([-3.0, -3.0])
    with pytest.raises(TypeError, match=r"torch.float64 but log_p_tail is torch.float32"):
        z_topk(log_p, log_q, 1.0, tail, tail)
    with pytest.raises(TypeError, match="cannot be mixed"):
        z_topk(log_p, log_q, 1.0, np.zeros(2) - 3, np.zeros(2) - 3)
    with pytest.raises(TypeError, match=r"accepted is torch.float32 but z_approx is torch.float64"):
        kappa(TORCH32.array([1.0]), TORCH.array([0.5]))
    with pytest.raises(TypeError, match="cannot be mixed"):
        kappa(np.ones(1), TORCH.array([0.5]))


# Calling again


@each_pair_function
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_a_second_call_gives_the_same_answer(name, backend):
    """No state is kept between calls."""
    log_p, log_q = rows(backend)
    first, second = (PAIRS[name](log_p, log_q) for _ in range(2))
    for x, y in zip(_tuple(first), _tuple(second), strict=True):
        assert np.array_equal(_numbers(x), _numbers(y))


def test_weighted_states_can_be_solved_again_and_again():
    """numpy's error state is entered afresh at every call."""
    log_p, log_q = rows(NUMPY)
    weight = np.array([1.0, 0.0])
    found = {common_lam_for_budget(log_p, log_q, 0.5, weight) for _ in range(3)}
    assert len(found) == 1


@each_pair_function
@pytest.mark.parametrize("backend", [NUMPY, STRICT], ids=lambda b: b.name)
def test_zeros_raise_no_numpy_warnings(name, backend):
    """log 0 and exp(-2000) are values; with warnings as errors this would raise."""
    log_p = backend.array([[-math.inf, -2000.0, 0.0, -math.inf], [0.0, -0.5, -1.0, -1.0]])
    log_q = backend.array([[-math.inf, 0.0, -2000.0, -1.0], [0.0, -0.5, -1.0, -1.0]])
    with np.errstate(all="raise"):
        if name in ("lam_for_budget", "common_lam_for_budget"):
            getattr(jackpot, name)(log_p[1:, :], log_q[1:, :], 0.5)
        else:
            PAIRS[name](log_p, log_q)


def _tuple(x) -> tuple:
    return x if isinstance(x, tuple) else (x,)


def _numbers(x) -> np.ndarray:
    return np.asarray(x) if isinstance(x, (float, np.generic, np.ndarray)) else _array(x)


def _array(x) -> np.ndarray:
    return next(b for b in (TORCH, TORCH32, STRICT) if b.dtype == x.dtype).numpy(x)
