import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("envs_registry", "zs_env", "agents", "pyproject.toml", "README.md", "LICENSE")
FIRST_SEARCH = """
import gymnasium as gym, zs_env
env = gym.make("ZeroSearch-v0")
question, _ = env.reset(seed=0)
observation = env.step("<think>x</think><search>where was she born</search>")[0]
print([question, observation])
"""

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command away from the checkout and return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy, so that nothing left in the checkout's build/ gets into the wheel."""
    copy, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", dist, copy, cwd=dist)
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of a new environment that holds the wheel."""
    home = tmp_path_factory.mktemp("elsewhere")
    venv.create(home)
    paths = {"base": str(home), "platbase": str(home)}
    bin_dir = Path(sysconfig.get_path("scripts", "venv", paths))
    python = bin_dir / Path(sys.executable).name
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, cwd=home)
    # Dependencies are borrowed from this environment. Its own .pth files, and with them an
    # editable install of the checkout, are not read again from there.
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return bin_dir


def test_wheel_holds_the_packages_their_types_and_the_weights(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    assert {f"{package}/py.typed" for package in ("zs_env", "agents", "envs_registry")} <= names
    for pattern in (
        "zs_env/models/**/*.safetensors",
        "zs_env/search/templates/*.jinja",
        "agents/pages/assets/*",
    ):
        files = {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)}
        assert files
        assert files <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "zs_env",
        "agents",
        "envs_registry",
    }


def test_installed_wheel_answers_a_search_with_its_own_weights(
    installed: Path, tmp_path: Path
) -> None:
    python = installed / Path(sys.executable).name
    where = run(python, "-c", "import zs_env; print(zs_env.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    question, observation = ast.literal_eval(run(python, "-c", FIRST_SEARCH, cwd=tmp_path))
    assert question
    assert observation.startswith("<information>")


def test_installed_wheel_brings_the_command(installed: Path, tmp_path: Path) -> None:
    assert "train" in run(installed / "zerosearch", "--help", cwd=tmp_path)
