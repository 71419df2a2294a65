"""Small complete runs, written rather than trained, and their page as a browser reads it."""

import json
from html.parser import HTMLParser

from llm.commands import report
from llm.report.run_files import read_run
from llm.training import sample_records

CONFIG = '[task]\ntype = "chain"\n[policy]\npath = {path}\n[run]\nsteps = 40\nseed = 0\n'


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would read them."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]

    def handle_data(self, data):
        self.texts.append(data)


def token_row(step, tokens, accepted, prompt="1+1=", **more):
    n = len(tokens)
    return {
        "step": step,
        "prompt": prompt,
        "answer": "2",
        "reward": 1.0,
        "advantage": 0.5,
        "tokens": tokens,
        "logp_inf": [-0.5] * n,
        "log_ratio": [0.1 * i - 0.2 for i in range(n)],
        "accept_prob": [0.8] * n,
        "accepted": accepted,
        "weight": [1.25 * a for a in accepted],
        **more,
    }


def write_rows(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def make_run(tmp_path):
    """A small complete run."""
    edges = {
        k: getattr(sample_records, f"{k}_EDGES").tolist() for k in ("LOG_RATIO", "WEIGHT", "ACCEPT")
    }
    rows = []
    for step in range(41):
        row = {"step": step, "reward_mean": step / 80, "tokens": 100}
        row |= {
            "accept_rate": 0.9 + step / 1000,
            "seconds_rollout": 1.0,
            "seconds_update": 3.0,
            "entropy_policy": 1.0,
            "odd": step,
        }
        if step % 10 == 0:
            row |= {"pass_rate": step / 50, "kl_policy_actor": 0.5 - step / 100}
        rows.append(row)
    write_rows(tmp_path / "metrics.jsonl", rows)
    (tmp_path / "config.toml").write_text(CONFIG.format(path='""'))
    (tmp_path / "summary.json").write_text('{"steps": 40}')
    (tmp_path / "provenance.json").write_text('[{"commit": "abc123", "python": "3.11"}]')
    write_rows(tmp_path / "samples.jsonl", [token_row(s, ["2", "x"], [1, 0]) for s in (0, 10, 20)])
    decision = {"setting": "actor.distill.coef", "before": 1.0, "after": 1.1, "limited": False}
    write_rows(tmp_path / "decisions.jsonl", [{"step": 4, **decision, "reason": "KL is high"}])
    bins = {
        "log_ratio": {"edges": edges["LOG_RATIO"], "counts": [1] * 37},
        "weight": {"edges": edges["WEIGHT"], "counts": [1] * 50, "zeros": 50},
        "accept_prob": {"edges": edges["ACCEPT"], "counts": [5] * 20},
    }
    write_rows(
        tmp_path / "histograms.jsonl", [{"step": s, "tokens": 100, **bins} for s in (0, 10, 20)]
    )
    return tmp_path


def page_of(folder):
    content = report.document(read_run(folder))
    return content, Page(content)
