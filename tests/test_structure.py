"""The seams: who may import what, what is public, what may be committed."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MIB = 2**20


def imports_of(path: Path) -> set[str]:
    """The top-level names of every module that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


FORBIDDEN = {"studio": {"gradio", "tabs", "trainers"}, "trainers": {"gradio", "tabs"}, "tabs": {"torch", "diffusers", "transformers", "trainers"}}


@pytest.mark.parametrize(("folder", "forbidden"), FORBIDDEN.items())
def test_the_layers_do_not_reach_around_each_other(folder, forbidden):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(ROOT)): found for path in files if (found := imports_of(path) & forbidden)}
    assert not wrong


def own_imports(path: Path, known: set[str]) -> set[str]:
    """The modules of this project that a file imports, wherever in it, and for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # A name of a package may be a file of it.
            found |= {whole if (whole := f"{node.module}.{alias.name}") in known else node.module for alias in node.names}
    return found & known


def test_no_files_import_each_other_in_a_circle():
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for name in FORBIDDEN for path in (ROOT / name).rglob("*.py")}
    imports = {name: own_imports(path, set(files)) for name, path in files.items()}
    # Whoever imports nothing that is left is no part of a circle.
    while free := [name for name, wanted in imports.items() if not wanted & imports.keys()]:
        for name in free:
            del imports[name]
    # What is left leads into a circle or lies in it; the latter are imported by one of them as well.
    while outer := imports.keys() - set().union(*imports.values()):
        for name in outer:
            del imports[name]
    assert not imports, sorted(imports)


def dynamic_imports(tree: ast.AST) -> list[ast.Call]:
    """Calls that import or run what a string names."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    by_name = {"import_module", "__import__", "run_module", "run_path", "exec", "eval"}
    by_attribute = {"import_module", "run_module", "run_path"}
    return [call for call in calls if getattr(call.func, "id", "") in by_name or getattr(call.func, "attr", "") in by_attribute]


def names_no_trainer(argument: ast.expr) -> bool:
    """Whether it names a module of its own package, or is a whole name that is no trainer's."""
    if isinstance(argument, ast.JoinedStr) and isinstance(argument.values[0], ast.FormattedValue):
        return getattr(argument.values[0].value, "id", "") == "__name__"
    return isinstance(argument, ast.Constant) and argument.value.split(".")[0] != "trainers"


def test_the_studio_imports_no_trainer_by_a_string_either():
    wrong = []
    for path in sorted((ROOT / "studio").rglob("*.py")):
        calls = dynamic_imports(ast.parse(path.read_text("utf-8")))
        # A name that is put together at run time could be any module's.
        wrong += [f"{path.relative_to(ROOT)}:{call.lineno}" for call in calls if not names_no_trainer(call.args[0])]
    assert not wrong


ASK_OF_TRAINERS = """
import sys

class NoTrainers:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "trainers":
            raise ImportError("studio asked for " + name)

sys.meta_path.insert(0, NoTrainers())
from PIL import Image
from studio import Studio
from studio.runs import TRAINERS
from studio.runs.dreambooth import fields, presets, seen
from studio.runs.trainers import options_table, resolve_options
runs = Studio(runs_root=sys.argv[1]).runs
assert all(options_table(name) for name in TRAINERS) and fields() and presets() and list(runs.list()) == []
resolve_options("ddpm", {"steps": 5})
resolve_options("dreambooth", {"prior_weight": 0.0})
assert "torch" not in sys.modules
seen(Image.new("RGB", (40, 30)), 16, "random")
"""


def test_the_studio_answers_what_it_is_asked_of_trainers_without_one(tmp_path):
    done = subprocess.run([sys.executable, "-c", ASK_OF_TRAINERS, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_trainer_of_the_menu_is_a_program_that_takes_the_options_of_the_menu():
    from studio.runs import TRAINERS

    for name, info in TRAINERS.items():
        tree = ast.parse((ROOT / "trainers" / f"{name}.py").read_text("utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run_program"]
        assert [call.args[0].id for call in calls] == [info.options.__name__]


def test_importing_the_studio_loads_no_torch():
    heavy = ("torch", "diffusers", "transformers", "gradio", "matplotlib")
    code = f"import sys, studio, studio.process.schedules, studio.toybox; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in (ROOT / "studio").rglob("*.py")))
def test_every_public_name_exists_and_is_documented(name):
    module = importlib.import_module(name.removesuffix(".__init__"))
    assert module.__doc__
    for public in getattr(module, "__all__", []):
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{name}.{public} has no docstring"


def committed() -> list[Path]:
    """The files that git tracks, or every file where this is no checkout."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        return [path for folder in ("assets", "studio", "tabs", "trainers", "tests", "docs") for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def test_what_is_committed_stays_small_and_holds_no_pickle():
    files = committed()
    assert sum(path.stat().st_size for path in files) < 60 * MIB
    # As a disk holds them, in blocks of 4 KiB.
    assert sum(-(-path.stat().st_size // 4096) * 4096 for path in files if "assets" in path.relative_to(ROOT).parts[:1]) < 54 * MIB
    assert not [path for path in files if path.stat().st_size >= 10 * MIB]
    assert not [path for path in files if path.suffix in {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}]


def test_every_embedded_model_is_there_with_its_card():
    from studio.models import MODELS
    from studio.models.catalogue import ASSETS

    for name, info in MODELS.items():
        if info.embedded:
            card = (ASSETS / info.source / "README.md").read_text("utf-8")
            assert "Measured" in card and "recipe" in card, name


def test_each_requirement_stands_once_and_allows_the_version_that_was_tested():
    from packaging.requirements import Requirement

    lines = [line for name in ("requirements.txt", "requirements-dev.txt") for line in (ROOT / name).read_text("utf-8").splitlines()]
    wanted = [Requirement(line) for line in lines if line and line[0] not in "#-"]
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line)
    names = [requirement.name for requirement in wanted]
    assert len(set(names)) == len(names)
    assert not [str(one) for one in wanted if not one.specifier.contains(tested[one.name.replace("_", "-").lower()])]
    assert f"sdk_version: {tested['gradio']}" in (ROOT / "README.md").read_text("utf-8")


def test_functions_of_the_tabs_fit_on_a_screen():
    functions = [
        (path, node) for path in (ROOT / "tabs").rglob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)
    ]
    assert functions
    assert not [f"{path.name}: {node.name}" for path, node in functions if (node.end_lineno or 0) - node.lineno + 1 > 60]
