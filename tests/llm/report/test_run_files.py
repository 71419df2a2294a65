"""A run folder is read for a report even where it is incomplete."""

from report_runs import page_of

from llm.report.run_files import read_run


def test_a_run_that_was_killed_while_writing_has_a_report(run):
    """Half a last line is left out and noted."""
    for name in ("metrics", "samples"):
        path = run / f"{name}.jsonl"
        path.write_bytes(path.read_bytes()[:-20])
    (run / "summary.json").unlink()
    _, page = page_of(run)
    words = " ".join(page.texts)
    assert "metrics.jsonl: left out, since they are no complete rows: line 41 (not JSON" in words
    assert "step 39 of 40" in words


def test_a_step_written_twice_counts_once(run):
    """A resume cuts the file; should a step stand there twice, the later row is the truth."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "pass_rate": 0.99}\n')
    rows = read_run(run).rows
    assert [r["step"] for r in rows] == list(range(41))
    assert rows[10]["pass_rate"] == 0.99


def test_tokens_per_second_are_those_of_rollout_and_update(run):
    assert read_run(run).rows[0]["tokens_per_second"] == 25.0
