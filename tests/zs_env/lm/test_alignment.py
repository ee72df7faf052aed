"""Weights in aligned memory."""

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from zs_env.lm.alignment import ALIGNMENT, aligned
from zs_env.lm.transformers import TransformersLM


def offsets(module):
    return {t.data_ptr() % ALIGNMENT for t in (*module.parameters(), *module.buffers())}


def test_tensors_that_lie_askew_move_and_keep_their_numbers():
    module = nn.BatchNorm1d(7)
    numbers = torch.arange(15.0)
    module.weight.data, module.running_mean.data = numbers[1:8], numbers[8:15]
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert offsets(module) != {0}
    assert aligned(module) is module
    assert offsets(module) == {0}
    after = module.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_tied_weights_stay_tied():
    module = nn.ModuleDict({"a": nn.Linear(5, 5), "b": nn.Linear(5, 5)})
    module["b"].weight = module["a"].weight
    module["a"].weight.data = torch.arange(26.0)[1:].view(5, 5)
    aligned(module)
    assert offsets(module) == {0}
    assert module["a"].weight is module["b"].weight


@pytest.mark.parametrize("padding", range(0, 64, 8))
def test_loaded_model_is_aligned_wherever_its_files_header_ends(
    padding, make_tiny_model, tiny_tokenizer, tmp_path
):
    model = make_tiny_model("qwen2", torch.float32)
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    metadata = {"format": "pt", "padding": "x" * padding}
    save_model(model, str(tmp_path / "model.safetensors"), metadata)
    assert offsets(TransformersLM.from_pretrained(tmp_path).model) == {0}
