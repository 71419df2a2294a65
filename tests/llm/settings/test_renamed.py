"""Old names of settings: a run folder of older code is refused, and each new name is said."""

import re

import pytest

from llm import settings
from llm.commands import compare, evaluate, report
from llm.runs import run_folder
from llm.settings import renamed, sections
from llm.settings.loading import ConfigError
from llm.settings.schema import Settings

OLD = '[task]\nname = "chain"\n[warmup]\nfolder = ""\n[correction]\nname = "tis"\n'
REFUSED = r"config\.toml is of a run from before 0\.1\.0, and settings were renamed since"


@pytest.mark.parametrize("old", [*renamed.RENAMED])
def test_every_old_name_makes_a_run_folder_one_of_older_code(tmp_path, old):
    """[task] name, [actor] kind, a flat lam_from, an engine as a word, and all the others."""
    section, key = old.rsplit(".", 1)
    (tmp_path / "config.toml").write_text(f"[{section}]\n{key} = 'x'\n")
    with pytest.raises(ConfigError, match=REFUSED):
        settings.load([str(tmp_path / "config.toml")], [])


def test_every_old_name_leads_to_a_setting_that_there_is():
    known = set(sections.all_keys(Settings))
    assert set(renamed.RENAMED.values()) <= known and not renamed.RENAMED.keys() & known


@pytest.mark.parametrize("old", [*renamed.RENAMED])
def test_an_old_name_is_an_error_that_says_the_new_one(old):
    new = re.escape(renamed.RENAMED[old])
    with pytest.raises(ConfigError, match=rf"--{re.escape(old)}\b.*perhaps you meant --{new}\?"):
        settings.load([], [f"--{old}", "3"])


def test_the_config_of_a_run_folder_of_older_code_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(OLD)
    with pytest.raises(ConfigError, match=REFUSED):
        settings.load([str(path)], [])
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(ConfigError, match=REFUSED):
        run_folder.prepare(settings.load([], ["--run.folder", str(tmp_path)]))
    for command in (report, compare, evaluate):
        with pytest.raises(ConfigError, match=REFUSED):
            command.main([str(tmp_path)])
    assert path.read_text() == OLD
