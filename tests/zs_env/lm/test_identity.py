"""Digests that tell one model from another."""

import json
import os
import shutil

import pytest
import torch

from zs_env.lm import identity
from zs_env.lm.identity import model_digest, state_digest
from zs_env.lm.transformers import TransformersLM


@pytest.fixture
def folder(tmp_path, make_tiny_model, tiny_tokenizer):
    make_tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_model_that_moved_is_the_same(folder, tmp_path):
    before = model_digest(folder)
    moved = shutil.move(folder, tmp_path / "moved")
    assert model_digest(moved) == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_any_file_of_a_model_makes_another(name, folder):
    before = model_digest(folder)
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    assert model_digest(folder) != before


@pytest.mark.parametrize("name", ["README.md", "metrics.json", "calibration.json", "a.png"])
def test_what_lies_beside_a_model_changes_nothing(name, folder):
    before = model_digest(folder)
    (folder / name).write_text("new")
    assert model_digest(folder) == before


def test_file_is_read_once_while_it_stays(folder, monkeypatch):
    identity._file_digest.cache_clear()
    before = model_digest(folder)
    read = identity._file_digest.cache_info().misses
    assert model_digest(str(folder)) == before
    assert identity._file_digest.cache_info().misses == read
    os.utime(folder / "model.safetensors", ns=(0, 0))
    assert model_digest(folder) == before
    assert identity._file_digest.cache_info().misses == read + 1


def test_an_adapter_is_another_where_the_model_below_is(folder, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(folder)})
    )
    before = model_digest(adapter)
    assert before != model_digest(folder)
    (folder / "generation_config.json").write_text("{}")
    assert model_digest(adapter) != before


@pytest.mark.parametrize("path", ["not/here", "not here", "org/model-that-was-never-loaded"])
def test_model_that_is_not_there_is_an_error(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"there is no model at {path}"):
        model_digest(path)


def test_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no files of a model in {tmp_path}"):
        model_digest(tmp_path)


def test_model_in_memory_is_told_by_weights_settings_and_tokenizer(make_tiny_model, tiny_tokenizer):
    model = make_tiny_model()
    before = state_digest(model, tiny_tokenizer)
    tiny_tokenizer("a long text", truncation=True, max_length=2)  # which the tokenizer remembers
    assert state_digest(make_tiny_model(), tiny_tokenizer) == before
    for other in (make_tiny_model("llama"), make_tiny_model(seed=1), model.to(torch.bfloat16)):
        assert state_digest(other, tiny_tokenizer) != before


def test_loaded_model_is_told_by_its_files_and_one_in_memory_by_its_weights(
    folder, make_tiny_model, tiny_tokenizer, monkeypatch
):
    monkeypatch.chdir(folder.parent)
    loaded = TransformersLM.from_pretrained("model")
    monkeypatch.chdir("/")
    assert loaded.describe() == {"model": model_digest(folder), "dtype": "torch.float32"}
    half = TransformersLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.describe() != loaded.describe()

    model = make_tiny_model()
    in_memory = TransformersLM(model, tiny_tokenizer)
    before = in_memory.describe()
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    assert in_memory.describe() != before
