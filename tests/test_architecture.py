import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("envs_registry", "zs_env", "agents")
LM_BACK_ENDS_EXCEPT = {"zs_env.lm", "zs_env.lm.generator"}
STANDARD_LIBRARY = set(sys.stdlib_module_names)
MAX_FUNCTION_LINES = 60


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(file): file for name in PACKAGES for file in (ROOT / name).rglob("*.py")}


def statements(node: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    """Yield what runs at import; what only functions or type checkers see, if wanted."""
    for child in ast.iter_child_nodes(node):
        deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        )
        if inside_functions or not deferred:
            yield child
            yield from statements(child, inside_functions)


@cache
def imports(module: str, inside_functions: bool = True) -> frozenset[str]:
    """Return dotted names a module imports; `from a import b` counts as `a.b`."""
    names = set()
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    for node in statements(tree, inside_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *filter(None, [node.module])]) if node.level else node.module
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return frozenset(names)


def own_imports(module: str) -> set[str]:
    """Return the modules of these packages that `module` names at module level."""
    found = set()
    for name in imports(module, inside_functions=False):
        parts = name.split(".")
        prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        found |= {next((prefix for prefix in prefixes if prefix in FILES), "")}
    return found - {""}


def runs_at_import(module: str) -> set[str]:
    """Return every module that importing `module` runs, parent packages included."""
    seen, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= own_imports(name) | {name.rpartition(".")[0]} & FILES.keys()
        waiting -= seen
    return seen


def modules(*packages: str) -> list[str]:
    return sorted(name for name in FILES if is_in(name, *packages))


def is_in(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_every_folder_of_modules_is_a_package() -> None:
    # Without __init__.py a folder imports too, but mypy takes its files for other modules.
    assert not [file for file in FILES.values() if not (file.parent / "__init__.py").exists()]


def test_modules_do_not_import_in_circles() -> None:
    tuple(TopologicalSorter({name: own_imports(name) for name in FILES}).static_order())


@pytest.mark.parametrize("module", modules("zs_env", "envs_registry"))
def test_environment_never_imports_agents(module: str) -> None:
    assert not [name for name in imports(module) if is_in(name, "agents")]


@pytest.mark.parametrize("module", modules("zs_env.task"))
def test_task_imports_the_standard_library_only(module: str) -> None:
    allowed = STANDARD_LIBRARY | {"zs_env.task"}
    assert not [name for name in imports(module) if not is_in(name, *allowed)]


@pytest.mark.parametrize("module", modules("envs_registry"))
def test_registry_imports_gymnasium_only(module: str) -> None:
    allowed = STANDARD_LIBRARY | {"gymnasium", "envs_registry"}
    assert not [name for name in imports(module) if not is_in(name, *allowed)]


@pytest.mark.parametrize("module", modules("zs_env"))
def test_environment_runs_no_torch_at_import_outside_the_lm_back_ends(module: str) -> None:
    if is_in(module, "zs_env.lm") and module not in LM_BACK_ENDS_EXCEPT:
        return
    for name in runs_at_import(module):
        heavy = imports(name, inside_functions=False)
        assert not [each for each in heavy if is_in(each, "torch", "transformers")], name


@pytest.mark.parametrize("module", modules("agents.rollout", "agents.trainer"))
def test_training_loop_meets_environments_through_gymnasium_only(module: str) -> None:
    shells = ("zs_env.env", "zs_env.vector_env", "zs_env.episode")
    classes = ("zs_env.ZeroSearchEnv", "zs_env.ZeroSearchVectorEnv", "zs_env.Episode")
    assert not [name for name in imports(module) if is_in(name, *shells, *classes)]


def test_no_module_is_named_after_nothing() -> None:
    vague = {"utils", "common", "helpers", "manager"}
    assert not [name for name in FILES if vague & set(name.split("."))]


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"
        for file in FILES.values()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert not long


def test_import_zs_env_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, zs_env; print({'torch', 'transformers'} & set(sys.modules))"
    assert python(code).strip() == "set()"


def test_import_zs_env_takes_under_half_a_second() -> None:
    # Processor time: a busy machine must not fail the test.
    code = "import time; t = time.process_time(); import zs_env; print(time.process_time() - t)"
    assert min(float(python(code)) for _ in range(3)) < 0.5
