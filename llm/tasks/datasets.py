"""Problems from rows: files, hub data sets and presets, every row checked before training.

A source is a .jsonl or .parquet file, a hub id (owner/name), or a preset (presets.py).
`gsm8k:/data/train.jsonl` reads a local copy as gsm8k.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from llm.errors import ConfigError, kind_of
from llm.hub import require_on_hub
from llm.rewards import number_grammar
from llm.rewards.answers import (
    as_latex,
    gold_expression,
    gold_number,
    is_prose,
    is_scientific,
    last_boxed,
)
from llm.rewards.scorers import reward_of
from llm.settings.schema import (
    GymTask,
    MathVerifyReward,
    NumberReward,
    OwnReward,
    ProblemsTask,
    RewardConfig,
)
from llm.tokenizers.conversation import Conversation, read_conversation

from .presets import PRESETS, Preset, after_hashes, entire_text, evaluation_sources, resolve
from .problem import (
    EXTRA_CHARACTERS_MAX,
    HELD_OUT,
    Problem,
    RowTask,
    digest,
    extra_of,
    is_held_out,
    with_instruction,
)
from .readers import LINE_BYTES_MAX, NotThere, SourceRow, cell, hub_rows, jsonl_rows, parquet_rows
from .repeats import Room, distinct_problems

_SHOWN = 5
_DIGITS_MAX = 1000
_PLAIN_NUMBER = re.compile(r"-?[0-9]{1,100}(?:\.[0-9]{1,100})?")


def open_problems(cfg: ProblemsTask, tokenizer: Any, reward: RewardConfig) -> RowTask:
    """The task of `source`; held out are the sets of `eval_source`, or an eighth of the prompts.

    A training prompt that a set of `eval_source` also holds is left out of training. reward: as
    in `open_task`.

    Raises:
        ConfigError: a source that cannot be read, bad rows that are refused, or nothing left.
    """
    evaluated = evaluation_sources(cfg.eval_source) if cfg.eval_source else {}
    split = _split(cfg.source, "split", cfg.split, "train")
    splits = {s: _split(s, "eval_split", cfg.eval_split, "test") for s in evaluated.values()}
    for place in (resolve(source)[1] for source in (cfg.source, *evaluated.values())):
        if _is_on_hub(place):  # all names, before the first set is downloaded
            require_on_hub(place, "data set")
    room = Room()  # of all sources
    rows, skipped, repeats = _problems(cfg, cfg.source, split, tokenizer, reward, room)
    held: dict[str, list[Problem]] = {}
    digests = {f"data: {cfg.source}": digest(rows)}
    if cfg.eval_source:
        for name, source in evaluated.items():
            loaded = _problems(cfg, source, splits[source], tokenizer, reward, room)
            problems, bad, again = loaded
            held[name], skipped, repeats = problems, skipped + bad, repeats + again
            digests[f"evaluation set {name}: {source}"] = digest(held[name])
        held_out_prompts = {_words(p.prompt) for problems in held.values() for p in problems}
        train = [p for p in rows if _words(p.prompt) not in held_out_prompts]
        remedy = f"every prompt of it is also in --task.eval_source {cfg.eval_source}"
    else:
        train = [p for p in rows if not is_held_out(p.prompt)]
        held[HELD_OUT] = [p for p in rows if is_held_out(p.prompt)]
        count = f"{len(rows)} problem" + "s" * (len(rows) != 1)
        remedy = f"it has only {count}: give --task.eval_source"
    if not train or not all(held.values()):
        kind = "held-out" if train else "training"
        raise ConfigError(f"--task.source {cfg.source} leaves no {kind} problem: {remedy}")
    held_out = {name: instructed(problems, cfg.instruction) for name, problems in held.items()}
    return RowTask(instructed(train, cfg.instruction), held_out, skipped, repeats, digests)


def _words(prompt: str) -> str:
    """A prompt as its words: copies of a problem in two files often differ in white space."""
    return " ".join(prompt.split())


def instructed(problems: list[Problem], instruction: str) -> list[Problem]:
    return [p._replace(prompt=with_instruction(p.prompt, instruction)) for p in problems]


def _split(source: str, setting: str, given: str, usual: str) -> str:
    """The split of a hub data set that is read: the one given, the preset's only one, or `usual`.

    Raises:
        ConfigError: a preset that has one split, and another is given.
    """
    preset, place = resolve(source)
    if given and preset.split not in ("", given) and _is_on_hub(place):
        raise ConfigError(
            f"--task.{setting} {given} was asked for, and {source} has only the split "
            f"{preset.split}: leave --task.{setting} out, or choose another data set"
        )
    return given or preset.split or usual


def _problems(
    cfg: ProblemsTask, source: str, split: str, tokenizer: Any, reward: RewardConfig, room: Room
) -> tuple[list[Problem], int, int]:
    preset, place = resolve(source)
    if source == cfg.source or preset not in PRESETS.values():  # a preset's evaluation set has its
        if cfg.answer_column and cfg.answer_column != preset.answer:
            preset = replace(preset, answer=cfg.answer_column, gold=entire_text)
        preset = replace(preset, prompt=cfg.prompt_column or preset.prompt)
    columns, for_function = [preset.prompt, preset.answer], isinstance(reward, OwnReward)

    def checked() -> Iterator[tuple[str, Problem | str]]:
        wanted = columns[:1] if for_function else columns
        for where, row in _rows(place, preset, split, wanted, for_function):
            if isinstance(row, str):
                yield where, row
            elif for_function:
                yield where, _with_extra(row, columns, preset.gold)
            else:
                yield where, _problem(row, columns, preset.gold)

    return checked_problems(checked(), cfg, tokenizer, source, reward, room)


def _rows(
    place: str, preset: Preset, split: str, columns: list[str], all_columns: bool
) -> Iterable[SourceRow]:
    path = Path(place)
    if path.suffix == ".jsonl":
        return jsonl_rows(path)
    if path.suffix == ".parquet":
        return parquet_rows(path, columns, all_columns)
    if _is_on_hub(place):
        config = preset.config if place == preset.hub_id else None
        return hub_rows(place, config, split, columns, all_columns)
    what = (
        "exists, but is neither"
        if os.path.exists(place)
        else "is no file and no hub id (owner/name)"
    )
    raise ConfigError(
        f"the source {place} {what}: give a .jsonl or .parquet file, a hub data set, or one of "
        f"{', '.join(PRESETS)}, each of which may be followed by a file: gsm8k:train.jsonl"
    )


def _is_on_hub(place: str) -> bool:
    named = re.fullmatch(r"[\w-][\w.-]*/[\w.-]*[\w-]", place, flags=re.ASCII)
    is_file = place.endswith((".jsonl", ".parquet"))
    return named is not None and not is_file and not os.path.exists(place)


def _problem(
    row: dict[str, Any], columns: list[str], gold: Callable[[str], str | None]
) -> Problem | str:
    """A problem, or why the row is none."""
    texts: list[str] = []
    for column, numbers_too in zip(columns, (False, True), strict=True):
        try:
            value = cell(row, column)
        except NotThere as e:
            return str(e)
        if not numbers_too and isinstance(value, list) and all(isinstance(x, dict) for x in value):
            value = read_conversation(value)
            if not isinstance(value, Conversation):
                return f"{column!r} {value}"
            texts.append(value)
            continue
        if numbers_too and type(value) is int:
            if abs(value) >= 10**_DIGITS_MAX:
                return f"{column!r} is a number of more than {_DIGITS_MAX} digits"
            value = str(value)
        if numbers_too and type(value) is float and math.isfinite(value):
            value = format(Decimal(repr(value)), "f")  # 1e-07 would read as e times 1, minus 7
        if not isinstance(value, str):
            or_messages = isinstance(value, list) and not numbers_too
            more = " and no list of messages (role, content)" if or_messages else ""
            return f"{column!r} is {kind_of(value)}, not a text{more}"
        if len(value) > LINE_BYTES_MAX:
            return f"{column!r} has {len(value)} characters, more than {LINE_BYTES_MAX}"
        if not value.strip():
            return f"{column!r} is empty"
        texts.append(value.strip())
    answer = gold(texts[1])
    if not answer:
        return f"{columns[1]!r} ends in no answer (wanted: {_WANTED[gold]})"
    return Problem(texts[0], answer)


def _with_extra(
    row: dict[str, Any], columns: list[str], gold: Callable[[str], str | None]
) -> Problem | str:
    """The problem for a reward function, with the row's other columns.

    An answer that is no text or number stays among the other columns, as it is.
    """
    problem, read = _problem(row, columns, gold), columns
    if isinstance(problem, str):
        problem, read = _problem({**row, columns[1]: "-"}, columns, entire_text), columns[:1]
        if isinstance(problem, str):
            return problem
        problem = problem._replace(answer="")
    extra = extra_of({k: v for k, v in row.items() if k not in read})
    if len(extra) > EXTRA_CHARACTERS_MAX:
        return f"its other columns take {len(extra)} characters, more than {EXTRA_CHARACTERS_MAX}"
    return problem._replace(extra=extra)


_WANTED: dict[Any, str] = {after_hashes: "#### and the number", last_boxed: r"\boxed{...}"}


def checked_problems(
    rows: Iterable[tuple[str, Problem | str]],
    cfg: ProblemsTask | GymTask,
    tokenizer: Any,
    source: str,
    reward: RewardConfig,
    room: Room | None = None,
) -> tuple[list[Problem], int, int]:
    """The good problems of `source`, no prompt twice; how many rows were bad, how many repeats.

    `rows` gives the place of each row.

    reward: as in `open_task`; of a function no scorer looks at the answers. room: what is left of
    it when other sources were read.

    Raises:
        ConfigError: no room; bad rows that are refused, with place and reason of the first; nothing
            good.
    """
    scorer = reward_of(cfg, reward)
    good: list[tuple[str, Problem]] = []
    numbers = isinstance(scorer, NumberReward | MathVerifyReward)
    same = _same_answer if numbers else _same_text
    distinct, bad, repeats = distinct_problems(rows, same, room or Room())
    for where, problem in distinct:
        if reason := _unfit(problem, cfg, tokenizer, scorer):
            bad.append((where, reason))
        else:
            good.append((where, problem))
    if isinstance(scorer, MathVerifyReward):
        good, unreadable = _readable(good, scorer)
        bad += unreadable
    if bad and (cfg.bad_rows == "refuse" or not good):
        lines = [f"  {source}, {where}: {reason}" for where, reason in bad[:_SHOWN]]
        if len(bad) > _SHOWN:
            lines.append(f"  and {len(bad) - _SHOWN} more")
        remedy = (
            "mend them, name other columns (--task.prompt_column, --task.answer_column), or leave "
            "them out: --task.bad_rows skip"
        )
        raise ConfigError(
            f"{len(bad)} bad rows of {len(bad) + len(good)} in {source}:\n"
            + "\n".join(lines)
            + (f"\n{remedy}" if good else "\nno good row is left, so there is nothing to train on")
        )
    if not good:
        raise ConfigError(f"--task.source {source} holds no rows")
    return [problem for _, problem in good], len(bad), repeats


def _same_text(a: Problem, b: Problem) -> bool:
    """Whether two answers are the same text; without answers, whether all other columns agree."""
    return a.answer == b.answer and (a.answer != "" or a.extra == b.extra)


def _same_answer(a: Problem, b: Problem) -> bool:
    """Whether two answers are the same number, or the same text but for how LaTeX is written."""
    if a.answer == b.answer:  # most repeats, of which a published file may have a million
        return True
    one, other = (number_grammar.whole_number(p.answer.strip().strip("$")) for p in (a, b))
    if one is not None and other is not None:
        return number_grammar.same(one, other)
    return _bare(a.answer) == _bare(b.answer)


def _bare(answer: str) -> str:
    """LaTeX without what does not change its meaning: spaces, dollars, sizes of fractions."""
    answer = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", answer)
    return re.sub(r"\\(left|right)(?![a-zA-Z])|[\s$]", "", answer)


def _unfit(
    problem: Problem, cfg: ProblemsTask | GymTask, tokenizer: Any, scorer: RewardConfig
) -> str:
    """Why a problem cannot be used; empty if it can."""
    try:
        (problem.prompt + problem.answer).encode()
        tokens = len(tokenizer.prompt(with_instruction(problem.prompt, cfg.instruction)))
    except ConfigError:
        raise
    except ValueError as e:  # a lone surrogate, or a character outside a small alphabet
        return f"the prompt cannot be read: {str(e)[:100]}"
    if tokens > cfg.prompt_tokens_max:
        return f"the prompt has {tokens} tokens, more than {cfg.prompt_tokens_max}"
    if isinstance(scorer, NumberReward) and gold_number(problem.answer) is None:
        return "the answer holds no number, which the scorer number needs"
    if isinstance(scorer, MathVerifyReward):
        return _unclear(gold_expression(problem.answer))
    return ""


def _unclear(gold: str) -> str:
    """Why math-verify would read an expression, but not as what is meant; empty if it would not."""
    if is_scientific(gold):
        return f"the answer {gold[:40]} may be a power of ten or a multiple of e: write it out"
    if is_prose(gold):
        return (
            "the answer is prose, which math-verify takes for a product of letters: give "
            r"\text{...} or --reward.type exact"
        )
    return ""


def _readable(
    problems: list[tuple[str, Problem]], cfg: MathVerifyReward
) -> tuple[list[tuple[str, Problem]], list[tuple[str, str]]]:
    """Problems whose answer math-verify can compare with, and the others."""
    from llm.rewards.math_verifier import Verifier

    verifier = Verifier(cfg.workers, cfg.seconds)
    golds = {p.answer: as_latex(gold_expression(p.answer))[0] for _, p in problems}
    hard = [g for g in golds.values() if not _PLAIN_NUMBER.fullmatch(g)]  # no need to ask
    try:
        ok = dict(zip(hard, verifier.readable(hard), strict=True))
    finally:
        verifier.close()
    good = [(w, p) for w, p in problems if ok.get(golds[p.answer], True)]
    reason = "math-verify cannot read the answer"
    return good, [(w, reason) for w, p in problems if not ok.get(golds[p.answer], True)]
