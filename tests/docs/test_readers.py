"""The modules that read a setting are those whose text says so, and no others."""

import ast
import re
import sys
from pathlib import Path

import pytest

from llm.settings.schema import Settings
from llm.settings.sections import all_keys

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs/site"))
import readers  # noqa: E402

KEYS = set(all_keys(Settings))
READERS = readers.readers()
TEXTS = {
    path.relative_to(ROOT / "llm").as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "llm").rglob("*.py")
}


def test_every_setting_is_read_somewhere():
    assert READERS.keys() == KEYS
    assert [key for key, modules in READERS.items() if not modules] == []


def test_a_module_that_writes_a_setting_out_in_full_reads_it():
    """A chain as cfg.optim.head, found as text outside docstrings."""
    found = 0
    for module, text in TEXTS.items():
        if not module.startswith("settings/"):
            code = re.sub(r'""".*?"""|#[^\n]*', "", text, flags=re.S)
            for chain in re.findall(r"\bcfg\.(\w+(?:\.\w+)+)", code):
                if chain in KEYS:
                    found += 1
                    assert module in READERS[chain], f"{module}: {chain}"
    assert found > 150


def test_a_module_that_reads_a_setting_holds_its_name_or_takes_all_of_its_section():
    for key, modules in READERS.items():
        name = key.rpartition(".")[2]
        by = [f for (_, f), read in readers._properties().items() if name in read]
        rules = ["reuses_logp", "drafts", "check_vocabulary", "ratio_denominator"]  # of settings/
        words = "|".join([name, *by, *rules, "vars"])
        for module in modules:
            seen = re.search(rf"\b({words})\b", TEXTS[module])
            assert seen or name == "type", f"{module}: {key}"


def test_what_is_declared_is_not_found_by_the_walk():
    found = readers.walked()
    assert [key for key, module in readers.DECLARED.items() if module in found.get(key, ())] == []


def keys_of(source: str) -> set[str]:
    return readers._Walk(ast.parse(source), {"chosen": readers.ALL}, {"drafts": {"x"}}).keys_of(
        ast.parse(source)
    )


@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ("cfg.optim.head", {"optim.head"}),
        ("cfg.optim", set()),  # a section alone
        ("self.cfg.run.seed", {"run.seed"}),
        ("a = cfg.rollout\nb = a.engine\nb.timeout", {"rollout.engine.timeout"}),
        ("def f(o: OptimConfig):\n  return o.head", {"optim.head"}),
        ("def f(m: ModelConfig):\n  return m.path", {"policy.path", "actor.path"}),
        ("def f(cfg: GymTask):\n  return cfg.size", {"task.size"}),
        ("def f(cfg: int):\n  return cfg.run.seed", set()),
        ("One = GymTask | schema.AddTask\ndef f(t: One):\n  return t.size", {"task.size"}),
        ("class A:\n  t: GymTask\n  def f(self):\n    return self.t.size", {"task.size"}),
        ("chosen().run.seed", {"run.seed"}),
        ("isinstance(cfg.control, KLControl)", {"control.type"}),
        ("match cfg.control:\n  case 1: pass", {"control.type"}),
        ("vars(cfg.pretrain)", {key for key in KEYS if key.startswith("pretrain.")}),
        ("for m in (cfg.policy, cfg.actor):\n  m.dtype", {"policy.dtype", "actor.dtype"}),
        ("part = getattr(cfg, role)\npart.dtype", {"policy.dtype", "actor.dtype"}),
        ("getattr(model.config, role).dtype", set()),
        ("drafts(cfg)", {"x"}),
        ("cfg.objective.needs_topk", {"objective.divergence.type"}),  # a property of the section
        (
            "def f():\n w = cfg.correction\n assert isinstance(w, TisCorrection)\n return vars(w)",
            {"correction.type", "correction.cap"},
        ),
    ],
)  # fmt: skip
def test_a_read_is_found_in_each_way_of_writing_it(source, keys):
    assert keys_of(source) == keys
