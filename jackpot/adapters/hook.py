"""What all adapters share: options, weights, the loss of a token, metrics, and a counter.

A peer hands over log-probabilities of sampled tokens, one microbatch at a time, and as a rule
without the top k of the sampler. So statistics (the acceptance rate in the place of Z, a lam from a
budget) are of one microbatch of one process.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import torch

from jackpot.torch.checks import ratio_of, refuse_unusable, require_tensor
from jackpot.torch.corrector import Corrector, TopK, UpdateWeights
from jackpot.torch.objectives import ppo
from jackpot.torch.token_layout import per_token

OPTIONS_VARIABLE = "JACKPOT_OPTIONS"
UNTESTED_VARIABLE = "JACKPOT_UNTESTED_PEER"
_OPTIONS_MAX_CHARACTERS = 10_000  # a few dozen numbers; more is no table of options
# Without the sampler's top k there is no Z of a state and no lam of a state.
_NEEDS_TOP_K = (("z", "state"), ("lam_from", "state"))
# A lam that is tracked over steps needs to know where a step ends, which peers do not say.
_NOWHERE = (("lam_from", "tracked"),)


class PeerError(RuntimeError):
    """A peer that the adapter was not tested with, or that does not hand over what it needs."""


class Hook:
    """One adapter's correction in one process.

    Args:
        peer: the peer's name, for messages.
        options: settings of `jackpot.torch.Corrector`; None: those of the environment variable
            JACKPOT_OPTIONS, a JSON object, which reaches workers in other processes too. Defaults
            are z = "batch" and mask = "expected". The expected mask multiplies by the acceptance
            probability, so no random numbers depend on how the peer splits its batch.
        defaults: other defaults, of this adapter.
        one_policy: the peer hands over one log-probability of the policy, not p_ref and p_new.
        has_topk: the adapter has the sampler's likeliest tokens of each state, so that z = state
            and lam_from = state are possible.

    Raises:
        TypeError, ValueError: as `Corrector`; an option that no adapter can follow.
    """

    def __init__(
        self,
        peer: str,
        options: Mapping[str, Any] | None = None,
        *,
        defaults: Mapping[str, Any] | None = None,
        one_policy: bool = False,
        has_topk: bool = False,
    ) -> None:
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(
                f"{peer}: jackpot's options are a table such as {{'lam': 1.0, 'c1': 3.0}}, got "
                f"{options!r}"
            )
        given = dict(options if options is not None else options_of_environment())
        for name, refused in _NOWHERE if has_topk else _NEEDS_TOP_K + _NOWHERE:
            if given.get(name) == refused:
                raise ValueError(
                    f"{peer}: {name} = {given[name]!r} needs what {peer} does not hand over. "
                    "docs/adapters.md has a table of what each adapter can do"
                )
        if one_policy and given.get("target", "ref") != "ref":
            raise ValueError(
                f"{peer} hands over one log-probability of the policy, which is the target: leave "
                f"target out, got {given['target']!r}"
            )
        if "denominator" in given:
            raise ValueError(f"{peer}: the denominator is {peer}'s own setting")
        obrs = given.get("type", "jackpot") == "jackpot"
        own = {"z": "batch", "mask": "expected", **(defaults or {})} if obrs else {}
        self.peer = peer
        self.options = own | given
        self.wants_topk = obrs and any(self.options.get(name) == x for name, x in _NEEDS_TOP_K)
        self.calls, self.tokens = 0, 0
        self._corrector = Corrector(**self.options)

    def weights(
        self,
        logp_inf: torch.Tensor | None,
        logp_ref: torch.Tensor,
        logp_new: torch.Tensor,
        mask: torch.Tensor | None = None,
        sequence: torch.Tensor | None = None,
        topk: TopK | None = None,
        *,
        trains: bool = True,
    ) -> UpdateWeights:
        """As `Corrector.weights`, of one microbatch; counts that it was called.

        topk: where `wants_topk` is True. trains: False in an evaluation, which leaves the tail
        ratio and the coins of the training as they are.

        Raises:
            PeerError: the peer gave no log-probabilities of the sampler.
        """
        if logp_inf is None:
            raise PeerError(
                f"{self.peer} gave no log-probabilities of the sampler. Switch them on in its "
                "settings (docs/adapters.md); without them there is nothing to correct"
            )
        for name, x in (("p_ref", logp_ref), ("p_new", logp_new)):
            required(self.peer, f"log-probabilities of the policy (log {name})", x)
        new = logp_new.detach() if self.options.get("target") == "new" else None
        before = None if trains else self._corrector.state_dict()
        weights = self._corrector.weights(
            logp_inf.detach(), logp_ref.detach(), new, mask, sequence=sequence, topk=topk
        )
        self._corrector.end_step()  # each call has coins of its own
        if before is not None:
            self._corrector.load_state_dict(before)
        self.calls += 1
        self.tokens += int(weights.tokens.weight.numel())
        return weights

    def metrics(self, weights: UpdateWeights) -> dict[str, float]:
        """The same names in every peer: jackpot/ and the names of docs/metrics.md; the counter."""
        named = {f"jackpot/{name}": value for name, value in weights.metrics.items()}
        return named | {"jackpot/hook_calls": float(self.calls)}

    def require_called(self) -> None:
        """Raise PeerError if the peer never called the hook: its settings did not select it."""
        if self.calls == 0:
            raise PeerError(
                f"{self.peer} has not called jackpot's hook: training goes on without correction. "
                "docs/adapters.md leads to the configuration that selects it"
            )


def token_losses(
    logp_new: torch.Tensor,
    logp_ref: torch.Tensor,
    advantage: torch.Tensor,
    weights: UpdateWeights,
    clip_low: float,
    clip_high: float,
) -> torch.Tensor:
    """-weight min(r A, clip(r) A) of each token, in the layout of `weights`; the peer reduces it.

    0 at tokens of weight 0, which are left out before anything is computed: neither a rejected
    token nor padding can make a NaN.

    Raises:
        TypeError: what is no tensor of numbers.
        ValueError: shapes that do not fit; at a token that counts, NaN, inf, a positive
            log-probability or a ratio that overflows.
    """
    kept = weights.weight != 0
    for name, x in (("logp_new", logp_new), ("logp_ref", logp_ref)):
        require_tensor(name, x)
        if x.shape != kept.shape:
            raise ValueError(f"{name}: wanted {tuple(kept.shape)}, found {tuple(x.shape)}")
    new, ref = logp_new[kept].float(), logp_ref.detach()[kept].float()
    advantage = per_token(advantage, kept).detach()[kept].float()
    others = {"advantage": advantage, "p_new / p_ref": ratio_of(new, ref)}
    refuse_unusable({"logp_new": new, "logp_ref": ref}, others, "tokens that count")
    objective = ppo(new, ref, advantage, clip_low=clip_low, clip_high=clip_high)
    losses = torch.zeros_like(logp_new, dtype=torch.float32)
    losses[kept] = -weights.weight[kept] * objective.term
    return losses


def required(peer: str, what: str, value: Any, advice: str = "") -> Any:
    """The value, which a peer hands over.

    Args:
        what: its name. advice: which setting of the peer brings it.

    Raises:
        PeerError: there is none.
    """
    if value is None:
        raise PeerError(
            f"{peer} gave no {what}. {advice or 'Its version may hand over other names'}: "
            "docs/adapters.md leads to the page of what this adapter reads"
        )
    return value


def options_of_environment() -> dict[str, Any]:
    """The JSON object in JACKPOT_OPTIONS; empty where there is none.

    Raises:
        ValueError: it is no object of numbers, words and true or false.
    """
    text = os.environ.get(OPTIONS_VARIABLE, "").strip()
    if not text:
        return {}
    if len(text) > _OPTIONS_MAX_CHARACTERS:
        raise ValueError(
            f"{OPTIONS_VARIABLE} has {len(text)} characters; it is a small JSON object"
        )
    try:
        options = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{OPTIONS_VARIABLE} is no JSON: {e}") from e
    simple = isinstance(options, dict) and all(
        isinstance(value, str | int | float | bool) for value in options.values()
    )
    if not simple:
        raise ValueError(
            f'{OPTIONS_VARIABLE}: wanted a JSON object such as {{"lam": 1.0, "c1": 3.0}}'
        )
    return dict(options)


def require_tested(package: str, tested: tuple[str, ...]) -> str:
    """The installed version of a peer, if the adapter was tested with it.

    Args:
        tested: versions, or their beginnings: "1.16" is every release 1.16.x. A version before a
            release, such as 1.16.0.dev3 or 1.16.0rc1, passes only where it is named itself. What
            follows a + names a build of the same version.

    Raises:
        PeerError: not installed, or another version. JACKPOT_UNTESTED_PEER = 1 lets it pass.
    """
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as e:
        raise PeerError(f"{package} is not installed") from e
    public = version.split("+")[0]
    release = r"(\.[0-9]+)*(\.post[0-9]+)?"
    matches = any(version == t or re.fullmatch(re.escape(t) + release, public) for t in tested)
    if not matches and os.environ.get(UNTESTED_VARIABLE) != "1":
        raise PeerError(
            f"{package} {version} was not tested with this adapter, which reads its internals; "
            f"tested: {', '.join(tested)}. Install one of these, or set {UNTESTED_VARIABLE}=1 and "
            "compare the metric jackpot/hook_calls and the first losses yourself"
        )
    return version


def require_read(package: str, read: tuple[str, ...]) -> str | None:
    """As `require_tested`, for a peer that may run from a checkout, which has no version.

    Args:
        read: versions whose source the adapter was written from.

    Returns:
        None where no version is known: then nothing is refused.
    """
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return require_tested(package, read)
