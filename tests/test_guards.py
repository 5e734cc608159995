"""Import paths, import weight and import direction; and that every tool and every configuration file answers."""

from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAPPED = ("datasets", "models2d", "models3d")
TOOLS = sorted((ROOT / "tools").glob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))

# Package -> what of stvit it may import, besides itself. Arrows point one way:
# tools -> engine -> models and datasets -> backbones and predictors -> layers.
BASE = {"stvit.errors", "stvit.model", "stvit.preprocessing", "stvit.registry"}
NETWORKS = {"stvit.layers", "stvit.backbones", "stvit.predictors"}
MAY_IMPORT = {
    "stvit.layers": {"stvit.errors"},
    "stvit.backbones": {"stvit.layers", *BASE},
    "stvit.predictors": {"stvit.layers", "stvit.backbones", *BASE},
    "stvit.metrics": {"stvit.errors"},
    "stvit.builtin": {"stvit.errors"},
    "stvit.models2d": {*NETWORKS, *BASE},
    "stvit.models3d": {*NETWORKS, *BASE, "stvit.models2d", "stvit.inflation"},
    "stvit.datasets": {"stvit.errors", "stvit.preprocessing"},
    "stvit.checkpoint": {*NETWORKS, *BASE, "stvit.builtin", "stvit.inflation", "stvit.inflation_predictor"},
    # A file of others becomes a row of ours, and settings become the rule by which clips are chosen.
    "stvit.config": {"stvit.backbones", "stvit.datasets.video.clip_sampling", *BASE},
}


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture
def hugging_face(tmp_path: Path) -> Path:
    """A folder that holds another library called ``datasets``, for PYTHONPATH."""
    package = tmp_path / "installed" / "datasets"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("IS_HUGGING_FACE = True\n")
    return package.parent


class TestAnImportByTheWrongPath:
    @pytest.mark.parametrize("name", MAPPED)
    def test_is_refused_with_one_message(self, name: str) -> None:
        done = run("-c", f"import {name}", cwd=ROOT)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            f"ImportError: import stvit.{name}, not {name}: "
            "the repository root is on sys.path; run from elsewhere or with python -P"
        )

    @pytest.mark.parametrize("name", MAPPED)
    def test_is_refused_before_anything_else_is_imported(self, name: str) -> None:
        statements = ast.parse((ROOT / name / "__init__.py").read_text()).body
        if isinstance(statements[0], ast.Expr):  # the docstring
            statements = statements[1:]
        guard = statements[0]
        assert isinstance(guard, ast.If)
        assert ast.unparse(guard.test) == "not __name__.startswith('stvit.')"

    def test_leaves_the_right_path_alone(self, tmp_path: Path) -> None:
        done = run("-c", "import stvit.datasets, stvit.models2d, stvit.models3d", cwd=tmp_path)
        assert done.returncode == 0, done.stderr


class TestTheHuggingFaceDatasetsLibrary:
    def test_is_imported_under_pytest_in_the_repository_root(self, hugging_face: Path, tmp_path: Path) -> None:
        test = tmp_path / "test_import.py"
        test.write_text("import datasets\n\ndef test_it():\n    assert datasets.IS_HUGGING_FACE\n")
        # What the installed `pytest` script is: a file elsewhere, so that the root stays off sys.path.
        script = tmp_path / "pytest_script.py"
        script.write_text("import sys, pytest\nsys.exit(pytest.console_main())\n")
        settings = ("-c", ROOT / "pyproject.toml", "-p", "no:cacheprovider")
        done = run(script, *settings, test, cwd=ROOT, PYTHONPATH=str(hugging_face))
        assert "1 passed" in done.stdout, done.stdout + done.stderr

    def test_is_imported_by_a_tool(self, hugging_face: Path) -> None:
        # sitecustomize runs before the tool, atexit after it, when sys.path is what the tool had.
        (hugging_face / "sitecustomize.py").write_text(
            "import atexit\n\n@atexit.register\ndef show():\n"
            "    import datasets\n    print('Hugging Face:', datasets.IS_HUGGING_FACE)\n"
        )
        done = run("tools/check_wheel.py", "--help", cwd=ROOT, PYTHONPATH=str(hugging_face))
        assert done.stdout.splitlines()[-1] == "Hugging Face: True", done.stdout + done.stderr

    def test_is_not_shadowed_by_the_way_our_tests_lie(self) -> None:
        assert not (ROOT / "conftest.py").exists()
        assert not list((ROOT / "tests").rglob("__init__.py"))


def imported_names(file: Path, package: str) -> Iterator[str]:
    """Absolute names of what a file imports anywhere, late imports included; relative ones resolved in ``package``."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            # `from stvit import layers` imports stvit.layers; of other modules the module is what counts.
            yield from (f"{module}.{alias.name}" if module == "stvit" else module for alias in node.names)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    own = package.removeprefix("stvit.")
    folder = ROOT / own if own in MAPPED else ROOT / "stvit" / own
    allowed = (package, *MAY_IMPORT[package])
    against = []
    for file in folder.rglob("*.py"):
        inside = ".".join([package, *file.relative_to(folder).parts[:-1]])
        for name in imported_names(file, inside):
            ours = name.split(".")[0] in ("stvit", "tools", "tests", *MAPPED)
            if ours and not any(name == a or name.startswith(f"{a}.") for a in allowed):
                against.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not against


def test_the_library_imports_no_tool() -> None:
    files = [file for folder in ("stvit", *MAPPED) for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > len(MAPPED)
    assert not [f for f in files for name in imported_names(f, "stvit") if name.split(".")[0] in ("tools", "tests")]


def test_importing_stvit_is_light(tmp_path: Path) -> None:
    heavy = ("av", "decord", "torchcodec", "pytorchvideo", "matplotlib", "sklearn", "skimage", "tensorboard", "pandas")
    # What torchvision and timm load by themselves is theirs (torchvision 0.21 imports av).
    probe = "import sys, timm, torchvision; theirs = set(sys.modules); import stvit; ours = set(sys.modules) - theirs; "
    done = run("-c", probe + f"print([name for name in {heavy} if name in ours])", cwd=tmp_path)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.name)
def test_every_tool_explains_itself_with_an_example(
    tool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(tool), "--help"])
    monkeypatch.syspath_prepend(tool.parent)  # as for a process that runs it
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which a tool may set, for itself
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(tool), run_name="__main__")
    said = capsys.readouterr().out
    assert left.value.code == 0
    assert "example" in said.lower()
    assert f"python tools/{tool.name}" in said


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_configuration_file_loads(config: Path) -> None:
    from stvit.config import load_config

    assert load_config(str(config), []).is_frozen()
