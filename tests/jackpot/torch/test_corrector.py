"""`Corrector` in the layouts of other trainers, against the flat functions and hand computation."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import jackpot.torch as jt
from jackpot.torch.correction import CorrectionInputs, CorrectionState, next_state, token_weights
from jackpot.torch.token_layout import acceptance_coins

LENGTHS = (3, 1, 4, 2)
N = sum(LENGTHS)
FLAT_SETTINGS: list[dict[str, Any]] = [
    {"z": "batch"},
    {"z": "none", "mask": "expected", "c1": 1.5},
    {"z": "batch", "scope": "prefix"},
    {"z": "batch", "lam_from": "batch", "budget": 0.8},
    {"z": "batch", "lam_from": "tracked", "budget": 0.7},
    {"z": "state"},
    {"z": "state", "z_tail": "lumped", "kappa": True},
    {"lam_from": "state", "budget": 0.9},
    {"type": "tis", "cap": 1.5},
    {"type": "icepop", "low": 0.5, "high": 2.0},
    {"type": "importance", "target": "new", "c2": 2.0},
    {"type": "none"},
]


def needs_topk(settings):
    own = settings.get("type", "jackpot") == "jackpot"
    return own and "state" in (settings.get("z", "state"), settings.get("lam_from"))


def drawn(seed=0, n=N, v=6, k=3):
    """Packed tokens of random states: log q, log p_ref, log p_new, and q's top k."""
    g = torch.Generator().manual_seed(seed)
    q, ref, new = (torch.randn(n, v, generator=g).log_softmax(-1) for _ in range(3))
    token = torch.multinomial(q.exp(), 1, generator=g)
    top = q.topk(k, -1)
    logp = [x.gather(-1, token)[:, 0] for x in (q, ref, new)]
    in_topk = (top.indices == token).any(-1)
    return logp, {"ref": ref, "new": new}, top, in_topk


def packed_call(corrector, settings, rows=slice(None), **more):
    (q, ref, new), targets, top, in_topk = drawn()
    sequence = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    keep = torch.zeros(N, dtype=torch.bool)
    keep[rows] = True
    topk = None
    if needs_topk(settings):
        target = targets[settings.get("target", "ref")].gather(-1, top.indices)
        topk = jt.TopK(top.values[keep], target[keep], in_topk[keep])
    logp_new = new[keep] if settings.get("target") == "new" else None
    return corrector.weights(
        q[keep], ref[keep], logp_new, sequence=sequence[keep], topk=topk, **more
    )


def padded(flat, fill):
    """(n, ...) of LENGTHS completions -> (B, T, ...), at places that differ by row."""
    width = max(LENGTHS) + 2
    out = flat.new_full((len(LENGTHS), width, *flat.shape[1:]), fill)
    mask = torch.zeros((len(LENGTHS), width), dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        mask[row, row % 3 : row % 3 + length] = True
    out[mask] = flat
    return out, mask


@pytest.mark.parametrize("settings", FLAT_SETTINGS, ids=str)
def test_packed_weights_are_those_of_the_flat_functions(settings):
    corrector = jt.Corrector(seed=3, **settings)
    got = packed_call(corrector, settings)
    (q, ref, new), targets, top, in_topk = drawn()
    sequence = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    place = torch.cat([torch.arange(n) for n in LENGTHS])
    inputs = CorrectionInputs(
        q, ref, new, top.values,
        targets[settings.get("target", "ref")].gather(-1, top.indices), in_topk,
        uniform=acceptance_coins(3, 0, sequence, place), sequence=sequence,
    )  # fmt: skip
    want = token_weights(inputs, CorrectionState(), **settings)
    assert torch.equal(got.weight, want.weight)
    assert torch.equal(got.scale, torch.full((N,), 1 / N))
    corrector.end_step()
    own = {k: v for k, v in settings.items() if k == "budget"}
    after, _ = next_state(
        CorrectionState(), [want], tracked=settings.get("lam_from") == "tracked", **own
    )
    state = corrector.state_dict()
    assert (state["log_lam"], state["tail_bound"]) == (after.log_lam, after.tail_bound)


@pytest.mark.parametrize("settings", FLAT_SETTINGS, ids=str)
@pytest.mark.parametrize("fill", [math.nan, math.inf, 0.0])
def test_padded_weights_are_the_packed_ones_whatever_stands_in_the_padding(settings, fill):
    want = packed_call(jt.Corrector(**settings), settings)
    (q, ref, new), targets, top, in_topk = drawn()
    wide, mask = {}, torch.empty(0)
    for name, x in {"q": q, "ref": ref, "new": new, "top": top.values}.items():
        wide[name], mask = padded(x, fill)
    topk = None
    if needs_topk(settings):
        target = targets[settings.get("target", "ref")].gather(-1, top.indices)
        topk = jt.TopK(wide["top"], padded(target, fill)[0], padded(in_topk, False)[0])
    logp_new = wide["new"] if settings.get("target") == "new" else None
    got = jt.Corrector(**settings).weights(wide["q"], wide["ref"], logp_new, mask, topk=topk)
    assert torch.equal(got.weight[mask], want.weight)
    assert torch.equal(got.scale[mask], want.scale)
    assert not got.weight[~mask].any() and not got.scale[~mask].any()
    assert got.metrics == want.metrics


@pytest.mark.parametrize("settings", FLAT_SETTINGS, ids=str)
@pytest.mark.parametrize("denominator", ["proposed", "accepted", "sequence"])
def test_two_processes_compute_what_one_does(settings, denominator):
    """The second has a single completion, so the parts are of unequal size."""
    sequence_id = torch.repeat_interleave(torch.tensor([7, 9, 2, 5]), torch.tensor(LENGTHS))
    one = jt.Corrector(denominator=denominator, **settings)
    whole = packed_call(one, settings, sequence_id=sequence_id)
    one.end_step()
    parts = [slice(0, 8), slice(8, N)]

    def of_rank(rank, gather):
        corrector = jt.Corrector(gather=gather, denominator=denominator, **settings)
        got = packed_call(corrector, settings, parts[rank], sequence_id=sequence_id[parts[rank]])
        corrector.end_step()
        return got, corrector.state_dict()

    for part, (got, state) in zip(parts, two_ranks(of_rank), strict=True):
        assert torch.allclose(got.weight, whole.weight[part], rtol=1e-6, atol=0)
        assert torch.allclose(got.scale, whole.scale[part], rtol=1e-6, atol=0)
        assert got.n_tokens == whole.n_tokens == N
        for name, value in whole.metrics.items():
            assert got.metrics[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
        for name, value in one.state_dict().items():
            assert state[name] == (value and pytest.approx(value, rel=1e-6)), name


def two_ranks(of_rank):
    """of_rank(rank, gather) in two threads, whose gather waits for the other's."""
    barrier = threading.Barrier(2, timeout=20)
    given: list[Any] = [None, None]

    def gather_of(rank):
        def gather(x):
            given[rank] = x
            barrier.wait()
            both = torch.cat(given)
            barrier.wait()
            return both

        return gather

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda rank: of_rank(rank, gather_of(rank)), (0, 1)))


def test_completions_of_two_processes_with_one_number_are_refused():
    """They would throw the same coins, and count as one completion in a denominator."""
    logp = torch.full((2, 3), -1.0)

    def of_rank(rank, gather):
        corrector = jt.Corrector(z="none", gather=gather)
        said = []
        for ids in ([4 * rank, 4 * rank + 1], [0, 1], [rank, 5]):
            try:
                corrector.weights(logp, logp, sequence_id=torch.tensor(ids))
                said.append("")
            except ValueError as e:
                said.append(str(e))
        return said

    for own, same, one in two_ranks(of_rank):
        assert own == ""
        for text in (same, one):
            assert text.startswith("sequence_id: a number of this process's completions")


@pytest.mark.parametrize(
    ("gather", "said"),
    [
        (lambda x: 2 * x, "puts the values of all processes one after another"),
        (lambda x: x[:2], "puts the values of all processes one after another"),
        (lambda x: x.sum(), "gather: wanted a tensor .N,., found .. of torch.int64"),
        (lambda x: x.numpy(), "gather: wanted a tensor .N,., found ndarray"),
        (lambda x: None, "gather: wanted a tensor .N,., found NoneType"),
    ],
)
def test_a_gather_that_does_not_put_values_together_is_refused(gather, said):
    """An all-reduce in its place, for example, adds the numbers of two processes' completions."""
    logp = torch.full((2, 3), -1.0)
    with pytest.raises((TypeError, ValueError), match=said):
        jt.Corrector(z="batch", gather=gather).weights(logp, logp, sequence_id=torch.tensor([3, 4]))


def test_coins_belong_to_completion_and_place():
    ids, place = torch.tensor([4, 4, 4, 8]), torch.tensor([0, 1, 2, 0])
    coins = acceptance_coins(1, 2, ids, place)
    assert torch.equal(acceptance_coins(1, 2, ids[1:], place[1:]), coins[1:])
    assert torch.equal(acceptance_coins(1, 2, ids[[3, 0]], place[[3, 0]]), coins[[3, 0]])
    for other in (acceptance_coins(2, 2, ids, place), acceptance_coins(1, 3, ids, place)):
        assert not (other == coins).any()
    many = acceptance_coins(0, 0, torch.arange(2000), torch.zeros(2000, dtype=torch.long))
    assert abs(float(many.mean()) - 0.5) < 0.03 and abs(float(many.var()) - 1 / 12) < 0.01


@pytest.mark.parametrize("denominator", ["proposed", "sequence"])
def test_rows_without_a_real_token_change_nothing(denominator):
    """Packed tokens hold none of them, so rows that follow must have the same coins and scales."""
    logp = torch.full((3, 6), -1.0)
    corrector = jt.Corrector(z="batch", denominator=denominator)
    want = [corrector.weights(logp, logp - 0.7), corrector.weights(logp, logp - 0.7)]

    rows = [1, 3, 4]  # of five; the others are masked throughout
    wide = torch.full((5, 6), math.nan)
    wide[rows] = logp
    mask = ~wide.isnan()
    corrector = jt.Corrector(z="batch", denominator=denominator)
    for one in want:
        got = corrector.weights(wide, wide - 0.7, mask=mask)
        assert torch.equal(got.weight[rows], one.weight) and not got.weight[~mask].any()
        assert torch.equal(got.scale[rows], one.scale) and not got.scale[~mask].any()
        assert got.metrics == one.metrics
    assert not torch.equal(want[0].weight, want[1].weight)

    sequence = torch.arange(5)[:, None].expand(5, 6)
    corrector = jt.Corrector(z="batch", denominator=denominator)
    for one in want:
        flat = wide.flatten()
        packed = corrector.weights(
            flat, flat - 0.7, mask=mask.flatten(), sequence=sequence.flatten()
        )
        assert torch.equal(packed.weight.reshape(5, 6)[rows], one.weight)


def test_updates_of_a_step_throw_different_coins():
    corrector = jt.Corrector(z="batch")
    logp = torch.full((4, 8), -1.0)
    accepted = [corrector.weights(logp, logp - 1.0).tokens.accepted for _ in range(2)]
    assert not torch.equal(*accepted)


def test_a_corrector_that_goes_on_throws_the_coins_of_its_step():
    one, two = (jt.Corrector(z="none", seed=5) for _ in range(2))
    logp = torch.zeros(4, 50)
    first = one.weights(logp - 0.7, logp - 1.4)
    one.end_step()
    two.load_state_dict(one.state_dict())
    second, again = (c.weights(logp - 0.7, logp - 1.4) for c in (one, two))
    assert torch.equal(second.weight, again.weight)
    assert not torch.equal(second.weight, first.weight)


def test_a_corrector_goes_on_from_its_state():
    settings: dict[str, Any] = {
        "z": "batch",
        "lam_from": "tracked",
        "budget": 0.7,
        "lam_decay": 0.5,
    }
    one = jt.Corrector(seed=5, **settings)
    packed_call(one, settings)
    with pytest.raises(ValueError, match="end_step"):
        one.state_dict()
    one.end_step()
    two = jt.Corrector(seed=5, **settings)
    two.load_state_dict(one.state_dict())
    assert two.state_dict() == one.state_dict()
    # Of other tokens: a first step would solve the same lam from the same ones.
    seen, again = (packed_call(c, settings, slice(0, 4)).tokens.lam for c in (one, two))
    assert torch.equal(seen, again)
    first = packed_call(jt.Corrector(seed=5, **settings), settings, slice(0, 4)).tokens.lam
    assert not torch.allclose(seen, first)
    one.end_step()
    with pytest.raises(ValueError, match="seed 5"):
        jt.Corrector(seed=6, **settings).load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="log_lam is nan"):
        two.load_state_dict({**one.state_dict(), "log_lam": math.nan})
    with pytest.raises(ValueError, match="wanted"):
        two.load_state_dict({"step": 1})
    for name, value in [("tail_bound", -1.0), ("tail_accepted", -0.5), ("step", 2**64)]:
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            two.load_state_dict({**one.state_dict(), name: value})
    with pytest.raises(ValueError, match=r"log_lam is 90000\.0"):
        two.load_state_dict({**one.state_dict(), "log_lam": 9e4})


@pytest.mark.parametrize("own", [{"lam_decay": 0.0}, {"lam_max": 0.9}, {"lam_min": 4.0}])
def test_settings_of_a_tracked_lam_reach_its_next_step(own):
    settings: dict[str, Any] = {"z": "batch", "lam_from": "tracked", "budget": 0.7}
    lams = []
    given: list[dict[str, Any]] = [{}, own]
    for more in given:
        corrector = jt.Corrector(**settings, **more)
        corrector.load_state_dict(corrector.state_dict() | {"log_lam": 0.5})
        weights = packed_call(corrector, settings)
        corrector.end_step()
        want, _ = next_state(
            CorrectionState(log_lam=0.5), [weights.tokens], tracked=True, budget=0.7, **more
        )
        lams.append(corrector.state_dict()["log_lam"])
        assert lams[-1] == want.log_lam
    assert lams[0] != lams[1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lamb": 1.0}, "perhaps lam"),
        ({"type": "tis", "c1": 3.0}, "c1 has no effect"),
        ({"c2": 3.0}, "c2 has no effect"),
        ({"lam_from": "batch", "lam": 2.0}, "lam has no effect"),
        ({"budget": 0.9}, "budget has no effect"),
        ({"z": "batch", "z_tail": "lumped"}, "z_tail has no effect"),
        ({"kappa": True}, "kappa has no effect"),
        ({"type": "icepop", "low": 2.0, "high": 1.0}, "is not below"),
        ({"type": "icepop", "low": 2.0}, "low = 2.0 is not below high = 2.0, its default"),
        ({"type": "icepop", "high": 0.4}, "low = 0.5, its default, is not below high = 0.4"),
        ({"lam_from": "tracked", "lam_min": 20.0}, "is not below lam_max = 10.0, its default"),
        ({"lam_from": "tracked", "lam_max": 0.05}, "lam_min = 0.1, its default, is not below"),
        ({"lam": 10**400}, "it is finite"),
        ({"lam": 0.0}, "above 0"),
        ({"lam": math.nan}, "a number"),
        ({"lam": True}, "a number"),
        ({"c1": -1.0}, "above 0"),
        ({"z": "top"}, "choose one of"),
        ({"lam_from": "batch", "budget": 1.5}, "acceptance rate"),
        ({"lam_from": "tracked", "lam_decay": 1}, "at least 0 and below 1"),
        ({"denominator": "weights"}, "choose one of"),
        ({"seed": "abc"}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
    ],
)
def test_settings_that_do_not_exist_or_do_nothing_are_refused(settings, said):
    with pytest.raises((TypeError, ValueError), match=said):
        jt.Corrector(**settings)


def packed(corrector: jt.Corrector, sequence: list[int], sequence_id: list[int]):
    logp = torch.full((len(sequence),), -1.0)
    names, numbers = torch.tensor(sequence), torch.tensor(sequence_id)
    return corrector.weights(logp, logp, sequence=names, sequence_id=numbers)


def test_inputs_that_do_not_fit_are_refused_by_name():
    logp, mask = torch.full((2, 3), -1.0), torch.ones(2, 3, dtype=torch.bool)
    corrector = jt.Corrector(z="batch")
    bad = logp.clone()
    bad[1, 2] = math.nan
    for call, said in [
        (lambda: corrector.weights(bad, logp), "logp_inf: NaN at 1 of 6"),
        (lambda: corrector.weights(logp, bad), "logp_ref: NaN"),
        (lambda: corrector.weights(logp - math.inf, logp), "logp_inf: NaN or inf"),
        (lambda: corrector.weights(logp, logp + 2), "logp_ref: a positive"),
        (lambda: corrector.weights(logp, logp[:, :2]), "logp_ref: wanted"),
        (lambda: corrector.weights(logp, logp, mask=mask[:1]), "mask: wanted"),
        (lambda: corrector.weights(logp[0], logp[0]), "need sequence"),
        (lambda: corrector.weights(logp, logp, sequence_id=torch.tensor([1, 1])), "same number"),
        (
            lambda: corrector.weights(logp[0], logp[0], sequence=torch.tensor([0, 1, 0])),
            "neighbours",
        ),
        (lambda: jt.Corrector().weights(logp, logp), "needs topk"),
        (lambda: jt.Corrector(z="batch", target="new").weights(logp, logp), "needs logp_new"),
        (lambda: jt.Corrector(z="batch", gather=lambda x: x).weights(logp, logp), "sequence_id"),
        (lambda: corrector.end_step(), "no weights"),
        (lambda: corrector.weights(logp, logp, mask=0.5 * mask), "neither 0 nor 1"),
        (lambda: corrector.weights(logp, logp, mask=mask * math.nan), "neither 0 nor 1"),
        (lambda: corrector.weights(logp, logp, mask=-100 * mask), "neither 0 nor 1"),
        (lambda: packed(corrector, [0, 0, 1], [5, 6, 7]), "one completion have two numbers"),
        (lambda: packed(corrector, [0, 1, 2], [5, 6, 5]), "two completions have the same"),
    ]:
        with pytest.raises(ValueError, match=said):
            call()
    assert corrector.weights(bad, logp, mask=~bad.isnan()).n_tokens == 5


def test_an_empty_update_is_an_update():
    corrector = jt.Corrector(z="none")
    weights = corrector.weights(torch.zeros(2, 3), torch.zeros(2, 3), mask=torch.zeros(2, 3))
    assert weights.n_tokens == 0 and not weights.weight.any()


@pytest.mark.parametrize("settings", FLAT_SETTINGS)
def test_an_update_without_a_real_token_is_an_update_with_every_setting(settings):
    corrector, logp = jt.Corrector(**settings), torch.zeros(2, 3)
    needs = "state" in (corrector.settings.get("lam_from"), corrector.settings.get("z"))
    topk = jt.TopK(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.ones(2, 3).bool())
    weights = corrector.weights(
        logp, logp, logp, mask=torch.zeros(2, 3), topk=topk if needs else None
    )
    corrector.end_step()
    assert weights.n_tokens == 0 and not weights.weight.any() and weights.metrics == {}


@pytest.mark.parametrize("which", ["logp_inf", "logp_target"])
def test_likeliest_tokens_that_are_no_distribution_are_refused(which):
    logp = torch.full((2, 3), -1.0)
    right = torch.full((2, 3, 4), math.log(0.25))
    topk = jt.TopK(right, right, torch.ones(2, 3, dtype=torch.bool))
    assert jt.Corrector(z="state").weights(logp, logp, topk=topk).n_tokens == 6
    with pytest.raises(ValueError, match=f"topk_{which}: the probabilities .* add up to 1.2"):
        wrong = topk._replace(**{which: right + math.log(1.2)})
        jt.Corrector(z="state").weights(logp, logp, topk=wrong)
