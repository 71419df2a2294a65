"""The hub is asked once, and not for long; a cached name needs none."""

from __future__ import annotations

import threading

import pytest

from llm import hub
from llm.errors import ConfigError
from llm.tokenizers import pretrained


class _Hub:
    """Answers as the hub does; counts what it is asked."""

    asked = 0
    answer: Exception | None = None

    def model_info(self, path, timeout):
        type(self).asked += 1
        if self.answer:
            raise self.answer


@pytest.fixture
def fake(monkeypatch):
    import huggingface_hub

    fake = type("Hub", (_Hub,), {})
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(hub, "_on_hub", set())
    return fake


def test_a_hub_id_is_asked_for_once_and_what_is_wrong_is_said_at_once(fake):
    from huggingface_hub.errors import RepositoryNotFoundError

    fake.answer = ConnectionError("nobody there")
    with pytest.raises(ConfigError, match=r"hub does not answer .ConnectionError"):
        hub.require_on_hub("owner/name")
    fake.answer = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    with pytest.raises(ConfigError, match="no folder owner/name, and no public model of that name"):
        pretrained.HubTokenizer("owner/name")
    fake.answer, before = None, fake.asked
    for _ in range(3):
        hub.require_on_hub("owner/name")
    assert fake.asked == before + 1


def test_a_data_set_is_asked_for_as_one_and_a_cached_one_needs_no_hub(fake, monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    fake.dataset_info, fake.model_info = fake.model_info, None
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    fake.answer = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    with pytest.raises(ConfigError, match="no file owner/name, and no public data set of that"):
        hub.require_on_hub("owner/name", "data set")
    fake.answer = ConnectionError("nobody there")
    with pytest.raises(ConfigError, match=r"give a \.jsonl or \.parquet file"):
        hub.require_on_hub("owner/name", "data set")
    before = fake.asked
    (tmp_path / "datasets--owner--name/snapshots/abc").mkdir(parents=True)
    hub.require_on_hub("owner/name", "data set")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    hub.require_on_hub("owner/other", "data set")
    assert fake.asked == before


def test_a_hub_that_never_answers_is_not_waited_for(fake, monkeypatch):
    """Whatever a library makes of its own timeout."""
    never = threading.Event()
    monkeypatch.setattr(fake, "model_info", lambda *_, **__: never.wait(60))
    monkeypatch.setattr(hub, "HUB_SECONDS", 0.01)
    with pytest.raises(ConfigError, match=r"does not answer \(TimeoutError: nothing in 0\.01 s\)"):
        hub.require_on_hub("owner/name")
    never.set()


def test_a_cached_model_needs_no_hub(fake, monkeypatch):
    import huggingface_hub

    fake.answer = ConnectionError("nobody there")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "/there/config.json")
    hub.require_on_hub("owner/name")
    monkeypatch.setattr(hub, "_on_hub", set())
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.require_on_hub("owner/name")
    assert fake.asked == 0


@pytest.mark.parametrize("there", ["", "model.gguf", "step_00000001/policy.safetensors", "a.bin"])
def test_a_folder_without_a_model_and_a_file_are_named_and_the_data_are_not_blamed(tmp_path, there):
    """An empty folder, one of checkpoints, other formats: none is a model of characters."""
    folder = tmp_path / "model"
    folder.mkdir()
    if there:
        (folder / there).parent.mkdir(exist_ok=True)
        (folder / there).touch()
    with pytest.raises(ConfigError, match=f"{folder} holds no model: .* config.json"):
        hub.require_model(str(folder))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"model.safetensors: it is a file; give the folder"):
        hub.is_local(str(tmp_path / "model.safetensors"))
    (folder / "tokenizer.json").touch()
    hub.require_model(str(folder))
