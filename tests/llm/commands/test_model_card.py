"""The model card: what it names, and that what a run's files say is never markup."""

from __future__ import annotations

import json

from llm.commands.model_card import Exported, model_card
from llm.settings import loading


def test_the_card_names_seed_settings_commit_and_evaluation(tmp_path):
    """Evaluations are those of this very step; places of this machine are left out."""
    run = tmp_path / "run <b>"
    run.mkdir()
    cfg = loading.load([], ["--run.seed", "7", "--run.folder", str(run)])
    (run / "config.toml").write_text(loading.dump(cfg))
    start = {"commit": "abc123", "dirty": True, "torch": "2 | <script>"}
    (run / "provenance.json").write_text(json.dumps([start]))
    rows = [{"step": 3, "pass_rate": 0.25}, {"step": 5, "pass_rate": 0.75}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    mean = {"value": 0.5, "low": 0.4, "high": 0.6}
    entry = {"step": 5, "models": {"policy": {"samples": 4, "prompts": 9, "mean_at_k": mean}}}
    (run / "eval.json").write_text(json.dumps([entry, {**entry, "step": 3}, 7]))
    done = Exported(run, "policy", "step_00000005", 5, "float32", "none", False, None)
    card = model_card(cfg, done)
    assert "| seed | 7 |" in card and "abc123, changed" in card and "step_00000005" in card
    assert "0.7500 (step 5)" in card and "0.2500" not in card
    assert card.count("mean@4 0.5000 (95 % interval 0.4000 to 0.6000) on 9") == 1
    assert "[correction]" in card and "folder =" not in card and "device =" not in card
    assert "<script>" not in card and "<b>" not in card
    (run / "eval.json").write_text("[" * 100_000)
    assert "mean@4" not in model_card(cfg, done)
