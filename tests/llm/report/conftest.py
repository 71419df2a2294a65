"""A small complete run, for tests of reports."""

import pytest
from report_runs import make_run

from llm.report import plots


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A small complete run, whose pictures are not drawn: that takes seconds."""
    monkeypatch.setattr(plots, "curve", lambda rows, panel: b"picture")
    monkeypatch.setattr(plots, "histograms", lambda *_: b"picture")
    return make_run(tmp_path)
