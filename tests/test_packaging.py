"""The wheel holds what the package folders hold, and the check that says so finds what is wrong."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_wheel", ROOT / "tools/check_wheel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_wheel = load_tool()
BUILTIN = ("model.safetensors", "config.json", "README.md", "SHA256SUMS")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what packaging reads, which the tests may spoil."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, copy)
    for folder in ("stvit", "models2d", "models3d", "datasets"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "stvit/builtin/moving_mnist").mkdir(exist_ok=True)
    for name in BUILTIN:
        (copy / "stvit/builtin/moving_mnist" / name).write_bytes(b"stands for the shipped predictor's")
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return check_wheel.build_wheel(checkout, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize(
    ("folder", "package"),
    [("stvit", "stvit"), *((name, f"stvit/{name}") for name in ("models2d", "models3d", "datasets"))],
)
def test_every_package_folder_is_in_the_wheel(folder: str, package: str, checkout: Path, names: set[str]) -> None:
    inits = [path.relative_to(checkout / folder).as_posix() for path in (checkout / folder).rglob("__init__.py")]
    assert "__init__.py" in inits
    assert {f"{package}/{init}" for init in inits} <= names


def test_every_module_is_in_the_wheel(checkout: Path, names: set[str]) -> None:
    in_folders = sum(
        1 for name in ("stvit", "models2d", "models3d", "datasets") for _ in (checkout / name).rglob("*.py")
    )
    assert in_folders == sum(name.endswith(".py") for name in names)


def test_the_wheel_installs_nothing_but_stvit(names: set[str]) -> None:
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"stvit"}


def test_the_wheel_is_typed_and_licensed(names: set[str]) -> None:
    assert "stvit/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_shipped_predictor_is_in_the_wheel(names: set[str]) -> None:
    assert {f"stvit/builtin/moving_mnist/{name}" for name in BUILTIN} <= names


def test_a_good_wheel_passes(wheel: Path, checkout: Path) -> None:
    assert "and nothing else" in check_wheel.check_contents(wheel, checkout)


def test_building_leaves_the_checkout_as_it_was(wheel: Path, checkout: Path) -> None:
    assert not (checkout / "build").exists()
    assert not list(checkout.glob("*.egg-info"))


@pytest.mark.parametrize("name", ["datasets/extra/module.py", "stvit/engine/table.json", "models3d/late.py"])
def test_a_file_that_the_wheel_lacks_is_named(name: str, wheel: Path, checkout: Path) -> None:
    file = checkout / name
    folder_is_new = not file.parent.exists()
    file.parent.mkdir(exist_ok=True)
    file.touch()
    try:
        with pytest.raises(check_wheel.CheckError, match=f"the wheel lacks (stvit/)?{name}"):
            check_wheel.check_contents(wheel, checkout)
    finally:
        file.unlink()
        if folder_is_new:
            file.parent.rmdir()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("datasets/__init__.py", "installs datasets/__init__.py outside stvit"),
        ("stvit/deleted_long_ago.py", "holds stvit/deleted_long_ago.py, which the checkout does not"),
    ],
)
def test_a_file_too_many_is_named(name: str, complaint: str, wheel: Path, checkout: Path, tmp_path: Path) -> None:
    spoilt = Path(shutil.copy(wheel, tmp_path))
    with zipfile.ZipFile(spoilt, "a") as archive:
        archive.writestr(name, "")
    with pytest.raises(check_wheel.CheckError, match=complaint):
        check_wheel.check_contents(spoilt, checkout)


def test_the_wheel_imports_from_elsewhere_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """``import stvit.datasets`` is the module that an incomplete mapping loses first."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    python = check_wheel.borrowing_environment(tmp_path / "env", site)
    ask = "import stvit, stvit.datasets as d, stvit.models3d; print(stvit.__file__, d.__file__, stvit.list_models())"
    done = subprocess.run([python, "-I", "-c", ask], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stvit_file, datasets_file, models = done.stdout.strip().split(" ", 2)
    assert Path(stvit_file) == site / "stvit/__init__.py"
    assert Path(datasets_file) == site / "stvit/datasets/__init__.py"
    assert models != "[]"


def test_a_module_that_the_wheel_lacks_is_not_lent_by_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    shutil.rmtree(site / "stvit/datasets")
    python = check_wheel.borrowing_environment(tmp_path / "env", site)
    done = subprocess.run([python, "-I", "-c", "import stvit.datasets"], cwd=tmp_path, capture_output=True, text=True)
    assert "No module named 'stvit.datasets'" in done.stderr


def test_a_type_error_in_the_wheel_is_shown_at_its_place_in_the_checkout() -> None:
    report = "site/stvit/datasets/a.py:1: error: x\nsite/stvit/models3d/b.py:2: error: y\nsite/stvit/c.py:3: error: z"
    assert check_wheel.in_checkout(report, "site", ROOT).splitlines() == [
        "datasets/a.py:1: error: x",
        "models3d/b.py:2: error: y",
        "stvit/c.py:3: error: z",
    ]
