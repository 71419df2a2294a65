"""A head's logits in blocks of (tokens, vocabulary), and the gradients of what makes them."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

Tensor = torch.Tensor


# Whether to widen bfloat16 operands: a rule, never a measurement. Products in matrix tiles (Intel's
# AMX) and widened ones are both exact but are summed in another order, so their last bits differ. A
# run that is resumed must repeat itself to the last bit, and a timing may come out differently at
# the next start. What the processor can do does not, nor does the dtype: the same run on the same
# machine always goes the same way. (Between machines no BLAS promises equal bits.) Block sizes are
# constants for the same reason.
#
# Why tiles alone. Time of hidden W^T, (1,024 x 384) by 2,048 ids, over the widened product's, on a
# processor with all three (the others by ONEDNN_MAX_CPU_ISA = AVX512_CORE_BF16 and AVX512_CORE):
#                                                 tiles   bfloat16 without tiles   neither
#     rounded, what whole logits cost              0.13            2.0               5.7
#     with float32 sums, by `rounded_operands`     0.26            1.1               1.2
# The gradients' products have a float32 factor, the logits' gradient. Tiles round it, as whole
# logits in bfloat16 do, and nothing else: see `ROUNDED_FROM`. On a GPU, tensor cores take the place
# of tiles. There the factor is rounded to TF32, an eighth of the error of bfloat16.
@functools.cache
def has_bf16_tiles() -> bool:
    """Whether this processor multiplies bfloat16 in tiles, and oneDNN is allowed to use them."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    if limit not in ("ALL", "DEFAULT") and "AMX" not in limit:
        return False
    try:
        supported, init = torch.cpu._is_amx_tile_supported, torch.cpu._init_amx
        torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]  # noqa: B018
    except AttributeError:  # of a torch before 2.9
        return False
    return bool(torch.backends.mkldnn.is_available() and supported() and init())


def operand_precision(device: torch.device) -> str:
    """What float32 products may round bfloat16 values to, which changes none: "bf16" or "tf32",
    and "" where rounding gains nothing. TF32, of tensor cores, keeps 11 bits where bfloat16 has 8.
    """
    if device.type == "cuda":  # without tensor cores the setting has no effect
        return "tf32"
    return "bf16" if device.type == "cpu" and has_bf16_tiles() else ""


@contextlib.contextmanager
def rounded_operands(precision: str) -> Iterator[None]:
    """float32 products inside may round their operands to that precision; sums stay float32.

    Exact where the operands are bfloat16 values already. The setting is the process's, so it
    stands for a single product at a time. precision: "bf16" (CPU), "tf32" (CUDA), or "" for none.
    """
    if not precision:
        yield
        return
    setting: Any = torch.backends.mkldnn if precision == "bf16" else torch.backends.cuda
    setting, name, value = setting.matmul, "fp32_precision", precision
    if precision == "tf32" and not hasattr(setting, name):  # of a torch before 2.9
        name, value = "allow_tf32", True  # type: ignore[assignment]
    before = getattr(setting, name)
    if before != value:  # written twice, torch forgets which of its two names was used
        setattr(setting, name, value)
    try:
        yield
    finally:
        if before != value:
            setattr(setting, name, before)


# Width from which tiles multiply the gradients too, where `has_bf16_tiles`. A constant, measured
# once: a step at 1,024 x 4,096 ids took 0.87 of the time with float32 products at width 64, 0.80
# at 128 and 0.79 at 256. Below it the gain is too small to round the logits' gradient for. Two
# bfloat16 terms, which would hold that to 2^-17, took 0.9 to 1.7 times as long as float32.
ROUNDED_FROM = 128


# An id of probability 0 has the logit -inf, and 0 times -inf is NaN in every sum over the
# vocabulary. So blocks hold a finite logit in its place: its exponential is 0 all the same, and so
# is whatever is multiplied with it. Anything below LOWEST is such a logit.
_MASKED = -1e20
LOWEST = -1e18


class Chunk(NamedTuple):
    """A block's size. Buffers hold tokens x vocab x 4 bytes, two for each model and two more.

    A constant of a device's kind, since sums depend on it in their last bits. The default is for
    CPUs. Smaller blocks, 512 x 2,048, 512 x 1,024 and 256 x 2,048, took 3 to 10 % longer in
    bfloat16 with tiles and 7 to 9 % in float32.
    """

    tokens: int = 1024
    vocab: int = 2048


# A GPU waits for the launch of each product unless the product is large: docs/performance.md
CUDA_CHUNK = Chunk(1024, 16384)


def default_chunk(device_type: str) -> Chunk:
    """The size of blocks on a device of that kind ("cpu", "cuda")."""
    return CUDA_CHUNK if device_type == "cuda" else Chunk()


class HeadBlocks:
    """One head during a pass: its logits by block, and the gradients of its three tensors."""

    tanh: Tensor | None = None  # of the block at hand: a buffer where a soft-cap needs its slope

    def __init__(
        self, tensors: Any, softcap: float | None, temperature: float, dtype: torch.dtype
    ) -> None:
        """tensors: hidden (n, h), weight (v, h), bias (v,) or None, ids. dtype: of a block."""
        hidden, self.weight, self.bias, _ = tensors
        self.dtype, self.hidden = dtype, hidden.to(dtype)  # (n, h) is small; weights go by block
        self.softcap, self.temperature = softcap, temperature
        both_bf16 = hidden.dtype == self.weight.dtype == torch.bfloat16 and dtype == torch.float32
        self.precision = operand_precision(hidden.device) if both_bf16 else ""
        wide = hidden.shape[1] >= ROUNDED_FROM
        self.gradient_precision = self.precision if wide else ""
        self.narrow_hidden = hidden
        self.dw: Any = None
        self.reused: dict[str, Tensor] = {}  # memory, see `_memory`

    def load(self, cols: slice, one_chunk: bool = False) -> None:
        """Widen a vocabulary block of the weight, (c, h), and begin its gradient.

        one_chunk: all tokens come in one chunk, so nothing is added to a product of theirs.
        """
        part, wide = self.weight[cols], self.dtype
        self.w = part if part.dtype == wide else self._memory("block", part, wide).copy_(part)
        self.b = None if self.bias is None else self.bias[cols].to(self.dtype).clamp(min=_MASKED)
        if self.dw is not None:
            part, self.fresh = self.dw[cols], True
            # Of a narrower weight summed apart, so that the sum is rounded once, by `close`. A
            # bfloat16 product of one chunk is complete: it is rounded once, into its place.
            in_place = self.gradient_precision == "bf16" and one_chunk
            apart = part.dtype != wide and not in_place
            self.dw_block = self._memory("gradient", part, wide) if apart else part

    def _memory(self, name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Memory of that shape; the same for all blocks of a pass.

        New memory for every block would be pages that the system hands out and takes back.
        """
        if name not in self.reused:  # the first block and the first chunk are the largest
            self.reused[name] = torch.empty(like.numel(), dtype=dtype, device=like.device)
        return view(self.reused[name], like)

    def close(self, cols: slice) -> None:
        """All tokens have passed the block: its gradient is complete."""
        if self.dw is not None:
            if self.fresh:  # no token of the block has a gradient
                self.dw_block.zero_()
            if self.dw_block.dtype != self.dw.dtype:
                self.dw[cols].copy_(self.dw_block)

    def logits(self, rows: slice, buffer: Tensor) -> Tensor:
        """softcap(h W^T + b) / temperature of a token chunk and the loaded block, (r, c)."""
        hidden = self.hidden[rows]
        out = buffer[: len(hidden) * len(self.w)].view(len(hidden), len(self.w))
        scale = 1.0 / (self.softcap or self.temperature)
        with rounded_operands(self.precision):
            torch.addmm(out, hidden, self.w.t(), beta=0, alpha=scale, out=out)
        if self.b is not None:
            out.add_(self.b, alpha=scale)
        if self.softcap is not None:
            out.tanh_()
            if self.tanh is not None:  # backward wants its slope
                view(self.tanh, out).copy_(out)
            out.mul_(self.softcap / self.temperature)
        return out

    def allows_more_than(self, other: HeadBlocks) -> bool:
        """Whether an id has a probability here and none there."""
        mine, theirs = self._masked(), other._masked()
        if theirs is None:
            return False
        return bool((theirs if mine is None else theirs & ~mine).any())

    def _masked(self) -> Tensor | None:
        """Ids of probability 0, (v,), by their bias; a soft-cap leaves none."""
        return None if self.bias is None or self.softcap is not None else self.bias < LOWEST

    def logit_of_given(self, ids: Tensor, chunk: Chunk) -> Tensor:
        """The largest logit of each token's first two ids, (n, k) -> (n,), without a block."""
        largest = []  # (tokens of a chunk,) each
        parts = ids[:, :2].split(chunk.tokens)
        for hidden, part in zip(self.hidden.split(chunk.tokens), parts, strict=True):
            # (r, 2, h) (r, h, 1) -> (r, 2)
            logits = (self.weight[part].to(self.dtype) @ hidden[:, :, None])[..., 0]
            logits = (
                logits
                if self.bias is None
                else logits + self.bias[part].to(self.dtype).clamp(min=_MASKED)
            )
            if self.softcap is not None:
                logits = self.softcap * torch.tanh(logits / self.softcap)
            largest.append(logits.amax(1) / self.temperature)
        return torch.cat(largest)

    def start_gradients(self, needs: tuple[bool, bool, bool]) -> None:
        self.dh = torch.zeros_like(self.hidden) if needs[0] else None
        make = torch.empty_like if len(self.hidden) else torch.zeros_like  # no token: no block
        self.dw = make(self.weight) if needs[1] else None
        self.db = torch.zeros_like(self.bias, dtype=self.dtype) if needs[2] else None

    def add(self, rows: slice, cols: slice, dl: Tensor, pick: Tensor | None) -> None:
        """Take in dl = d loss / d logits of a chunk, (r, c); only rows in `pick` are not 0."""
        if self.tanh is not None:
            tanh = view(self.tanh, dl)  # d softcap(z) / dz = 1 - tanh(z / cap)^2
            dl.addcmul_(dl * tanh, tanh, value=-1.0)
        hidden = self.hidden[rows]
        if pick is not None:
            dl, hidden = dl[pick], hidden[pick]
        if self.db is not None:
            self.db[cols] += dl.sum(0)
        summed = self.dw is not None and self.dw_block.dtype == self.dtype
        if self.dw is not None and not summed:  # one chunk in bfloat16, see `load`
            narrow, self.fresh = self._memory("dl", dl, torch.bfloat16).copy_(dl), False
            x = self.narrow_hidden if pick is None else self.narrow_hidden[pick]
            torch.mm(narrow.t(), x, out=self.dw_block)
        with rounded_operands(self.gradient_precision):  # dl is rounded, sums are not
            if summed:
                beta, self.fresh = 0 if self.fresh else 1, False  # beta 0 spares reading zeros
                self.dw_block.addmm_(dl.t(), hidden, beta=beta)  # (c, r) (r, h) -> (c, h)
            if self.dh is not None and pick is None:
                self.dh[rows].addmm_(dl, self.w)  # (r, c) (c, h) -> (r, h)
            elif self.dh is not None:
                self.dh[rows].index_add_(0, pick, dl @ self.w)  # type: ignore[arg-type]

    def gradients(self, like: Tensor, kept: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of hidden, weight and bias, in their dtypes; `kept`: the rows of `like`."""
        dh = None if self.dh is None else self.dh.to(like.dtype)
        if dh is not None and kept is not None:
            dh = torch.zeros_like(like).index_copy_(0, kept, dh)
        return dh, self.dw, None if self.db is None else self.db.to(self.bias.dtype)


def blocks(heads: list[HeadBlocks], chunk: Chunk) -> Iterator[tuple[slice, slice]]:
    """Vocabulary blocks, loaded, and within each the token chunks."""
    n, v = len(heads[0].hidden), len(heads[0].weight)
    for start in range(0, v if n else 0, chunk.vocab):
        cols = slice(start, min(start + chunk.vocab, v))
        for head in heads:
            head.load(cols, n <= chunk.tokens)
        for first in range(0, n, chunk.tokens):
            yield cols, slice(first, min(first + chunk.tokens, n))
        for head in heads:
            head.close(cols)


def buffers(head: HeadBlocks, chunk: Chunk, count: int) -> list[Tensor]:
    """Flat memory for that many blocks; `view` gives one the shape of the block at hand."""
    rows, cols = min(chunk.tokens, len(head.hidden)), min(chunk.vocab, len(head.weight))
    return [head.hidden.new_empty(rows * cols) for _ in range(count)]


def view(buffer: Tensor, like: Tensor) -> Tensor:
    return buffer[: like.numel()].view(like.shape)


def inside_block(ids: Tensor, cols: slice) -> tuple[Tensor, Tensor]:
    """Places of ids within a vocabulary block, clamped into it; and which really lie there."""
    inside = (ids >= cols.start) & (ids < cols.stop)
    # clamped so that an id of another block, too, can index this one; `inside` then drops it
    return (ids - cols.start).clamp_(0, cols.stop - cols.start - 1), inside
