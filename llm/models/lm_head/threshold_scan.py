"""Which entries of a row exceed a floor: their number and mass, without a sort."""

from __future__ import annotations

import torch

Tensor = torch.Tensor

_STRETCH = 128  # entries of a row looked at together
_TOGETHER = 1 << 22  # entries of a matrix: bounds what is copied where most are above their floor
_PER_TOKEN = 256  # candidates of a pass that are kept, on average; what has more is passed again
_MARGIN = 1e-3  # nats, what rounding may do to a log-sum-exp


def above(logp: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Count and mass of the entries of each row that exceed its floor: (n, v), (n,) -> (n,) twice.

    Args:
        logp: log-probabilities, nats, float32 or float64. floor: nats.

    Returns:
        Both float64, so that sums do not depend on their order to more than 1e-13.
    """
    size, parts = max(1, _TOGETHER // logp.shape[1]), []
    for part, low in zip(logp.split(size), floor.split(size), strict=True):
        parts.append(_sums(*entries_above(part, low), len(part)))
    counts, masses = zip(*parts, strict=True)
    return torch.cat(counts), torch.cat(masses)


def entries_above(x: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Row and value of each entry that exceeds its row's floor: (n, v), (n,) -> (m,) twice."""
    # A GPU compares all entries in less time than it loses by waiting for a second `nonzero`.
    return (_by_stretches if x.device.type == "cpu" else _by_entries)(x, floor)


def _by_entries(x: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    row, column = (x > floor[:, None]).nonzero(as_tuple=True)
    return row, x[row, column]


def _by_stretches(x: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    whole = x.shape[1] - x.shape[1] % _STRETCH
    stretches = x[:, :whole].unflatten(1, (-1, _STRETCH))  # (n, stretches, 128)
    # One pass over all entries finds the few stretches worth looking into, (m,) each.
    row, place = (stretches.amax(-1) > floor[:, None]).nonzero(as_tuple=True)
    rest = torch.arange(len(x), device=x.device), x[:, whole:]  # what fills no stretch
    rows, values = [], []
    for at, some in ((row, stretches[row, place]), rest):
        i, j = (some > floor[at, None]).nonzero(as_tuple=True)
        rows.append(at[i])
        values.append(some[i, j])
    return torch.cat(rows), torch.cat(values)


def _sums(row: Tensor, logp: Tensor, n: int) -> tuple[Tensor, Tensor]:
    count, mass = logp.new_zeros((2, n), dtype=torch.float64)
    count.index_add_(0, row, torch.ones_like(logp, dtype=torch.float64))
    return count, mass.index_add_(0, row, logp.exp().double())


class Above:
    """The same from logits that pass by in blocks, whose log-sum-exp is known only at the end.

    What lies above the floor with a lower bound of the log-sum-exp is kept, (row, logit), and
    judged when that is known. Memory stays bounded: too many candidates, and `results` is None.
    """

    def __init__(self, floor: Tensor, bound: Tensor) -> None:
        """floor: nats, (n,). bound: at most the log-sum-exp, (n,): a known token's logit, say."""
        # The margin keeps what rounding of the bound would drop; `results` judges exactly.
        self.floor, self.bound = floor, bound - _MARGIN
        self.rows: list[Tensor] = []
        self.values: list[Tensor] = []
        self.kept, self.overflow = 0, False

    def add(self, rows: slice, logits: Tensor, lse_so_far: Tensor) -> None:
        """Take in a block (r, c) of some tokens; lse_so_far: of the blocks before, (r,)."""
        if self.overflow:
            return
        # l > floor + lse asks for l > floor + bound: the lse only grows as blocks pass by.
        self.bound[rows] = torch.maximum(self.bound[rows], lse_so_far - _MARGIN)
        row, value = entries_above(logits, self.floor[rows] + self.bound[rows])
        self.rows.append(row + rows.start)
        self.values.append(value)
        self.kept += len(row)
        if self.kept > _PER_TOKEN * len(self.floor):
            self._prune()  # by the sharper bounds of now
            # still half full: the next prune would come soon, so another pass is cheaper
            self.overflow = 2 * self.kept > _PER_TOKEN * len(self.floor)

    def results(self, lse: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """`above` of the log-probabilities (logits - lse) in `dtype`."""
        if self.overflow:
            return None
        row, value = self._joined()
        logp = (value - lse[row]).to(dtype)
        high = logp > self.floor[row]
        return _sums(row[high], logp[high], len(lse))

    def _prune(self) -> None:
        row, value = self._joined()
        high = value > (self.floor + self.bound)[row]
        self.rows, self.values = [row[high]], [value[high]]
        self.kept = len(self.rows[0])

    def _joined(self) -> tuple[Tensor, Tensor]:
        if not self.rows:  # no block has passed by
            return self.floor.new_zeros(0, dtype=torch.long), self.floor[:0]
        return torch.cat(self.rows), torch.cat(self.values)
