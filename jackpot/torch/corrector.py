"""The correction of a trainer's updates, in its own layout: padded (B, T) or packed (n,) tokens.

A trainer of any make holds one `Corrector`. For each update it asks for the weights of the update's
tokens, puts them into `trainer_losses.policy_loss`, and calls `end_step` after the last update of
a rollout. The formulas are those of correction.py, which take flat tensors.

The trainer of this repository calls these formulas itself (llm/training/weights.py): its tokens are
flat already, and it checks each quantity before the next is computed from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple

import torch

from .checks import refuse, require_tensor
from .correction import (
    CorrectionInputs,
    CorrectionState,
    Gather,
    TokenWeights,
    next_state,
    token_weights,
    ungathered,
)
from .corrector_settings import check_settings
from .diagnostics import correction_metrics
from .losses import token_scale
from .token_layout import TokenLayout, acceptance_coins

_LOG_LAM_MAX = 700.0  # e^709 is the largest float64
_MASS_MAX = 1.02  # bfloat16 rounds a log-probability by 0.2 %; above it, it is no distribution


class TopK(NamedTuple):
    """q's k likeliest tokens in the state of each sampled token, for Z (z = state).

    logp_inf: log q of them, (B, T, k) or (n, k). logp_target: the target's log p of the same ids.
    in_topk: whether the sampled token is one of them, (B, T) or (n,), bool.
    """

    logp_inf: torch.Tensor
    logp_target: torch.Tensor
    in_topk: torch.Tensor


class UpdateWeights(NamedTuple):
    """What multiplies each token's term of the policy's loss, without gradient.

    weight: the correction, (B, T) or (n,) float32; 0 at rejected tokens and outside the mask.
    scale: the denominator, of the same shape; 0 outside the mask. Summed over all microbatches and
        processes, scale weight term is the mean that `denominator` names.
    n_tokens: tokens of the update on all processes.
    metrics: of the update's tokens on all processes; docs/metrics.md defines them.
    tokens: the flat values of this process, for those who want more.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    n_tokens: int
    metrics: dict[str, float]
    tokens: TokenWeights

    def at(self, rows: Any) -> UpdateWeights:
        """Those of some rows (padded) or tokens (packed): an index or slice of the first axis."""
        return self._replace(weight=self.weight[rows], scale=self.scale[rows])


class Corrector:
    """UpdateWeights of updates, and what they leave behind for later steps.

    Args:
        seed: of the acceptance coins.
        gather: with several processes, a function that puts the (n,) values of all of them
            together, (N,), in the same order in each; n may differ. Every process must make the
            same calls. None: this process has all tokens.
        denominator: proposed (all tokens), accepted, or sequence (the mean over completions of each
            one's mean).
        settings: keywords of `correction.token_weights` and `correction.obrs_weights`, and
            `lam_decay` of `correction.next_state`.

    Raises:
        TypeError: a setting that does not exist.
        ValueError: a value out of bounds, or a setting without effect beside the others.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        gather: Gather | None = None,
        denominator: str = "proposed",
        **settings: Any,
    ) -> None:
        check_settings(settings | {"denominator": denominator})
        self.settings = {"type": "jackpot", "target": "ref"} | settings
        self.denominator = denominator
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed must be a whole number, got {seed!r}")
        if gather is not None and not callable(gather):
            raise TypeError(f"gather must be a function of a tensor, got {gather!r}")
        self._seed, self._distributed = seed, gather is not None
        self._gather: Gather = gather or ungathered
        self._state, self._step = CorrectionState(), 0
        self._parts: list[TokenWeights] = []
        self._seen = 0  # completions of this step's earlier updates

    @torch.no_grad()
    def weights(
        self,
        logp_inf: torch.Tensor,
        logp_ref: torch.Tensor,
        logp_new: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        *,
        sequence: torch.Tensor | None = None,
        sequence_id: torch.Tensor | None = None,
        topk: TopK | None = None,
    ) -> UpdateWeights:
        """The weights of one update's tokens, from this process's part of them.

        Args:
            logp_inf: log q of the sampled tokens, where q is the distribution that was really
                sampled from, temperature and truncation included; (B, T) or (n,), in nats.
            logp_ref: of the policy before this rollout's updates, at the same temperature.
            logp_new: of the policy now. Only target = new needs it.
            mask: True at sampled tokens, (B, T) or (n,). Whatever stands elsewhere is not read.
            sequence: packed tokens: a number for each token's completion, (n,) integer; the tokens
                of a completion are neighbours and in order.
            sequence_id: a number for each completion that no other of the rollout has, (B,)
                integer, or (n,) with packed tokens. Coins belong to it and to the place of the
                token in its completion, so they depend on no layout. Several processes must give
                it; one counts the completions of a step that have a real token if it is not given.
            topk: needed by z = state and lam_from = state.

        Raises:
            TypeError: what is no tensor, or holds no floating-point numbers.
            ValueError: shapes that do not fit, NaN or inf where a number is needed, a positive
                log-probability, a weight that overflows.
        """
        layout = TokenLayout(logp_inf, mask, sequence)
        logps = {"logp_inf": logp_inf, "logp_ref": logp_ref, "logp_new": logp_new}
        self._check_given(logps, topk, sequence_id)
        ids = layout.ids(sequence_id, self._seen)
        all_ids = self._gather(ids)  # (N,)
        completion = _completions(ids, all_ids)  # (N,)
        coins = acceptance_coins(self._seed, self._step, ids, layout.place())
        inputs = _inputs(layout, logps, topk, coins)
        words = self._of_weights()
        if len(all_ids) == 0:  # no lam follows from no tokens, and none is needed
            words |= {"lam_from": "fixed"}
        tokens = token_weights(inputs, self._state, gather=self._gather, **words)
        _refuse_overflow(tokens.weight, self.settings["type"])
        everywhere = self._of_all(tokens)
        self._parts.append(everywhere)
        self._seen += layout.n_sequences
        # (N,) -> (n,): a scale depends on the token's completion alone, so equal ids have one.
        scale = self._scale(everywhere, completion, all_ids, ids)
        return UpdateWeights(
            weight=layout.padded(tokens.weight),
            scale=layout.padded(scale),
            n_tokens=len(all_ids),
            metrics=correction_metrics([everywhere], self.settings["type"]) if len(all_ids) else {},
            tokens=tokens,
        )

    def end_step(self) -> None:
        """After the last update of a rollout: lam and the tail ratio learn from its tokens.

        Raises:
            ValueError: there was no update since the last call.
        """
        if not self._parts:
            raise ValueError("end_step: no weights were computed since the last call of end_step")
        if self.settings["type"] == "jackpot":
            tracked = self.settings.get("lam_from") == "tracked"
            names = ("budget", "lam_decay", "lam_min", "lam_max") if tracked else ()
            words = {name: self.settings[name] for name in names if name in self.settings}
            self._state, _ = next_state(self._state, self._parts, tracked=tracked, **words)
        self._parts, self._seen = [], 0
        self._step += 1

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint, JSON included. Between steps, not inside one.

        Raises:
            ValueError: inside a step.
        """
        if self._parts:
            raise ValueError("state_dict: call end_step first; a step's updates are not finished")
        return {"step": self._step, "seed": self._seed, **asdict(self._state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            TypeError: no mapping.
            ValueError: other keys, another seed, or values that are no finite numbers.
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"load_state_dict: wanted what state_dict returns, found {type(state).__name__}"
            )
        names = {"step", "seed", *(field.name for field in fields(CorrectionState))}
        if set(state) != names:
            raise ValueError(f"load_state_dict: wanted {sorted(names)}, found {sorted(state)}")
        for name, value in state.items():
            optional = name == "log_lam" and value is None
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not optional and not (number and math.isfinite(value)):
                raise ValueError(f"load_state_dict: {name} is {value!r}; wanted a finite number")
            if name.startswith("tail_") and value < 0:
                raise ValueError(f"load_state_dict: {name} is {value!r}; wanted a number from 0")
            if name == "log_lam" and not optional and abs(value) > _LOG_LAM_MAX:
                raise ValueError(
                    f"load_state_dict: log_lam is {value!r}; wanted a size up to {_LOG_LAM_MAX:g}"
                )
        step = state["step"]
        if not 0 <= step < 2**64 or step != int(step):
            raise ValueError(
                f"load_state_dict: step is {step!r}; wanted a whole number from 0, below 2^64"
            )
        if state["seed"] != self._seed:
            raise ValueError(
                f"load_state_dict: the state is of seed {state['seed']}, this corrector has seed "
                f"{self._seed}: its coins would be others. Make it with seed={state['seed']}"
            )
        own = {field.name: state[field.name] for field in fields(CorrectionState)}
        self._state, self._step = CorrectionState(**own), int(state["step"])
        self._parts, self._seen = [], 0

    def _of_weights(self) -> dict[str, Any]:
        """The settings that `token_weights` takes."""
        return {name: value for name, value in self.settings.items() if name != "lam_decay"}

    def _check_given(
        self,
        logps: Mapping[str, torch.Tensor | None],
        topk: TopK | None,
        sequence_id: torch.Tensor | None,
    ) -> None:
        require_tensor("logp_ref", logps["logp_ref"])
        if topk is not None and not isinstance(topk, TopK):
            raise TypeError(
                "topk: wanted jackpot.torch.TopK(logp_inf, logp_target, in_topk), found "
                f"{type(topk).__name__}"
            )
        jackpot = self.settings["type"] == "jackpot"
        wants = [
            f"{name} = state"
            for name, default in (("z", "state"), ("lam_from", "fixed"))
            if jackpot and self.settings.get(name, default) == "state"
        ]
        if wants and topk is None:
            raise ValueError(
                f"{' and '.join(wants)} needs topk: q's likeliest tokens of each state. Pass them, "
                "or choose z = 'batch', which needs the sampled tokens alone"
            )
        if not wants and topk is not None:
            raise ValueError("topk has no effect without z = 'state' or lam_from = 'state'")
        if self.settings["target"] == "new" and logps["logp_new"] is None:
            raise ValueError("target = new needs logp_new, the policy's log-probabilities now")
        if self._distributed and sequence_id is None:
            raise ValueError(
                "with gather, sequence_id is needed: numbers that no two completions of all "
                "processes share, or processes would throw the same coins"
            )

    def _of_all(self, tokens: TokenWeights) -> TokenWeights:
        """The flat values of all processes. kappa and the tail's part are so already."""
        tensors: dict[str, Any] = {
            name: self._gather(x) for name, x in vars(tokens).items() if isinstance(x, torch.Tensor)
        }
        return replace(tokens, **tensors)

    def _scale(
        self,
        everywhere: TokenWeights,
        completion: torch.Tensor,
        all_ids: torch.Tensor,
        ids: torch.Tensor,
    ) -> torch.Tensor:
        """`token_scale` of this process's tokens, (n,)."""
        if len(ids) == 0:
            return everywhere.accepted.new_zeros(0)
        n_sequences = int(completion.max()) + 1
        kind: Any = self.denominator
        scale = token_scale(kind, everywhere.accepted, completion, n_sequences)  # (N,)
        order = all_ids.argsort()
        return scale[order][torch.searchsorted(all_ids[order], ids)]


def _completions(ids: torch.Tensor, all_ids: Any) -> torch.Tensor:
    """From 0 on, the completion of each token of all processes, (N,).

    Args:
        ids: of this process's tokens, (n,). all_ids: what `gather` made of them.

    Raises:
        TypeError: no tensor (N,). ValueError: not all of these tokens are in it, or other tokens
            have their numbers.
    """
    if not isinstance(all_ids, torch.Tensor) or all_ids.ndim != 1:
        tensor = isinstance(all_ids, torch.Tensor)
        found = f"{tuple(all_ids.shape)} of {all_ids.dtype}" if tensor else type(all_ids).__name__
        raise TypeError(f"gather: wanted a tensor (N,), found {found}")
    names, completion, lengths = torch.unique(all_ids, return_inverse=True, return_counts=True)
    own, own_lengths = torch.unique(ids, return_counts=True)
    if len(own) == 0:
        return completion
    place = torch.searchsorted(names, own).clamp(max=max(len(names) - 1, 0))
    if len(names) == 0 or bool(((names[place] != own) | (lengths[place] != own_lengths)).any()):
        raise ValueError(
            "sequence_id: a number of this process's completions has other tokens on all processes "
            "than on this one. Give numbers that no two processes share, and as gather a function "
            "that puts the values of all processes one after another, and does not add them"
        )
    return completion


def _inputs(
    layout: TokenLayout,
    logps: Mapping[str, torch.Tensor | None],
    topk: TopK | None,
    coins: torch.Tensor,
) -> CorrectionInputs:
    """Flat and checked. Where nothing reads logp_new, logp_ref may stand in its place."""
    flat = {name: layout.logp(name, x) for name, x in logps.items() if x is not None}
    # log q of a sampled token is finite, because it was sampled.
    refuse(~torch.isfinite(flat["logp_inf"]), "logp_inf", "NaN or inf")
    return CorrectionInputs(
        logp_inf=flat["logp_inf"],
        logp_ref=flat["logp_ref"],
        logp_new=flat.get("logp_new", flat["logp_ref"]),
        **_topk_inputs(layout, topk),
        uniform=coins,
        sequence=layout.sequence,
    )


def _topk_inputs(layout: TokenLayout, topk: TopK | None) -> dict[str, torch.Tensor]:
    n, device = len(layout.sequence), layout.sequence.device
    if topk is None:  # not read: neither z nor lam is of the state
        none = torch.zeros((n, 0), device=device)
        return {
            "topk_logp_inf": none,
            "topk_logp_target": none,
            "in_topk": torch.ones(n, dtype=torch.bool, device=device),
        }
    flat = {
        "topk_logp_inf": layout.logp("topk_logp_inf", topk.logp_inf),  # (n, k)
        "topk_logp_target": layout.logp("topk_logp_target", topk.logp_target),
    }
    wanted = (*layout.mask.shape, topk.logp_inf.shape[-1])
    if wanted[-1] == 0:
        raise ValueError(f"topk_logp_inf: {wanted} holds no token of a state; k is at least 1")
    for name, x in (("topk_logp_inf", topk.logp_inf), ("topk_logp_target", topk.logp_target)):
        if tuple(x.shape) != wanted:
            raise ValueError(f"{name}: wanted {wanted}, found {tuple(x.shape)}")
        mass = flat[name].exp().sum(dim=-1)  # (n,)
        if bool((mass > _MASS_MAX).any()):
            raise ValueError(
                f"{name}: the probabilities of a state add up to {float(mass.max()):.3g}. Give "
                "normalised log-probabilities of different tokens"
            )
    if not isinstance(topk.in_topk, torch.Tensor):
        raise TypeError(f"in_topk: wanted a bool tensor, found {type(topk.in_topk).__name__}")
    if topk.in_topk.shape != layout.mask.shape or topk.in_topk.dtype != torch.bool:
        raise ValueError(
            f"in_topk: wanted {tuple(layout.mask.shape)} bool, found "
            f"{tuple(topk.in_topk.shape)} {topk.in_topk.dtype}"
        )
    return flat | {"in_topk": topk.in_topk[layout.mask]}


def _refuse_overflow(weight: torch.Tensor, kind: str) -> None:
    """Finite log-probabilities may have a ratio above the largest float32."""
    if not bool(torch.isfinite(weight).all()):
        way = (
            "Set c1, the cap of a weight"
            if kind == "jackpot"
            else "Choose type = 'tis', which has a cap"
        )
        raise ValueError(
            f"type = {kind}: the weight of a token is NaN or inf, because p / q is above 3e38. "
            f"{way}, or look for tokens that the sampler all but excludes"
        )
