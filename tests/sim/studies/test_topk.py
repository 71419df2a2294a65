"""`python -m sim topk`: its states, its estimators by hand, its table and its refusals."""

import math

import numpy as np
import pytest

import jackpot
from sim.commands import main as sim_main
from sim.studies import topk
from sim.worlds import topk_states

P = np.array([[0.10, 0.20, 0.45, 0.07, 0.18]])
Q = np.array([[0.40, 0.30, 0.05, 0.15, 0.10]])  # top 2: tokens 0 and 1; cap .3, q_T .3, p_T .7


def revealed(p=P, q=Q, lam=1.0, ks=(2,), replicates=1, seed=0):
    return topk_states.reveal(
        iter([(p, q)]), lam, list(ks), replicates, np.random.default_rng(seed)
    )


def batch(**changes):
    """Two states like (P, Q) of which the first drew token 4 (a = 1), the second one of a = 1/3."""
    known = revealed(np.vstack([P, P]), np.vstack([Q, Q])).known[2]
    values = {
        "known": known,
        "accept": np.array([1.0, 1 / 3]),
        "in_tail": np.array([True, True]),
        "coin": np.array([True, False]),
        "lam": 1.0,
    }
    return topk.StateBatch(**(values | changes))


def test_what_two_tokens_reveal_by_hand():
    """Z = .1 + .2 + .05 + .07 + .1; p's top 2 are tokens 2 and 1, so the union adds token 2."""
    states = revealed()
    known = states.known[2]
    assert states.z == pytest.approx([0.52])
    assert known.z_k == pytest.approx([0.3])
    assert (known.q_tail[0], known.p_tail[0]) == pytest.approx((0.3, 0.7))
    assert known.lumped == pytest.approx([0.3])
    assert known.bound == pytest.approx([0.3])  # min(.3, .3 + .07 + .18)
    assert known.overlap == pytest.approx([1.0])  # .3 / min(.7, .3)
    assert known.union == pytest.approx([0.35])
    assert known.union_capped == pytest.approx([0.6])  # .3 + min(.3, min(.3, .45))
    x, w = np.log([0.1 / 0.4, 0.2 / 0.3]), np.array([4, 3]) / 7
    assert known.spread == pytest.approx([math.sqrt((w * x**2).sum() - (w * x).sum() ** 2)])


def test_lam_enters_every_bound():
    """lam = 4: m = min(q, p / 4); U = min(.3, .175), U' = min(.3, .1125 + .0175 + .045)."""
    states = revealed(lam=4.0)
    known = states.known[2]
    assert known.z_k == pytest.approx([0.025 + 0.05])
    assert states.z == pytest.approx([0.025 + 0.05 + 0.05 + 0.0175 + 0.045])
    assert known.lumped == pytest.approx([0.175])
    assert known.p_tail == pytest.approx([0.7])
    assert known.bound == pytest.approx([0.175])


@pytest.mark.parametrize("lam", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("name", topk_states.FAMILIES)
def test_the_reduced_sums_are_those_of_the_core(name, lam):
    """The commands' bounds, from few tokens and one remainder, equal jackpot's over all tokens."""
    p, q = next(topk_states.family_chunks(name, 8, 400, seed=1))
    ks = [1, 3, 20]
    states = revealed(p, q, lam, ks)
    log_p, log_q = np.log(p), np.log(q)
    assert states.z == pytest.approx(jackpot.acceptance_rate(log_p, log_q, lam))
    for k in ks:
        ids = np.argsort(-q, axis=1)[:, :k]
        top_p = np.argsort(-p, axis=1)[:, :k]
        mask = np.zeros(q.shape, dtype=bool)
        np.put_along_axis(mask, ids, True, axis=1)
        shared = np.take_along_axis(mask, top_p, axis=1)
        log_p_tail, log_q_tail = (np.log((x * ~mask).sum(1)) for x in (p, q))
        log_p_k, log_q_k = (np.take_along_axis(x, ids, axis=1) for x in (log_p, log_q))
        known = states.known[k]
        lower, upper = jackpot.z_bounds(log_p, mask, log_p_k, log_q_k, log_p_tail, log_q_tail, lam)
        assert known.z_k == pytest.approx(lower)
        assert known.z_k + known.bound == pytest.approx(upper)
        _, lumped = jackpot.z_topk(log_p_k, log_q_k, lam, log_p_tail, log_q_tail)
        assert known.z_k + known.lumped == pytest.approx(lumped)
        log_p_top = np.take_along_axis(log_p, top_p, axis=1)
        union = jackpot.z_union(log_p_k, log_q_k, log_p_top, shared, log_q_tail, lam, "capped")
        assert known.union_capped == pytest.approx(union)
        hidden = np.where(shared, -np.inf, log_p_top), np.take_along_axis(log_q, top_p, axis=1)
        granted = lower + jackpot.acceptance_rate(*hidden, lam)
        assert known.union == pytest.approx(granted)


def test_draws_follow_q_and_know_their_rank():
    """40,000 draws: frequencies within 5 standard deviations, a = min(1, p / q) of each."""
    states = revealed(replicates=40_000, seed=3)
    accept = {0: 1 / 4, 1: 2 / 3}
    for rank, q in ((0, 0.4), (1, 0.3), (2, 0.3)):
        found = (states.rank == rank).mean()
        assert abs(found - q) < 5 * math.sqrt(q * (1 - q) / 40_000)
        if rank in accept:
            assert states.accept[states.rank == rank] == pytest.approx(accept[rank])
    assert abs(states.accept.mean() - 0.52) < 5 * 0.5 / 200


def test_the_estimators_by_hand():
    """beta = (1 + 1/3) / (1 + 1) = 2/3, so Z_K + beta U' = .3 + .2; kappa = .5 / .35."""
    expected = {
        "Z_K": 0.3,
        "union *": 0.35,
        "kappa union *": 0.5,
        "union, capped": 0.6,
        "Z_K + U": 0.6,
        "Z_K + U'": 0.6,
        "Z_K + beta U": 0.5,
        "Z_K + beta U'": 0.5,
        "Z_K + beta U' overlap": 0.5,
        "lognormal tail": 0.5,  # two equal states: the fit meets the tail equation
    }
    assert expected.keys() == topk.ESTIMATORS.keys()
    for name, z in expected.items():
        assert topk.ESTIMATORS[name](batch()) == pytest.approx([z, z], rel=1e-6), name
    means = {"coin": [1, 0], "a": [1, 1 / 3], "Z_K + a 1{tail}": [1.3, 0.3 + 1 / 3]}
    for name, mean in means.items():
        assert topk.MEANS[name](batch()) == pytest.approx(mean), name


def test_a_token_outside_the_tail_says_nothing_of_it():
    """Only the first token is in the tail: beta = 1 / 1; without any, beta = 1 as well."""
    half = batch(accept=np.array([0.5, 0.1]), in_tail=np.array([True, False]))
    assert topk.ESTIMATORS["Z_K + beta U'"](half) == pytest.approx([0.45, 0.45])
    none = batch(in_tail=np.array([False, False]))
    assert topk.ESTIMATORS["Z_K + beta U'"](none) == pytest.approx([0.6, 0.6])
    assert topk.MEANS["Z_K + a 1{tail}"](none) == pytest.approx([0.3, 0.3])


@pytest.mark.parametrize("ratio", [0.4, 1.0, 2.5])
def test_the_lognormal_tail_is_the_integral(ratio):
    """E min(1, r / lam) for a log-normal r of mean p_T / q_T, by a fine sum over the normal."""
    unused = ("z_k", "bound", "overlap", "union", "union_capped")
    known = topk_states.Known(
        **dict.fromkeys(unused, np.array([np.nan])),
        spread=np.array([0.7]),
        p_tail=np.array([0.2 * ratio]),
        q_tail=np.array([0.2]),
        lumped=np.array([1.0]),
    )
    x = np.linspace(-9, 9, 200_001)
    weight = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    s, lam = 1.5 * 0.7, 1.3
    want = 0.2 * (np.minimum(1, ratio * np.exp(s * x - s * s / 2) / lam) * weight).sum()
    assert topk.lognormal_tail(known, lam, 1.5) == pytest.approx([want], rel=1e-6)


def test_measure_gives_the_two_errors():
    """Three draws at two states: errors of `a` and of Z_K by hand."""
    states = revealed(np.vstack([P, P]), np.vstack([Q, Q]))
    states = states._replace(
        accept=np.array([[1.0, 0.5], [0.5, 0.5], [0.0, 0.5]]),
        rank=np.array([[2, 0], [2, 2], [2, 2]]),
    )
    rows = topk.measure(states, 2, 1.0, np.random.default_rng(0))
    found = {row["estimator"]: row for row in rows}
    assert found["Z_K"]["rmse_state"] == found["Z_K"]["rmse_mean"] == pytest.approx(0.22)
    of_a = np.array([0.75, 0.5, 0.25]) - 0.52
    assert found["a"]["rmse_mean"] == pytest.approx(math.sqrt(np.mean(of_a**2)))
    assert math.isnan(found["a"]["rmse_state"])
    assert found["Z_K"]["missing"] == pytest.approx(0.22)
    betas = np.array([1.0, 0.5, 0.25])  # of the three draws; the truth is 22/30
    error = math.sqrt(np.mean((0.3 * (betas - 22 / 30)) ** 2))
    assert found["Z_K + beta U'"]["rmse_state"] == pytest.approx(error)
    smooth = np.array([1.9 / 1.9, 2.71 / 3.71, 2.939 / 5.339])  # .9 of the past and the new sums
    error = math.sqrt(np.mean((0.3 * (smooth - 22 / 30)) ** 2))
    assert found[topk.SMOOTHED]["rmse_state"] == pytest.approx(error)


def write_pairs(path, **changes):
    log_p, log_q = np.log(P).astype(np.float32), np.log(Q).astype(np.float32)
    arrays = {"log_p/actor": log_p, "log_q/actor": log_q} | changes
    np.savez(path, **{k: x for k, x in arrays.items() if x is not None})
    return path


def test_a_stored_pair_is_measured(tmp_path, capsys):
    """The npz, the CSV with the command on top, and the table."""
    path = write_pairs(tmp_path / "pairs.npz")
    args = ["--quick", "--pairs", str(path), "--k", "2", "--out", str(tmp_path)]
    assert topk.main(args) == 0
    text = capsys.readouterr().out
    assert "model pairs: root mean square error of a state's Z" in text
    command, rows = topk.read_stored(tmp_path / "topk_pairs.csv")
    assert command == "python -m sim topk " + " ".join(args)
    assert {row["source"] for row in rows} == {"actor"}
    (row,) = (r for r in rows if r["estimator"] == "Z_K")
    assert (row["k"], row["vocabulary"], row["states"]) == (2, 5, 1)
    assert row["rmse_state"] == pytest.approx(0.22, rel=1e-5)
    for name in ("topk.csv", "topk.png", "topk.pdf"):
        assert (tmp_path / name).stat().st_size > 1000


def test_the_quick_command_runs_and_shows_the_stored_pairs(capsys):
    """Wired into `python -m sim`; the stored table says what made it."""
    assert sim_main(["topk", "--quick"]) == 0
    text = capsys.readouterr().out
    assert (
        "model pairs, stored (python benchmarks/smollm2_pairs.py; python -m sim topk --pairs"
        in text
    )
    for name in (*topk.ESTIMATORS, *topk.MEANS, *topk_states.FAMILIES, "10% weight noise"):
        assert name in text


def test_the_stored_measurement_supports_what_the_documents_say():
    """On the model pairs at k = 20 the tail ratio has a tenth of kappa's error where the actor is
    near, a fifth where it is far, and never more than the lumped tail's."""
    _, rows = topk.read_stored()
    error = {(r["source"], r["estimator"]): r["rmse_state"] for r in rows if r["k"] == 20}
    sources = {s for s, _ in error}
    assert len(sources) == 5
    for s in sources:
        ours = error[s, "Z_K + beta U'"]
        assert ours < 0.5 * error[s, "Z_K + U"]
        assert ours < (0.2 if s == "10% weight noise" else 0.1) * error[s, "kappa union *"]
    assert topk.STORED.stat().st_size < 100_000


def test_the_same_seed_gives_the_same_rows():
    """And another seed others."""
    args = ([5], 300, 10, 3)
    first = [r["rmse_mean"] for r in topk.study_families(*args, 1)]
    assert first == [r["rmse_mean"] for r in topk.study_families(*args, 1)]
    assert first != [r["rmse_mean"] for r in topk.study_families(*args, 2)]


def test_chunks_do_not_change_the_states(monkeypatch):
    """A chunk bounds the memory, not the result: the exact Z of stored pairs is the same."""
    whole = next(topk_states.family_chunks("iid noise", 9, 50, seed=0))
    monkeypatch.setattr(topk_states, "_CHUNK_ELEMENTS", 100)
    assert [len(q) for _, q in topk_states.family_chunks("iid noise", 9, 50, 0)] == [2, 2, 2, 2, 1]
    parts = iter([(whole[0][i : i + 2], whole[1][i : i + 2]) for i in range(0, 9, 2)])
    rng = np.random.default_rng(0)
    assert topk_states.reveal(parts, 1.0, [5], 2, rng).z == pytest.approx(revealed(*whole).z)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--k", "0"], "0 is too small"),
        (["--k", "300", "--vocab", "300"], "--k 300 leaves no tail in a vocabulary of 300"),
        (["--vocab", "many"], "'many' is not a whole number"),
        (["--seed", "-1"], "'-1' is not a seed"),
        (["--out", "/dev/null/x"], "cannot write to --out /dev/null/x: Not a directory"),
        (["--pairs", "/nowhere.npz"], "/nowhere.npz is not an npz file that can be read"),
    ],
)
def test_bad_arguments_are_refused_with_a_reason(args, message, capsys):
    with pytest.raises(SystemExit) as stop:
        topk.main(["--quick", *args])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_p/actor": None}, "must hold log_p/NAME and log_q/NAME for each actor"),
        ({"log_p/actor": np.zeros((1, 4), np.float32)}, r"both must be \(states, vocabulary\)"),
        ({"log_q/actor": np.full((1, 5), np.nan, np.float32)}, "NaN among the log-prob"),
    ],
)
def test_bad_pairs_are_refused_with_a_reason(tmp_path, changes, message):
    path = write_pairs(tmp_path / "pairs.npz", **changes)
    with pytest.raises(ValueError, match=message):
        topk.study_pairs(path, [2], 5, 1, 0)


def test_a_k_without_a_tail_in_the_pairs_is_refused(tmp_path):
    path = write_pairs(tmp_path / "pairs.npz")
    with pytest.raises(ValueError, match="k = 5 leaves no tail in a vocabulary of 5; lower --k"):
        topk.study_pairs(path, [2, 5], 5, 1, 0)
