"""Public functions refuse what is no number, by name, before it can reach a gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import jackpot.torch as jt

B, T, V = 3, 4, 5
BAD = (math.nan, math.inf, -math.inf)


def put(x: torch.Tensor, value: float) -> torch.Tensor:
    """The same with this value at a sampled token."""
    x = x.clone()
    x[2, 1] = value
    return x


def given() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(4)
    names = ("inf", "ref", "new", "actor", "actor_ref")
    logits = {name: torch.randn(B, T, V, generator=g) for name in names}
    values = {name: x.log_softmax(-1)[..., 0] for name, x in logits.items()}
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[0, 2:] = False
    advantage = torch.tensor([1.0, -1.0, 0.5])[:, None].expand(B, T).contiguous()
    return values | {
        "mask": mask,
        "advantage": advantage,
        "logits_policy": logits["ref"],
        "logits_actor": logits["inf"],
    }


def weights_of(x: dict[str, torch.Tensor]) -> jt.UpdateWeights:
    return jt.Corrector(type="none").weights(x["inf"], x["ref"], mask=x["mask"])


def policy(x: dict[str, Any], **more: Any) -> torch.Tensor:
    weights = x["weights"] if "weights" in x else weights_of(given())
    return jt.policy_loss(x["new"], x["ref"], x["advantage"], weights, **more).loss


def actor(x: dict[str, Any], **more: Any) -> torch.Tensor:
    keywords = {"logp_actor_ref": x["actor_ref"], "type": "tis", "n_tokens": 10} | more
    return jt.actor_loss(x["actor"], x["inf"], x["advantage"], x["mask"], **keywords)


def distill(x: dict[str, Any], **more: Any) -> torch.Tensor:
    keywords = {"n_tokens": 10} | more
    return jt.distill_loss(x["logits_policy"], x["logits_actor"], x["mask"], **keywords)


CASES: list[tuple[Any, str, str]] = [
    (policy, "new", "logp_new: NaN or inf at 1 of 10"),
    (policy, "ref", "logp_ref: NaN or inf at 1 of 10"),
    (policy, "advantage", "advantage: NaN or inf at 1 of 10"),
    (actor, "actor", "logp_actor: NaN or inf at 1 of 10"),
    (actor, "inf", "logp_inf: NaN or inf at 1 of 10"),
    (actor, "actor_ref", "logp_actor_ref: NaN or inf at 1 of 10"),
    (actor, "advantage", "advantage: NaN or inf at 1 of 10"),
]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(("loss", "name", "said"), CASES)
def test_no_loss_takes_nan_or_inf(loss, name, said, value):
    x = given()
    with pytest.raises(ValueError, match=f"{said}.*the first {value}"):
        loss(x | {name: put(x[name], value)})
    assert math.isfinite(loss(x))


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("kind", ["ppo", "cispo"])
def test_no_objective_takes_an_infinite_advantage(kind, value):
    x = given()
    with pytest.raises(ValueError, match="advantage: NaN or inf"):
        policy(x | {"advantage": put(x["advantage"], value)}, type=kind)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", ["weight", "scale"])
def test_weights_that_are_no_numbers_are_refused(name, value):
    x = given()
    weights = weights_of(x)
    change: dict[str, Any] = {name: put(getattr(weights, name), value)}
    weights = weights._replace(**change)
    with pytest.raises(ValueError, match=f"weights.{name}: NaN or inf at 1 of 10"):
        policy(x | {"weights": weights})


@pytest.mark.parametrize("name", ["logits_policy", "logits_actor"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_refused(name, value):
    x = given()
    with pytest.raises(ValueError, match=f"because {name} holds NaN, [+]inf"):
        distill(x | {name: put(x[name], value)})


@pytest.mark.parametrize("value", BAD)
def test_an_advantage_of_no_number_is_never_made(value):
    reward, group = torch.tensor([0.0, value, 1.0, 0.0]), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match=f"reward: NaN or inf at 1 of 4 .*the first {value}"):
        jt.group_advantage(reward, group)


@pytest.mark.parametrize(("loss", "name"), [(policy, "new"), (policy, "ref"), (actor, "actor")])
def test_logits_and_negated_log_probabilities_are_refused(loss, name):
    x = given()
    with pytest.raises(ValueError, match=f"logp_{name}: a positive log-probability at 10 of 10"):
        loss(x | {name: -x[name]})


def test_a_ratio_that_overflows_is_refused_where_the_clip_would_hide_it():
    """min(inf A, 1.2 A) = 1.2 A for A > 0, whose gradient would be 0 * inf."""
    x = given()
    with pytest.raises(ValueError, match="p_new / p_ref: NaN or inf at 1 of 10"):
        policy(x | {"ref": put(x["ref"], -200.0)})
    with pytest.raises(ValueError, match="p_actor / p_inf: NaN or inf at 1 of 10"):
        actor(x | {"inf": put(x["inf"], -200.0)}, logp_actor_ref=None, type="none")


def test_a_loss_that_overflows_is_refused():
    x = given()
    with pytest.raises(ValueError, match="the loss is NaN or inf"):
        policy(x | {"advantage": x["advantage"] * 3e38}, clip_low=math.inf, clip_high=math.inf)
    with pytest.raises(ValueError, match="the loss is NaN or inf"):
        actor(x | {"advantage": x["advantage"] * 3e38})


def test_a_weight_that_overflows_is_refused_with_its_remedy():
    logp = torch.full((2, 3), -1.0)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"type": "importance"}, "Choose type = 'tis'"),
        ({"z": "none", "c1": math.inf}, "Set c1"),
    ]
    for settings, way in cases:
        corrector = jt.Corrector(**settings)
        with pytest.raises(ValueError, match=f"weight of a token is NaN or inf.*{way}"):
            corrector.weights(logp - 200, logp)


TYPES: list[tuple[Any, str, Any, str]] = [
    (policy, "new", [0.0], "logp_new: wanted a torch tensor of floating-point numbers, found list"),
    (policy, "new", torch.zeros(B, T).long(), "logp_new: wanted floating-point .*int64"),
    (policy, "ref", None, "logp_ref: wanted a torch tensor .*NoneType"),
    (policy, "advantage", [1.0], "advantage: wanted a torch tensor of real numbers, found list"),
    (policy, "advantage", torch.zeros(B, T) * 1j, "advantage: wanted real numbers.*complex"),
    (policy, "weights", torch.ones(B, T), "weights: wanted what Corrector.weights returns"),
    (actor, "actor", None, "logp_actor: wanted a torch tensor .*NoneType"),
    (actor, "mask", None, "mask: wanted a torch tensor.*NoneType"),
    (distill, "logits_policy", None, "logits_policy: wanted a torch tensor .*NoneType"),
    (distill, "logits_actor", torch.zeros(B, T, V).long(), "logits_actor: wanted floating-point"),
]


@pytest.mark.parametrize(("loss", "name", "value", "said"), TYPES)
def test_what_is_no_tensor_of_numbers_is_refused(loss, name, value, said):
    with pytest.raises(TypeError, match=said):
        loss(given() | {name: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_tokens": 10.5}, "n_tokens = 10.5; it is a whole number"),
        ({"n_tokens": math.nan}, "n_tokens = nan; it is a whole number"),
        ({"n_tokens": None}, "n_tokens = None; it is a whole number"),
        ({"clip_low": "0.2"}, "clip_low = '0.2'; it is a number"),
        ({"clip_high": None}, "clip_high = None; it is a number"),
        ({"clip_low": math.nan}, "clip_low must be at least 0"),
        ({"type": "jackpot"}, "the actor's loss takes one of none, importance, tis, icepop"),
        ({"type": "icepop", "cap": 2.0}, "cap has no effect"),
        ({"type": "none"}, "logp_actor_ref has no effect"),
        ({"cap": -1.0}, "cap = -1.0; it is above 0"),
        ({"foo": 1.0}, "actor_loss takes no foo"),
    ],
)
def test_keywords_of_the_actors_loss_are_refused_by_name(change, said):
    with pytest.raises((TypeError, ValueError), match=said):
        actor(given(), **change)


@pytest.mark.parametrize(
    ("loss", "change", "said"),
    [
        (policy, {"clip_lo": 0.1}, "no bound is called clip_lo"),
        (policy, {"clip_low": None}, "clip_low = None; it is a number"),
        (distill, {"top_k": 2.5}, "top_k = 2.5; it is a whole number"),
        (distill, {"temperature": None}, "temperature = None; it is a number"),
    ],
)
def test_keywords_of_the_other_losses_are_refused_by_name(loss, change, said):
    with pytest.raises(TypeError, match=said):
        loss(given(), **change)


def test_shapes_and_masks_that_do_not_fit_are_refused_by_name():
    x = given()
    half, nan = x["mask"].float() * 0.5, x["mask"] * math.nan
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (policy, {"advantage": x["advantage"][:, :1]}, r"advantage: wanted \(3,\) or \(3, 4\)"),
        (policy, {"weights": weights_of(x)._replace(scale=torch.ones(2, 4))}, "weights.scale: w"),
        (actor, {"mask": half}, "mask: a value that is neither 0 nor 1"),
        (actor, {"mask": nan}, "mask: a value that is neither 0 nor 1"),
        (distill, {"mask": half}, "mask: a value that is neither 0 nor 1"),
        (distill, {"mask": x["mask"][:2]}, r"mask: wanted \(3, 4\), found \(2, 4\)"),
        (distill, {"logits_actor": x["logits_actor"][:2]}, "with the same tokens in the last axis"),
        (distill, {"logits_actor": x["logits_actor"][..., :4]}, "with the same tokens"),
    ]
    for loss, change, said in cases:
        with pytest.raises(ValueError, match=said):
            loss(x | change)


def test_what_a_corrector_cannot_read_is_refused_by_name():
    x, corrector = given(), jt.Corrector(z="batch")
    topk = jt.TopK(torch.full((B, T, 2), -1.0), torch.full((B, T, 2), -1.0), x["mask"])
    state = jt.Corrector().state_dict()
    cases: list[tuple[Any, str]] = [
        (lambda: corrector.weights(None, x["ref"]), "logp_inf: wanted a torch tensor"),  # type: ignore[arg-type]
        (lambda: corrector.weights(x["inf"], None), "logp_ref: wanted a torch tensor"),  # type: ignore[arg-type]
        (lambda: corrector.weights(x["inf"].long(), x["ref"]), "logp_inf: wanted floating-point"),
        (lambda: corrector.weights(x["inf"], x["ref"], mask=[1]), "mask: wanted a torch tensor"),  # type: ignore[arg-type]
        (lambda: corrector.weights(x["inf"], x["ref"], sequence_id=[0, 1, 2]), "sequence_id: want"),  # type: ignore[arg-type]
        (
            lambda: jt.Corrector().weights(x["inf"], x["ref"], topk=tuple(topk)),  # type: ignore[arg-type]
            "topk: wanted jackpot.torch.TopK",
        ),
        (
            lambda: jt.Corrector().weights(
                x["inf"], x["ref"], topk=topk._replace(in_topk=x["mask"].long())
            ),
            "in_topk: wanted .* bool, found .*int64",
        ),
        (
            lambda: jt.Corrector().weights(
                x["inf"], x["ref"], topk=jt.TopK(topk[0][..., :0], topk[1][..., :0], x["mask"])
            ),
            "topk_logp_inf: .*k is at least 1",
        ),
        (lambda: jt.Corrector(gather=3), "gather must be a function"),  # type: ignore[arg-type]
        (lambda: corrector.load_state_dict(None), "wanted what state_dict returns"),  # type: ignore[arg-type]
        (lambda: corrector.load_state_dict({**state, "step": -1}), "step is -1"),
        (lambda: corrector.load_state_dict({**state, "step": 1.5}), "step is 1.5"),
        (lambda: jt.group_advantage([1.0], torch.zeros(1)), "reward: wanted a torch tensor"),  # type: ignore[arg-type]
        (lambda: jt.group_advantage(torch.ones(1), torch.zeros(1)), "group: wanted integers"),
    ]
    for call, said in cases:
        with pytest.raises((TypeError, ValueError), match=said):
            call()


def test_tokens_that_do_not_count_may_hold_anything():
    """Empty and wholly masked microbatches have a loss of 0."""
    x = given()
    want = [loss(x) for loss in (policy, actor, distill)]
    spoiled = {
        name: v.masked_fill(~(x["mask"] if v.ndim == 2 else x["mask"][..., None]), math.nan)
        for name, v in x.items()
        if name != "mask"
    }
    got = [loss(x | spoiled) for loss in (policy, actor, distill)]
    assert [float(v) for v in got] == pytest.approx([float(v) for v in want], rel=1e-6)
    none = torch.zeros_like(x["mask"])
    weights = jt.Corrector(type="none").weights(x["inf"], x["ref"], mask=none)
    assert policy(x | {"weights": weights}) == actor(x | {"mask": none}) == 0
    empty = {name: v[:0] for name, v in x.items()} | {"weights": weights.at(slice(0, 0))}
    assert policy(empty) == actor(empty) == distill(empty) == 0
