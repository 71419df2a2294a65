"""The real model has a run where it was fetched."""

from llm.settings.schema import QuantizedActor
from paper_figures.experiments import run_lists, run_store
from paper_figures.experiments.run_lists import FULL
from paper_figures.extras import smollm2


def test_the_real_model_has_a_run_where_it_was_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "MODEL", tmp_path)
    (own,) = smollm2.runs(FULL)
    cfg = run_store.resolved(own)
    assert isinstance(cfg.actor, QuantizedActor)
    assert (cfg.actor.type, cfg.actor.bits, cfg.run.steps) == ("quantized", 8, 8)
    assert smollm2.runs(run_lists.QUICK) == []
