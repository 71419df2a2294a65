"""--help: the settings that apply, their values and meaning; the types that there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from setting_choices import choices

from llm import settings
from llm.settings import help as settings_help
from llm.settings import schema, sections, validation

ROOT = Path(__file__).resolve().parents[3]


def help_of(capsys, *words: str) -> str:
    files = [w for w in words if w.endswith(".toml")]
    with pytest.raises(SystemExit) as stopped:
        settings.load(files, [w for w in words if w not in files])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def named(text: str, section: str) -> set[str]:
    lines = (line.split()[0] for line in text.splitlines() if line.startswith("  --"))
    return {x.rpartition(".")[2] for x in lines if x.rpartition(".")[0] == f"--{section}"}


def test_help_lists_every_type_of_a_section_and_the_settings_of_the_present_one(capsys):
    text = help_of(capsys, "--help")
    assert "--correction.type {none,importance,tis,icepop,jackpot} (now jackpot)" in text
    assert "tis: F(r) = min(r, cap): truncated importance sampling." in text
    assert named(text, "correction") == {"type", "mask", "scope", "c1"}
    assert "--correction.cap" not in text


@pytest.mark.parametrize("flags", ["--correction.type tis --help", "-h --correction.type=tis"])
def test_with_a_type_help_lists_the_settings_of_that_type(capsys, flags):
    assert named(help_of(capsys, *flags.split()), "correction") == {"type", "cap"}


def test_after_a_file_help_shows_its_types_and_values(capsys):
    text = help_of(capsys, str(ROOT / "llm/configs/smollm2_cpu.toml"), "--help")
    assert named(text, "actor") == {"type", "bits"}
    assert "--task.digits_max INT (now 1)" in text


def test_a_section_inside_a_section_is_listed_with_its_types(capsys):
    stale = "--rollout.max_staleness 1 --actor.correction.type icepop --help"
    text = help_of(capsys, *stale.split())
    assert named(text, "actor.correction") == {"type", "low", "high"}


def test_every_setting_of_every_type_says_what_it_means():
    hints = list(sections.settings_of(schema.Settings).values())
    while hints:
        for cls in sections.classes_of(hints.pop()):
            docs = settings_help.field_docs(cls)
            assert [n for n in sections.settings_of(cls) if not docs.get(n)] == [], cls
            hints += sections.settings_of(cls).values()
            if "type" in sections.settings_of(cls):
                assert cls.__doc__ and not cls.__doc__.startswith(cls.__name__)


def test_help_of_train_loads_no_torch():
    code = "import sys; from llm.__main__ import main\n"
    code += "try: main(['train', '--correction.type', 'tis', '--help'])\n"
    code += "except SystemExit as e: assert e.code == 0\n"
    code += "sys.exit(int(bool({'torch', 'transformers'} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--correction.cap" in done.stdout


@pytest.mark.parametrize(
    ("place", "name", "cls", "types"), [*choices(schema.Settings)], ids=lambda x: str(x)[:30]
)
def test_of_every_type_help_shows_exactly_the_settings_that_apply(place, name, cls, types):
    state = sections.updated(schema.Settings(), sections.nested_table(types))
    text, idle = settings_help.help_text(state, "train"), validation.without_effect(state)
    if f"{place}.type" in idle:
        assert named(text, place) == set()
        return
    own = sections.settings_of(cls)
    plain = {key for key, hint in own.items() if not sections.classes_of(hint)}
    assert named(text, place) == {key for key in plain if f"{place}.{key}" not in idle}
    for key in own.keys() - plain:
        assert (f"[{place}.{key}]" in text) == (f"{place}.{key}.type" not in idle)


def test_help_leaves_out_what_has_no_effect_and_says_what_it_takes(capsys):
    text = " ".join(help_of(capsys, *"--policy.path x --actor.path x --help".split()).split())
    assert "--policy.layers" not in text and "--pretrain." not in text and "[pretrain]" not in text
    assert "policy.layers (needs an empty policy.path)" in text
    assert "settings do not apply here: policy.layers" in text
    frozen = " ".join(help_of(capsys, "--actor.type", "frozen", "--help").split())
    assert "[control]" not in frozen and "control.type (needs a trained actor" in frozen
