"""A small model, its ids and plain float64 log-probabilities; a counter of matrix products."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llm.models.lm_head.chunked import Chunk, Head

N, V = 7, 23
CHUNKS = [Chunk(1, 1), Chunk(3, 5), Chunk(7, 23), Chunk(2, 22), Chunk(100, 100)]


def random(
    *shape: int, seed: int, dtype: torch.dtype = torch.float64, scale: float = 1.0
) -> torch.Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (scale * made).to(dtype).requires_grad_()


def model(
    seed: int,
    n: int = N,
    v: int = V,
    h: int = 5,
    bias: bool = False,
    softcap: float | None = None,
    dtype: torch.dtype = torch.float64,
    scale: float = 1.0,
) -> tuple[torch.Tensor, Head]:
    """Hidden states, (n, h), and a head, (v, h)."""
    head = Head(
        random(v, h, seed=seed, dtype=dtype, scale=scale),
        random(v, seed=seed + 1, dtype=dtype) if bias else None,
        softcap,
    )
    return random(n, h, seed=seed + 2, dtype=dtype), head


def ids(*shape: int, seed: int, v: int = V) -> torch.Tensor:
    return torch.randint(v, shape, generator=torch.Generator().manual_seed(seed))


def reference_logp(
    hidden: torch.Tensor, head: Head, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and log-probabilities, (n, v): float64, whatever the inputs."""
    logits = hidden.double() @ head.weight.double().T
    logits = logits if head.bias is None else logits + head.bias.double()
    logits = logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
    return logits / temperature, torch.log_softmax(logits / temperature, -1)


class Products(TorchDispatchMode):
    """Counts multiplications of matrix products."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__.rstrip("_")
        assert name not in ("bmm", "baddbmm", "matmul", "linear")
        if name in ("mm", "addmm"):
            a, b = args[-2:]
            self.count += a.shape[0] * a.shape[1] * b.shape[1]
        return func(*args, **(kwargs or {}))
