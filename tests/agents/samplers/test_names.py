from pathlib import Path

import pytest

from agents.samplers.names import SamplerName, importance_cap, read_sampler_name

URL = "http://localhost:8000/v1"


@pytest.mark.parametrize(
    ("text", "url", "expected"),
    [
        ("transformers", "", SamplerName("transformers")),
        ("vllm", "", SamplerName("vllm")),
        (
            "vllm?gpu_memory_utilization=0.4&max_model_len=2048&dtype=bfloat16",
            "",
            SamplerName(
                "vllm",
                {"gpu_memory_utilization": 0.4, "max_model_len": 2048, "dtype": "bfloat16"},
            ),
        ),
        (
            "vllm-server?model=policy&folder=/dev/shm/w",
            URL,
            SamplerName("vllm-server", {"model": "policy"}, Path("/dev/shm/w")),
        ),
    ],
)
def test_name_is_read(text, url, expected):
    assert read_sampler_name(text, url) == expected


@pytest.mark.parametrize(
    ("text", "url", "message"),
    [
        ("sglang", "", "`policy_engine` must be one of transformers, vllm, vllm-server, got"),
        ("", "", "`policy_engine` must be one of"),
        ("vllm-server", "", "`policy_url` must be given with the policy engine vllm-server"),
        ("vllm", URL, "`policy_url` must be left out without"),
        ("transformers", URL, "`policy_url` must be left out without"),
        ("transformers?dtype=float32", "", "options of `policy_engine` transformers are none"),
        ("vllm?model=policy", "", "options of `policy_engine` vllm are dtype, .*got 'model'"),
        ("vllm?max_num_seqs=many", "", "`max_num_seqs` must be an integer, got 'many'"),
        ("vllm-server", "localhost:8000", "`policy_url` must be like http://host:port/v1, got"),
        ("vllm-server", "http://me:secret@h/v1", "`policy_url` .*without user, password"),
        ("vllm?", "", r"must be like \?option=value"),
    ],
)
def test_mistake_is_told(text, url, message):
    with pytest.raises(ValueError, match=message):
        read_sampler_name(text, url)


@pytest.mark.parametrize(
    ("kind", "given", "cap"),
    [
        ("transformers", None, 0.0),
        ("vllm", None, 2.0),
        ("vllm-server", None, 2.0),
        ("vllm", 0.0, 0.0),
        ("transformers", 5.0, 5.0),
    ],
)
def test_importance_cap_is_the_engines_unless_given(kind, given, cap):
    assert importance_cap(kind, given) == cap
