"""The hub is asked once, and not for long; a cached name needs none."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

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


def broken(path: Path) -> None:
    path.symlink_to("nowhere")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def to_a_fifo(path: Path) -> None:
    os.mkfifo(path.parent / "fifo")
    path.symlink_to("fifo")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
        server.bind(path.name)


def too_large(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 33)  # takes no room on the disk


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a broken link": (broken, "leads to no file"),
    "a circle of links": (circle, "leads to no file"),
    "a FIFO": (os.mkfifo, "a FIFO"),
    "a link to a FIFO": (to_a_fifo, "a FIFO"),
    "a socket": (a_socket, "a socket"),
    "a folder": (Path.mkdir, "a folder"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "8 GiB": (too_large, "8589934592 bytes"),
}
MODEL_FILES = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "chat_template.json", "tokenizer.json"),
    *("vocab.json", "merges.txt", "tokenizer.model", "qwen.tiktoken", "adapter_config.json"),
    "model.safetensors.index.json",
)


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_stands_in_place_of_a_models_file_is_named_and_not_taken_for_absent(tmp_path, kind):
    """transformers would go on without it: plain text in place of a chat, other end ids."""
    make, said = NO_FILES[kind]
    for name in MODEL_FILES:
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        make(folder / name)
        with pytest.raises(ConfigError, match=rf"{folder}/{name} .*{said}"):
            hub.is_local(str(folder))


def test_weights_and_named_templates_are_looked_at_and_links_to_files_are_files(tmp_path):
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "config.json").symlink_to("real.json")
    (tmp_path / "sub").mkdir()
    (tmp_path / "README.md").symlink_to("nowhere")  # nobody reads it
    assert hub.is_local(str(tmp_path))
    named = tmp_path / "additional_chat_templates"
    broken(named)
    with pytest.raises(ConfigError, match="additional_chat_templates is a symbolic link"):
        hub.is_local(str(tmp_path))
    named.unlink()
    named.mkdir()
    assert hub.is_local(str(tmp_path))
    broken(named / "rag.jinja")
    with pytest.raises(ConfigError, match=r"rag\.jinja is a symbolic link"):
        hub.is_local(str(tmp_path))
    (named / "rag.jinja").unlink()
    broken(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"model\.safetensors is a symbolic link"):
        hub.is_local(str(tmp_path))


def test_a_broken_link_in_the_hubs_cache_is_not_taken_for_an_absent_file(monkeypatch, tmp_path):
    """Of weights whoever loads the model says so, after the hub was asked for them."""
    import huggingface_hub

    (tmp_path / "config.json").touch()
    there = {"config.json": str(tmp_path / "config.json")}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda _, name: there.get(name))
    broken(tmp_path / "model.safetensors")
    hub.check_cached_files("owner/name")
    broken(tmp_path / "chat_template.jinja")
    with pytest.raises(ConfigError, match=r"chat_template\.jinja is a symbolic link"):
        hub.check_cached_files("owner/name")
    there.clear()
    hub.check_cached_files("owner/name")
