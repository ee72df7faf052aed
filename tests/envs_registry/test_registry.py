"""The ids, and how cheaply they are registered."""

import subprocess
import sys

import gymnasium as gym
import pytest

import envs_registry


def run_python(code):
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_registering_again_changes_nothing():
    before = {spec.id: gym.spec(spec.id) for spec in envs_registry.SPECS}
    envs_registry.register_all()
    assert all(gym.spec(name) is spec for name, spec in before.items())


@pytest.mark.parametrize("spec", envs_registry.SPECS, ids=lambda spec: spec.id)
def test_id_builds_without_arguments(spec):
    env = gym.make(spec.id)
    assert env.spec.id == spec.id
    assert env.spec.max_episode_steps is None
    envs = gym.make_vec(spec.id, num_envs=2)
    assert envs.num_envs == 2
    env.close()
    envs.close()


def test_make_works_without_importing_the_package():
    code = "import gymnasium; print(gymnasium.make('envs_registry:ZeroSearch-v0').spec.id)"
    assert run_python(code) == "ZeroSearch-v0"


def test_importing_zs_env_registers_the_ids():
    code = "import zs_env, gymnasium; print(gymnasium.spec('ZeroSearch-v0').id)"
    assert run_python(code) == "ZeroSearch-v0"


def test_registry_imports_no_environment():
    code = "import envs_registry, sys; print([m for m in sys.modules if m.startswith('zs_env')])"
    assert run_python(code) == "[]"


def test_importing_zs_env_loads_nothing_heavy():
    heavy = "torch transformers bm25s matplotlib rich datasets tokenizers".split()
    code = f"import zs_env, sys; print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code) == "[]"
