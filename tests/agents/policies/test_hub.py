"""What of a model on the hub is downloaded; the hub is a folder here."""

import shutil
from fnmatch import fnmatch

import pytest
import torch

from agents.policies.causal_lm import CausalLMPolicy, find_policy
from agents.policies.folders import find_config
from agents.policies.model_options import ModelOptions
from agents.weights import Weights, weight_files, weights_checksum

NAME = "some/model"


@pytest.fixture
def hub(make_model, tiny_tokenizer, tmp_path, monkeypatch):
    """Return a repository, of which `NAME` is the id, and how often its files were taken."""
    repository, cache, taken = tmp_path / "repository", tmp_path / "cache", []
    model = make_model("qwen2")
    model.save_pretrained(repository, max_shard_size="40KB")
    tiny_tokenizer.save_pretrained(repository)

    def download(name, allow_patterns):
        assert name == NAME
        cache.mkdir(exist_ok=True)
        for file in sorted(repository.iterdir()):
            wanted = any(fnmatch(file.name, pattern) for pattern in allow_patterns)
            if wanted and not (cache / file.name).exists():
                taken.append(file.name)
                shutil.copy(file, cache)
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return repository, taken


def weights(taken):
    return [name for name in taken if name.endswith(".safetensors")]


def add_copies(repository):
    for name in ("consolidated.safetensors", "model.fp16.safetensors", "pytorch_model.bin"):
        (repository / name).write_bytes(b"the same again")


def test_only_the_shards_that_the_index_names_are_taken(hub):
    repository, taken = hub
    shards = sorted(file.name for file in repository.glob("*.safetensors"))
    assert len(shards) > 1
    add_copies(repository)
    folder = find_policy(NAME)
    assert weights(taken) == shards
    assert "pytorch_model.bin" not in taken
    assert isinstance(CausalLMPolicy.load(NAME), CausalLMPolicy)
    assert Weights.read(folder).num_parameters > 0


def test_the_one_file_is_taken_where_there_is_no_index(hub, make_model):
    repository, taken = hub
    for file in [*repository.glob("*.safetensors*")]:
        file.unlink()
    make_model("qwen2").save_pretrained(repository)
    add_copies(repository)
    find_policy(NAME)
    assert weights(taken) == ["model.safetensors"]


def test_an_adapter_is_taken_alone(hub, tmp_path):
    repository, taken = hub
    policy = CausalLMPolicy.load(repository, options=ModelOptions(lora_rank=2))
    below = repository.rename(tmp_path / "below")
    policy.adapter.peft_config["default"].base_model_name_or_path = str(below)
    policy.save(repository)
    add_copies(repository)
    loaded = CausalLMPolicy.load(NAME)
    assert weights(taken) == ["adapter_model.safetensors"]
    pairs = zip(loaded.parameters(), policy.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_configuration_is_taken_without_weights(hub):
    assert (find_config(NAME) / "config.json").is_file()
    assert not weights(hub[1])


def test_a_repository_without_safetensors_is_refused(hub):
    repository, taken = hub
    for file in [*repository.glob("*.safetensors*")]:
        file.unlink()
    (repository / "pytorch_model.bin").write_bytes(b"pickled")
    message = "must have weights in safetensors format, got some/model without model.safetensors"
    with pytest.raises(FileNotFoundError, match=message):
        find_policy(NAME)
    assert "pytorch_model.bin" not in taken


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_names_no_weights_is_refused(hub, text):
    repository, taken = hub
    (repository / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json must .*weight_map"):
        find_policy(NAME)
    assert not weights(taken)


def test_copies_beside_a_model_are_no_part_of_it(hub):
    repository, _ = hub
    before, files = weights_checksum(repository), weight_files(repository)
    add_copies(repository)
    assert weights_checksum(repository) == before
    assert weight_files(repository) == files
