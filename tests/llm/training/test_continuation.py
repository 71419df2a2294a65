"""What a run is told that goes on with other settings."""

from __future__ import annotations

import pytest
from training_runs import start

from llm import settings
from llm.training.continuation import continuation_notes

LONGER = {"run.steps": (10, 20)}


def notes(*flags: str, differs=LONGER, done: int = 10) -> list[str]:
    return continuation_notes(settings.load([], ["--run.steps", "20", *flags]), differs, done)


def test_nothing_is_said_of_places_of_a_new_run_or_of_none():
    assert notes(differs={"run.device": ("cuda", "cpu")}) == []
    assert notes(differs={}) == [] == notes(done=0)


def test_other_settings_are_named_with_both_values():
    (line,) = notes()
    assert line == "goes on after 10 steps with other settings: run.steps (10 there, 20 now)"


@pytest.mark.parametrize(
    ("schedule", "numbers"),
    # of 10 steps the tenth has 1 - 9/10; of 20 the eleventh 1 - 10/20 and the tenth 1 - 9/20
    [("linear", ("at 0.1 of", "go on at 0.5", "had 0.55 there")), ("cosine", ("go on at 0.5",))],
)
def test_a_schedule_that_ends_with_the_run_says_what_its_new_end_does(schedule, numbers):
    line = notes("--optim.schedule", schedule)[1]
    assert "its end moves from step 10 to 20" in line
    assert all(number in line for number in numbers)


def test_a_warmup_alone_does_not_depend_on_the_length():
    assert len(notes("--optim.lr-warmup-steps", "4")) == 1


@pytest.mark.parametrize(("staleness", "said"), [(0, ""), (1, ""), (3, "steps 11 to 12 ")])
def test_batches_that_were_not_sampled_ahead_are_named(staleness, said):
    """With d the last step orders the batches up to d steps ahead, and none beyond the end."""
    lines = notes("--rollout.max-staleness", str(staleness))[1:]
    assert bool(lines) == bool(said) and all(said in line for line in lines)


@pytest.mark.parametrize(
    ("every", "done", "said"), [(3, 10, True), (3, 9, False), (5, 10, False), (10, 10, False)]
)
def test_the_evaluation_at_the_former_end_is_named_unless_it_would_be_made_anyway(
    every, done, said
):
    """A run that stopped before its end made none."""
    lines = notes("--run.eval-every", str(every), done=done)[1:]
    assert bool(lines) == said
    if said:
        assert lines == [
            "the evaluation after step 10, where the run ended, is replaced by a full step, but it "
            "counts for checkpoints/best; a run that had 20 steps from its start would not have "
            "evaluated there (run.eval_every 3)"
        ]
        (line,) = notes("--run.eval-every", "3", "--run.keep-best", "False")[1:]
        assert "checkpoints/best" not in line


def test_a_run_that_goes_on_prints_what_its_former_end_changes(tmp_path, pretrained, capfd):
    """Of the learning rates and of the batches that were not sampled ahead: before it trains."""
    flags = (
        "--optim.schedule",
        "linear",
        "--rollout.max-staleness",
        "2",
        "--run.eval-prompts",
        "2",
    )
    start(tmp_path, pretrained, *flags, "--run.steps", "2")
    assert "goes on after" not in capfd.readouterr().err
    start(tmp_path, pretrained, *flags, "--run.steps", "4")
    said = capfd.readouterr().err
    first_step = said.index("actor: separate") if "actor: separate" in said else len(said)
    for words in (
        "goes on after 2 steps with other settings: run.steps (2 there, 4 now)",
        "optim.schedule linear ends with the run, and its end moves from step 2 to 4",
        "rollout.max_staleness 2: the batches of steps 3 to 3 are sampled from newer weights",
    ):
        assert 0 <= said.find(words) < first_step, said
