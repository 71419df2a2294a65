"""The files that a model consists of, and their digests."""

from __future__ import annotations

import hashlib

from llm.models import digests
from llm.models.pretraining import kept_in
from llm.settings import loading


def test_the_digest_is_of_every_byte_of_weights_configuration_and_tokenizer(tmp_path):
    for name in ("model.safetensors", "config.json", "tokenizer.json", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    (tmp_path / "other.safetensors").mkdir()
    files = {p.name: p for p in digests.model_files(tmp_path)}
    assert list(files) == ["config.json", "model.safetensors", "tokenizer.json"]
    found = digests.digests(files)
    assert found == {n: hashlib.sha256(n.encode() * 1000).hexdigest() for n in files}
    with (tmp_path / "model.safetensors").open("r+b") as file:  # size, and time, as before
        file.seek(5000)
        file.write(b"X")
    assert digests.digests(files)["model.safetensors"] != found["model.safetensors"]


def test_the_folder_of_a_role_is_its_path_or_where_it_is_pretrained(tmp_path):
    """A policy's copy has none of its own."""
    cfg = loading.load([], ["--actor.type", "noisy"])
    assert digests.folder_of(cfg, "actor", tmp_path) is None
    assert digests.folder_of(cfg, "policy", tmp_path) == (
        kept_in(cfg, "policy", tmp_path) / "model"
    )
    given = loading.load([], ["--policy.path", str(tmp_path), "--actor.type", "noisy"])
    assert digests.folder_of(given, "policy", tmp_path / "run") == tmp_path
