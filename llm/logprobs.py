"""From a model and token ids to log-probabilities of the completion, in float32."""

from __future__ import annotations

import torch


def completion_logprobs(
    model: torch.nn.Module,
    ids: torch.Tensor,
    is_real: torch.Tensor,
    completion_width: int,
    temperature: float,
) -> torch.Tensor:
    """Full-vocabulary log-probabilities at every completion position.

    Args:
        model: causal language model.
        ids: prompt (left-padded) then completion (right-padded), shape (b, t_prompt + t).
        is_real: True where `ids` holds a token rather than padding; same shape.
        completion_width: t, the positions scored.
        temperature: divides the logits, as it did when sampling.

    Returns:
        log-probabilities, nats, float32, shape (b, t, v): entry [:, i] is the distribution that
        completion token i is drawn from.
    """
    out = model(
        input_ids=ids,
        attention_mask=is_real.long(),
        position_ids=positions(is_real),
        logits_to_keep=completion_width + 1,
        use_cache=False,
    )
    return torch.log_softmax(out.logits[:, :-1].float() / temperature, dim=-1)


def positions(is_real: torch.Tensor) -> torch.Tensor:
    """Position of each token within its own sequence, whatever the padding around it. (b, t)."""
    return (is_real.long().cumsum(dim=1) - 1).clamp(min=0)


def chosen(logp: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability of the token taken: (b, t, v), (b, t) -> (b, t)."""
    return logp.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def log_tail(logp_known: torch.Tensor) -> torch.Tensor:
    """log of the mass left outside the known tokens, (..., k) -> (...); -inf where none is left.

    Computed as log(1 - sum): rounding may push the sum past 1, which means there is no tail.
    """
    rest = 1.0 - logp_known.exp().sum(dim=-1)
    return torch.where(rest > 0, rest, torch.zeros_like(rest)).log()


def with_tail(logp_known: torch.Tensor) -> torch.Tensor:
    """The known tokens and, last, all others as one, (..., k) -> (..., k + 1)."""
    return torch.cat([logp_known, log_tail(logp_known).unsqueeze(-1)], dim=-1)


def entropy(logp: torch.Tensor) -> torch.Tensor:
    """Entropy in nats, (..., v) -> (...)."""
    return -(logp.exp() * logp).sum(dim=-1)
