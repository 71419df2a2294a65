"""A head's logits in blocks of (tokens, vocabulary), and the gradients of what makes them."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

Tensor = torch.Tensor


# bfloat16 operands, float32 sums: two rules, neither of which may be a measurement. Products by
# matrix tiles (Intel's AMX) and widened ones add in another order, so their last bits differ, and a
# run that is resumed must repeat itself to the last bit (`tests/test_llm_runs.py`). A timing may
# come out differently on the next start. What the processor can do does not, nor does the dtype:
# the same run on the same machine always takes the same way. (Between machines no BLAS promises
# equal bits.) Block sizes are constants for the same reason.
#
# Why tiles alone: there a product of bfloat16 takes 0.15 of a float32 one (1,024 x 2,048 x 384),
# and through `matmul.fp32_precision`, which is what gives us float32 sums, 0.35. On a processor that
# has bfloat16 instructions but no tiles it takes 1.0 to 1.1 so, and without any 1.0 to 1.3 (both by
# oneDNN's ONEDNN_MAX_CPU_ISA on a processor that has all): there the widened product is the fast one.
@functools.cache
def has_bf16_tiles() -> bool:
    """Whether this processor multiplies bfloat16 in tiles, and oneDNN is allowed to use them."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    if limit not in ("ALL", "DEFAULT") and "AMX" not in limit:
        return False
    try:
        supported, init = torch.cpu._is_amx_tile_supported, torch.cpu._init_amx
        torch.backends.mkldnn.matmul.fp32_precision  # noqa: B018  (from torch 2.9 on)
    except AttributeError:
        return False
    return bool(torch.backends.mkldnn.is_available() and supported() and init())


@contextlib.contextmanager
def bf16_products(wanted: bool) -> Iterator[None]:
    """float32 products inside may round their operands to bfloat16; sums stay float32.

    Exact where the operands are bfloat16 values already. The setting is the process's, so it
    stands for a single product at a time.
    """
    if not wanted:
        yield
        return
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


class Chunk(NamedTuple):
    """A block's size. Buffers hold tokens x vocab x 4 bytes, two for each model and two more."""

    tokens: int = 1024
    vocab: int = 2048


class HeadBlocks:
    """One head during a pass: its logits by block, and the gradients of its three tensors."""

    tanh: Tensor | None = None  # of the block at hand: a buffer where a soft-cap needs its slope

    def __init__(
        self, tensors: Any, softcap: float | None, temperature: float, dtype: torch.dtype
    ) -> None:
        hidden, self.weight, self.bias, _ = tensors
        self.dtype, self.hidden = dtype, hidden.to(dtype)
        self.softcap, self.temperature = softcap, temperature
        both_bf16 = hidden.dtype == self.weight.dtype == torch.bfloat16 and dtype == torch.float32
        self.tiles = both_bf16 and hidden.device.type == "cpu" and has_bf16_tiles()
        self.dw: Any = None

    def load(self, cols: slice) -> None:
        self.w = self.weight[cols].to(self.dtype)
        self.b = None if self.bias is None else self.bias[cols].to(self.dtype)
        if self.dw is not None:
            part, self.fresh = self.dw[cols], True
            self.dw_block = part if part.dtype == self.dtype else torch.empty_like(self.w)

    def close(self, cols: slice) -> None:
        if self.dw is not None:
            if self.fresh:  # no token of the block has a gradient
                self.dw_block.zero_()
            if self.dw.dtype != self.dtype:
                self.dw[cols].copy_(self.dw_block)

    def logits(self, rows: slice, buffer: Tensor) -> Tensor:
        """softcap(h W^T + b) / temperature of a token chunk and the loaded block, (r, c)."""
        hidden = self.hidden[rows]
        out = buffer[: len(hidden) * len(self.w)].view(len(hidden), len(self.w))
        scale = 1.0 / (self.softcap or self.temperature)
        with bf16_products(self.tiles):
            torch.addmm(out, hidden, self.w.t(), beta=0, alpha=scale, out=out)
        if self.b is not None:
            out.add_(self.b, alpha=scale)
        if self.softcap is not None:
            out.tanh_()
            if self.tanh is not None:
                view(self.tanh, out).copy_(out)
            out.mul_(self.softcap / self.temperature)
        return out

    def logit_of_given(self, ids: Tensor, chunk: Chunk) -> Tensor:
        """The largest logit of each token's first two ids, (n, k) -> (n,), without a block."""
        found = []
        parts = ids[:, :2].split(chunk.tokens)
        for hidden, part in zip(self.hidden.split(chunk.tokens), parts, strict=True):
            logits = (self.weight[part].to(self.dtype) @ hidden[:, :, None])[..., 0]
            logits = logits if self.bias is None else logits + self.bias[part].to(self.dtype)
            if self.softcap is not None:
                logits = self.softcap * torch.tanh(logits / self.softcap)
            found.append(logits.amax(1) / self.temperature)
        return torch.cat(found)

    def start_gradients(self, needs: tuple[bool, bool, bool]) -> None:
        self.dh = torch.zeros_like(self.hidden) if needs[0] else None
        make = torch.empty_like if len(self.hidden) else torch.zeros_like  # no token: no block
        self.dw = make(self.weight) if needs[1] else None
        self.db = torch.zeros_like(self.bias, dtype=self.dtype) if needs[2] else None

    def add(self, rows: slice, cols: slice, dl: Tensor, pick: Tensor | None) -> None:
        """Take in dl = d loss / d logits of a chunk, (r, c); only rows in `pick` are not 0."""
        if self.tanh is not None:
            tanh = view(self.tanh, dl)
            dl.addcmul_(dl * tanh, tanh, value=-1.0)
        hidden = self.hidden[rows]
        if pick is not None:
            dl, hidden = dl[pick], hidden[pick]
        if self.db is not None:
            self.db[cols] += dl.sum(0)
        if self.dw is not None:
            beta, self.fresh = 0 if self.fresh else 1, False  # beta 0 spares reading zeros
            self.dw_block.addmm_(dl.t(), hidden, beta=beta)
        if self.dh is not None and pick is None:
            self.dh[rows].addmm_(dl, self.w)
        elif self.dh is not None:
            self.dh[rows].index_add_(0, pick, dl @ self.w)  # type: ignore[arg-type]

    def gradients(self, like: Tensor, kept: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of hidden, weight and bias, in their dtypes; `kept`: the rows of `like`."""
        dh = None if self.dh is None else self.dh.to(like.dtype)
        if dh is not None and kept is not None:
            dh = torch.zeros_like(like).index_copy_(0, kept, dh)
        return dh, self.dw, None if self.db is None else self.db.to(self.bias.dtype)


def blocks(sides: list[HeadBlocks], chunk: Chunk) -> Iterator[tuple[slice, slice]]:
    """Vocabulary blocks, loaded, and within each the token chunks."""
    n, v = len(sides[0].hidden), len(sides[0].weight)
    for start in range(0, v if n else 0, chunk.vocab):
        cols = slice(start, min(start + chunk.vocab, v))
        for side in sides:
            side.load(cols)
        for first in range(0, n, chunk.tokens):
            yield cols, slice(first, min(first + chunk.tokens, n))
        for side in sides:
            side.close(cols)


def buffers(side: HeadBlocks, chunk: Chunk, count: int) -> list[Tensor]:
    rows, cols = min(chunk.tokens, len(side.hidden)), min(chunk.vocab, len(side.weight))
    return [side.hidden.new_empty(rows * cols) for _ in range(count)]


def view(buffer: Tensor, like: Tensor) -> Tensor:
    return buffer[: like.numel()].view(like.shape)


def inside_block(ids: Tensor, cols: slice) -> tuple[Tensor, Tensor]:
    """Places of ids within a vocabulary block, clamped into it; and which really lie there."""
    inside = (ids >= cols.start) & (ids < cols.stop)
    return (ids - cols.start).clamp_(0, cols.stop - cols.start - 1), inside
