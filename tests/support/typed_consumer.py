"""What a consumer of the package writes. `make dist` checks its types, and runs it.

Two assignments are wrong. mypy reports an `ignore` that ignores nothing, so it passes here only if
it sees the package's types; without `py.typed` everything would be Any, and the errors not there.
"""

import numpy as np

import jackpot

ones = np.ones(3)
calibration: float = jackpot.kappa(ones, ones)
wrong: str = jackpot.kappa(ones, ones)  # type: ignore[assignment]
tail: jackpot.TailStatistic = jackpot.smooth_tail(
    jackpot.TailStatistic(1.0, 1.0), jackpot.TailStatistic(1.0, 1.0), 0.9
)
also_wrong: int = jackpot.lam_from_samples(ones, 0.9)  # type: ignore[assignment]
