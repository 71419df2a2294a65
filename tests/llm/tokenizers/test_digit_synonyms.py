"""Digits written with any of several characters: vocabulary, scores, demonstrations, runs."""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sections
import torch
from optional import not_none
from training_runs import TINY, rows, start

import llm
from llm import settings
from llm.checkpoints import checkpoint
from llm.commands import evaluate
from llm.models import loading, pretraining, roles
from llm.planning import estimate, memory
from llm.rewards.scorers import open_scorer
from llm.runs import run_folder
from llm.settings.loading import ConfigError
from llm.settings.schema import ModelConfig
from llm.settings.validation import CHARACTER_TASKS
from llm.tasks.digits import DigitProblems
from llm.tokenizers import character, digit_synonyms, pretrained

PLAIN = "0123456789=+-*/().,:;?!<>_ abcdefghijklmnopqrs"
FEW = ("--task.digit_synonyms", "201")
SHORT = ("--pretrain.policy-steps", "2", "--pretrain.actor-steps", "2", "--run.steps", "2")
ONE = ModelConfig(layers=1, width=32)


def spelled(digit: int, form: int) -> str:
    """By hand: form 0 is the digit, the next ten characters are the second form of each digit."""
    return str(digit) if form == 0 else chr(0x4E00 + 10 * (form - 1) + digit)


@pytest.mark.parametrize(("count", "ids"), [(1, 48), (2, 58), (201, 2048), (2000, 20038)])
def test_every_form_of_every_digit_has_one_id_and_one_printable_character(count, ids):
    tokenizer = character.CharTokenizer(count)
    assert tokenizer.vocab_size == ids
    written = [spelled(d, j) for j in range(count) for d in range(10)]
    assert len(set(written)) == 10 * count
    assert all(len(c) == 1 and c.isprintable() and unicodedata.name(c) for c in written)
    found = tokenizer.encode("".join(written) + PLAIN[10:])
    assert sorted(found) == list(range(2, ids))
    assert tokenizer.pieces(found) == [*written, *PLAIN[10:]]
    assert tokenizer.encode(PLAIN) == list(range(2, 48))  # the first ids are as with one form
    with pytest.raises(ValueError, match="not in the alphabet"):
        tokenizer.encode(spelled(0, count))


@pytest.mark.parametrize("name", CHARACTER_TASKS)
def test_a_right_answer_scores_1_in_any_forms_and_0_with_any_wrong_digit(name):
    cfg, rng = sections.digit_task(type=name, digit_synonyms=201), np.random.default_rng(1)
    tokenizer = character.CharTokenizer(201)
    scorer = open_scorer(cfg, tokenizer)

    def score(answer: str, right: str) -> float:
        return scorer.score([[*tokenizer.encode(answer), 1]], [right])[0]

    for _, right, _ in DigitProblems(cfg).batch(0, 0, 10):
        for _ in range(5):
            shown = [spelled(int(d), int(rng.integers(201))) for d in right]
            assert score("".join(shown), right) == 1.0
            at, shift = int(rng.integers(len(right))), int(rng.integers(1, 10))
            other = (int(right[at]) + shift) % 10
            wrong = [*shown[:at], spelled(other, int(rng.integers(201))), *shown[at + 1 :]]
            assert score("".join(wrong), right) == 0.0
            assert score("".join(shown[:-1]), right) == score("".join([*shown, "0"]), right) == 0.0
            assert scorer.score([tokenizer.encode("".join(shown))], [right]) == [0.0]  # no end


def test_every_form_is_read_as_its_own_digit_and_a_foreign_character_as_none():
    for form in range(7):
        for digit in range(10):
            read = [
                d for d in "0123456789" if digit_synonyms.as_digits(spelled(digit, form), 7) == d
            ]
            assert read == [str(digit)]
    for foreign in (spelled(3, 7), chr(0x4DFF), "\u0663", "\uff13", "\u00b3", "a", " ", "\n"):
        assert digit_synonyms.as_digits(f"1{foreign}2", 7) == f"1{foreign}2"


def test_demonstrations_follow_zipfs_law():
    """Shares of each form in 200,000 digits, and the mass of the top 20 by its own formula."""
    exact = [math.exp(-1.3 * math.log(j)) for j in range(1, 201)]
    top = math.fsum(exact[:20]) / math.fsum(exact)
    assert 0.60 <= top <= 0.85
    assert float(digit_synonyms.zipf(200)[:20].sum()) == pytest.approx(top, rel=1e-12)
    assert digit_synonyms.zipf(1).tolist() == [1.0]
    shown = digit_synonyms.spell("0123456789" * 20_000, 200, np.random.default_rng(0))
    digit_of = {spelled(d, j): (d, j) for d in range(10) for j in range(200)}
    pairs = [digit_of[c] for c in shown]
    assert [d for d, _ in pairs] == list(range(10)) * 20_000
    count = Counter(j for _, j in pairs)
    assert sum(count[j] for j in range(20)) / 200_000 == pytest.approx(top, abs=0.005)
    for j in (0, 1, 5, 50, 199):
        p = exact[j] / math.fsum(exact)
        assert count[j] / 200_000 == pytest.approx(p, abs=5 * math.sqrt(p / 200_000))


def test_demonstrations_write_the_same_digits_and_prompts_stay_plain():
    flags = ("--pretrain.batch-size", "64", "--task.digits-max", "9")
    cfg = settings.load([], [*flags, *FEW])
    ids, is_answer = pretraining.demonstrations(cfg, np.random.default_rng(3), error=0.0)
    pieces = character.CharTokenizer(201).pieces
    forms_seen = set()
    for row, marks in zip(ids.tolist(), is_answer.tolist(), strict=True):
        prompt = "".join(pieces([i for i, m in zip(row, marks, strict=True) if not m and i]))
        answer = pieces([i for i, m in zip(row, marks, strict=True) if m])
        assert set(prompt) <= set("0123456789=") and answer.pop() == "<eos>"
        sums = np.cumsum([int(c) for c in prompt[:-1]]) % 10
        digit_of = [int(c) if c.isascii() else (ord(c) - 0x4E00) % 10 for c in answer]
        assert digit_of == sums.tolist()
        forms_seen |= set(answer)
    assert len(forms_seen) > 50


def test_one_form_leaves_vocabulary_weights_and_demonstrations_as_they_were():
    tokenizer = character.CharTokenizer(1)
    assert tokenizer.vocab_size == 48 and tokenizer.encode(PLAIN) == list(range(2, 48))
    model = loading.build(ONE, seed=0, synonyms=1)
    assert loading.logits_width(model) == 48 and "digit_forms" not in model.config.to_dict()
    task, rng = DigitProblems(sections.digit_task(digit_synonyms=1)), np.random.default_rng(5)
    task.demonstration("12345678=", rng, 0.0)
    drawn = np.random.default_rng(5)
    drawn.random(8)  # one for each step, that could have gone wrong
    assert rng.random() == drawn.random()


def test_a_built_models_forms_start_near_their_digit():
    model = loading.build(ONE, seed=0, synonyms=31)
    for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        near = torch.cdist(weight[48:], weight[2:12]).argmin(dim=1)
        assert torch.equal(near, torch.arange(300) % 10)
        assert len(torch.unique(weight, dim=0)) == 348


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--task.digit_synonyms 0", "must be greater than 0, got 0"),
        ("--task.digit_synonyms 2001", "must be at most 2000, got 2001"),
        ("--task.digit_synonyms 5 --reward.type number", "5 would have no effect"),
        ("--task.digit_synonyms 5 --policy.path a/b --actor.path a/c", "5 would have no effect"),
        (
            "--task.digit_synonyms 5 --task.type arithmetic --policy.path a/b --actor.path a/c",
            "is a setting of task.type chain or sort or reverse or add, and",
        ),
    ],
)
def test_forms_out_of_bounds_or_without_effect_are_refused(flags, says):
    with pytest.raises(ConfigError) as fault:
        settings.load([], flags.split())
    assert f"--task.digit_synonyms {says}" in str(fault.value)


def test_two_alphabets_of_different_size_differ():
    a, b = character.CharTokenizer(1), character.CharTokenizer(201)
    assert pretrained.differences(b, character.CharTokenizer(201)) == []
    assert pretrained.differences(a, b) == ["vocabulary (48 and 2048 characters)"]


def test_the_memory_estimate_knows_the_vocabulary():
    pair = estimate.open_shapes(settings.load([], [*FEW]), [])
    assert [memory.vocabulary(m) for m in (pair.policy, pair.actor)] == [2048, 2048]
    shape = memory.shape(ONE, None, 201)
    assert memory.vocabulary(shape) == 2048
    built = loading.build(ONE, 0, 201)
    assert shape.num_parameters() == built.num_parameters()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two steps with 2,048 ids."""
    folder = tmp_path_factory.mktemp("forms")
    start(folder / "run", folder / "pretrained", *FEW, *SHORT)
    return folder


def test_a_run_with_a_large_vocabulary_writes_finite_metrics_and_shows_the_forms(trained):
    found = rows(trained / "run")
    assert [r["step"] for r in found] == [0, 1, 2]
    numbers = [v for r in found for v in r.values() if isinstance(v, float)]
    assert len(numbers) > 50 and all(map(math.isfinite, numbers))
    samples = (trained / "run/samples.jsonl").read_text(encoding="utf-8").splitlines()
    tokens = [t for line in samples for t in json.loads(line)["tokens"]]
    known = {spelled(d, j) for d in range(10) for j in range(1, 201)}
    assert len(known & set(tokens)) > 10


def test_a_run_is_evaluated_from_its_checkpoint(trained):
    own = settings.load([str(trained / "run/config.toml")], [])
    kept = not_none(checkpoint.latest(trained / "run/checkpoints"))
    found, step = evaluate.open_evaluation(own, own, trained / "run", kept)
    assert step == 2 and found.tokenizer.vocab_size == loading.logits_width(found.policy) == 2048


def test_another_number_of_forms_is_refused_with_its_reason(trained):
    cfg = settings.load([], [*TINY, *SHORT, "--run.folder", str(trained / "run")])
    with pytest.raises(ConfigError, match=r"task\.digit_synonyms \(201 there, 1 now\)"):
        run_folder.prepare(cfg)
    own = settings.load([], [*TINY, *SHORT, *FEW, "--pretrain.folder", str(trained / "pretrained")])
    with pytest.raises(ConfigError, match="vocabulary that differs"):
        evaluate.open_evaluation(own, cfg, trained / "run", trained / "run/checkpoints")
    path = pretraining.kept_in(own, "policy", trained) / "model"
    for count in ("1", "200"):
        flags = ["--task.digit_synonyms", count, "--policy.path", str(path)]
        with pytest.raises(
            ConfigError, match=rf"2048 ids, for --task.digit_synonyms 201, and .* is {count}"
        ):
            roles.open_policy(settings.load([], flags), trained)
    flags = [*FEW, "--policy.path", str(path)]
    assert loading.logits_width(roles.open_policy(settings.load([], flags), trained)) == 2048


def test_a_pretraining_of_other_synonyms_or_slots_is_another_one(tmp_path):
    flags = [*TINY, *SHORT, "--pretrain.folder", str(tmp_path)]
    for role in ("policy", "actor"):
        names = {
            pretraining.kept_in(settings.load([], [*flags, *more]), role, tmp_path)
            for more in ((), ("--task.digit_synonyms", "2"), FEW, ("--task.pad_prompt_to", "9"))
        }
        assert len(names) == 4


def test_a_pretraining_with_synonyms_learns_digits_and_synonyms(tmp_path):
    """Prompts of one digit, whose answer is that digit in any of 201 forms: most get it right."""
    flags = ["--task.digits-min", "2", "--task.digits-max", "2", *TINY[:4], *FEW]
    flags += ["--pretrain.policy-steps", "120", "--pretrain.batch-size", "32"]
    cfg = settings.load([], [*flags, "--pretrain.folder", str(tmp_path)])
    model = roles.open_policy(cfg, tmp_path)
    ids, is_answer = pretraining.demonstrations(cfg, np.random.default_rng(0), 0.0)
    with torch.no_grad():
        p = model(input_ids=ids).logits.float().softmax(dim=-1)
    forms_of = [i for i in range(2, 2048) if i < 12 or i >= 48]
    first = is_answer.int().argmax(dim=1) - 1  # the state before the answer's first digit
    mass = p[torch.arange(len(ids)), first]
    digit = ids[torch.arange(len(ids)), 0] - 2
    of_digit = torch.zeros(len(ids), 10)
    for i in forms_of:
        of_digit[:, (i - 2 if i < 12 else (i - 48) % 10)] += mass[:, i]
    assert float(of_digit.gather(1, digit[:, None]).mean()) > 0.5
    assert 0.3 < float(mass.topk(20).values.sum(dim=-1).mean()) < 0.95


def test_the_configuration_with_forms_is_valid_over_the_demos():
    root = Path(llm.__file__).parent / "configs"
    cfg = settings.load([str(root / "demo.toml"), str(root / "chain_forms.toml")], [])
    assert roles.open_tokenizer(cfg, Path("nowhere")).vocab_size == 2048
