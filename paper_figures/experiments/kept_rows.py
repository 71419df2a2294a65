"""Summaries of finished runs that are kept in the repository, one row each, so that drawing and
judging need no training. A row that is damaged, or not of the settings that it names, is refused.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .configurations import layers
from .studies import JUDGED, Entry, Study

HERE = Path(__file__).resolve().parents[1] / "kept"
COMMIT = re.compile(r"[0-9a-f]{40}")
_SIZE_MAX = 16 * 2**20  # bytes of a file of rows
_R = TypeVar("_R")
_PLACES = ("pretrain.folder",)  # where things lie changes no number


class Row(NamedTuple):
    """What is kept of a run.

    key: 16 hexadecimal digits of its settings and seed; commit, code: of the code that trained it;
    exit: 0, or 3 where it diverged; curve: (step, held-out pass rate) of each evaluation; kl:
    (step, KL(policy || actor), nats per token), 0 where the policy samples, and empty only of a run
    that diverged at once; seconds: of training; seconds_rollout, seconds_update: medians over
    steps, of sampling and of all updates (None in rows that were kept before these columns).
    """

    key: str
    study: str
    setting: str
    stage: str
    method: str
    rate: float
    seed: int
    commit: str
    code: str
    exit: int
    final: float
    lowest_late: float
    area: float
    kl_last: float
    seconds: float
    curve: tuple[tuple[float, float], ...]
    kl: tuple[tuple[float, float], ...]
    seconds_rollout: float | None = None
    seconds_update: float | None = None


class Damaged(ValueError):
    """A file of kept rows that cannot be trusted as it is."""


def file_of(study: Study) -> Path:
    """Where the rows of a study are kept."""
    return HERE / f"{study.name}.csv"


def key(entry: Entry) -> str:
    """16 hexadecimal digits of what the run's settings add to the trainer's defaults, and its seed.

    The code is not part of it: a kept row says by its commit which code made it.
    """
    world, own = layers(entry.run)
    wanted = {k: v for k, v in (world | own).items() if k not in _PLACES}
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]


def read(file: Path) -> dict[str, Row]:
    """The rows of a file by key; none where there is no file.

    Raises:
        Damaged: naming file and line, what was found and what to do.
    """
    return read_table(file, Row._fields, _parsed, _SIZE_MAX, _REMEDY)


def read_table(
    file: Path,
    columns: Sequence[str],
    parsed: Callable[[list[str]], _R],
    size_max: int,
    remedy: str,
) -> dict[str, _R]:
    """The rows of a file by their first cell; none where there is no file.

    Args:
        parsed: makes a row of its cells, or raises ValueError with what is wrong.
        size_max: bytes. remedy: what to do about damage.

    Raises:
        Damaged: naming file and line, what was found and what to do.
    """
    if not file.exists():
        return {}
    if file.stat().st_size > size_max:
        raise Damaged(f"{file} has more than {size_max} bytes: it is no file of kept rows")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise Damaged(f"{file} is not UTF-8 ({e}); {remedy}") from e
    lines = csv.reader(io.StringIO(text))
    rows: dict[str, _R] = {}
    try:
        head = next(lines, [])
        if head != list(columns):
            raise ValueError(f"its columns are {head}, not {list(columns)}")
        for cells in lines:
            row = parsed(cells)
            if cells[0] in rows:
                raise ValueError(f"the {columns[0]} {cells[0]} stands there twice")
            rows[cells[0]] = row
    except (ValueError, csv.Error) as e:
        raise Damaged(f"{file}, line {lines.line_num}: {e}; {remedy}") from e
    return rows


_REMEDY = "restore the file (git checkout), or delete this line to train the run again"


def distinct(entries: Iterable[Entry]) -> list[Entry]:
    """The first entry of each run: settings may share runs once these are cut short."""
    first: dict[str, Entry] = {}
    for entry in entries:
        first.setdefault(key(entry), entry)
    return [*first.values()]


def matching(rows: Mapping[str, Row], entries: Iterable[Entry]) -> dict[Entry, Row]:
    """The row of each entry that has one.

    Raises:
        Damaged: a row under the key of an entry names another study, setting, method, rate or seed.
    """
    row_of = {}
    for entry in entries:
        row = rows.get(key(entry))
        if row is None:
            continue
        if row[1:7] != entry[:6]:
            raise Damaged(f"the kept row {row.key} says {row[1:7]}, and is {entry[:6]}; {_REMEDY}")
        row_of[entry] = row
    return row_of


def judged_by_seed(rows: Iterable[Row], study: str, setting: str, method: str) -> dict[int, Row]:
    """The judged rows of a method in a setting.

    Raises:
        Damaged: two are of one seed.
    """
    by_seed: dict[int, Row] = {}
    for row in rows:
        if (row.study, row.setting, row.stage, row.method) != (study, setting, JUDGED, method):
            continue
        if row.seed in by_seed:
            raise Damaged(
                f"two kept rows of {setting}, {method}, seed {row.seed}, of keys "
                f"{by_seed[row.seed].key} and {row.key}: delete the one whose rate the sweep "
                "did not find"
            )
        by_seed[row.seed] = row
    return by_seed


def append(file: Path, row: Row) -> None:
    """Add a row. A reader sees the file with it or without it, never a part of it.

    Raises:
        Damaged: what is there cannot be read, or the row could not be read again.
    """
    try:
        _check(row)
    except ValueError as e:
        raise Damaged(
            f"the row of {row.study}, {row.setting}, {row.method}, seed {row.seed} cannot be kept: "
            f"{e}. A checkout without git has no commit: train in a clone"
        ) from e
    file.parent.mkdir(exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = read(file) | {row.key: row}
        draft = file.with_suffix(".draft")
        with draft.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(Row._fields)
            writer.writerows(_cells(r) for r in rows.values())
        draft.replace(file)


LATE = 1 / 3  # share of a run before which a low point does not count: it starts low


def mean_of_last(values: np.ndarray) -> float:
    """The mean of the last three evaluations."""
    return float(values[-3:].mean())


def mean_height(steps: np.ndarray, values: np.ndarray) -> float:
    """The mean height of a curve: its area over its length."""
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def lowest_after_start(steps: np.ndarray, values: np.ndarray) -> float:
    """The lowest value from a share LATE of the steps on."""
    return float(values[steps >= LATE * steps[-1]].min())


LASTING = 0.8  # share of its best below which a run counts as broken down


def largest_fall(values: np.ndarray) -> float:
    """The largest fall below an earlier best."""
    return float((np.maximum.accumulate(values) - values).max())


def last_near_best(steps: np.ndarray, values: np.ndarray) -> float:
    """The last step at which the value was at least LASTING of its best so far."""
    (held,) = np.nonzero(values >= LASTING * np.maximum.accumulate(values))
    return float(steps[held[-1]])


def summary(curve: Sequence[tuple[float, float]], exited: int) -> dict[str, float]:
    """final (0 if the run diverged), lowest_late and area of a curve of pass rates."""
    steps, rates = (np.asarray(x, dtype=float) for x in zip(*curve, strict=True))
    return {
        "final": 0.0 if exited else mean_of_last(rates),
        "lowest_late": lowest_after_start(steps, rates),
        "area": mean_height(steps, rates),
    }


def _cells(row: Row) -> list[str]:
    return [_points(v) if isinstance(v, tuple) else _number(v) for v in row]


def _number(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g}:{y:.6g}" for x, y in points)


def _parsed(cells: list[str]) -> Row:
    """Raises ValueError, with what is wrong."""
    if len(cells) != len(Row._fields):
        raise ValueError(f"it has {len(cells)} cells, not {len(Row._fields)}")
    by_name = dict(zip(Row._fields, cells, strict=True))
    row = Row(**{n: _READ.get(n, str)(cell) for n, cell in by_name.items()})
    _check(row)
    return row


def _read_points(text: str) -> tuple[tuple[float, float], ...]:
    points = []
    for part in text.split():
        x, _, y = part.partition(":")
        points.append((float(x), float(y)))
    return tuple(points)


def _read_optional(text: str) -> float | None:
    return float(text) if text else None


_READ: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("seconds_rollout", "seconds_update"), _read_optional),
    **dict.fromkeys(("rate", "final", "lowest_late", "area", "kl_last", "seconds"), float),
    **dict.fromkeys(("seed", "exit"), int),
    **dict.fromkeys(("curve", "kl"), _read_points),
}
_ROUNDING = 1e-4  # of the numbers as they are written


def _check(row: Row) -> None:
    """What a row says must be possible, and its summary that of its curve."""
    if not COMMIT.fullmatch(row.commit):
        raise ValueError(f"its commit is {row.commit!r}, not 40 hexadecimal digits")
    if not re.fullmatch(r"[0-9a-f]{16}", row.key):
        raise ValueError(f"its key is {row.key!r}, not 16 hexadecimal digits")
    if row.exit not in (0, 3):
        raise ValueError(f"its run ended with {row.exit}, which is no result (0, or 3: diverged)")
    rates = [y for _, y in row.curve]
    shares = [row.final, row.lowest_late, row.area, *rates]
    if len(rates) < 2 or not all(0 <= y <= 1 for y in shares):
        raise ValueError("its pass rates are fewer than two, or not between 0 and 1")
    if not _rises(row.curve):
        raise ValueError("the steps of its curve do not rise")
    if not all(math.isfinite(v) for v in (row.rate, row.kl_last, row.seconds)):
        raise ValueError("a number is not finite")
    for seconds in (row.seconds_rollout, row.seconds_update):
        if seconds is not None and not 0 < seconds < math.inf:
            raise ValueError(f"the seconds of a step are {seconds}, not above 0 and finite")
    _check_kl(row)
    for name, value in summary(row.curve, row.exit).items():
        if abs(value - getattr(row, name)) > _ROUNDING:
            raise ValueError(f"its {name} is {getattr(row, name)}, and by its curve {value:.4f}")


def _rises(points: Sequence[tuple[float, float]]) -> bool:
    """Whether the steps of a curve are finite, and each above the one before."""
    steps = [x for x, _ in points]
    return all(map(math.isfinite, steps)) and steps == sorted(set(steps))


def _check_kl(row: Row) -> None:
    """KL(policy || actor) of an evaluation is not negative, and kl_last is the mean of its last."""
    kls = np.asarray([y for _, y in row.kl])
    if not (_rises(row.kl) and np.isfinite(kls).all() and (kls >= 0).all()):
        raise ValueError("its KLs are not finite, or below 0, or their steps do not rise")
    if not len(kls) and not row.exit:
        raise ValueError("it has no KL, and its run did not diverge")
    last = mean_of_last(kls) if len(kls) else 0.0
    if abs(last - row.kl_last) > _ROUNDING * last + 1e-9:
        raise ValueError(f"its kl_last is {row.kl_last}, and by its KLs {last:.4f}")
