"""Build the wheel and check it away from the checkout.

Run without a step, it takes all of them in order:

    contents   the wheel holds every file of the package folders, the licence, and nothing beside ``stvit``
    import     every module imports from the wheel, in an environment that does not know the checkout
    types      mypy on the unpacked wheel, which it sees whole (on an editable install it misses the mapped folders),
               and on the tools

Example:
    python tools/check_wheel.py contents import
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = ("contents", "import", "types")
# Compiled files and what editors and system browsers leave behind are no part of a package.
LEFTOVERS = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*~")

IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys
import stvit
for module in pkgutil.walk_packages(stvit.__path__, "stvit."):
    importlib.import_module(module.name)
files = {name: module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "stvit"}
print(json.dumps({"files": files, "models": stvit.list_models()}))
"""


class CheckError(Exception):
    """A check that found something: the message says what."""


def mapped_folders(root: Path) -> dict[str, str]:
    """Import name -> folder, read from ``setup.py`` without running it."""
    for node in ast.parse((root / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["PACKAGES"]:
            folders: dict[str, str] = ast.literal_eval(node.value)
            return folders
    raise CheckError(f"{root / 'setup.py'} assigns no dict of package folders to PACKAGES")


def package_files(root: Path) -> set[str]:
    """Every file that the wheel must hold, by its name in the wheel: ``stvit/datasets/__init__.py``, ...

    Nothing but leftovers is skipped: a folder without ``__init__.py`` or a data file that no rule of ``setup.py``
    covers is a file that a user would miss.
    """
    found = set()
    for package, folder in mapped_folders(root).items():
        for path, folders, names in os.walk(root / folder):
            ignored = LEFTOVERS(path, [*folders, *names])
            folders[:] = [name for name in folders if name not in ignored]
            inside = Path(package.replace(".", "/")) / Path(path).relative_to(root / folder)
            found |= {(inside / name).as_posix() for name in names if name not in ignored}
    return found


def build_wheel(root: Path, out: Path) -> Path:
    """Build the wheel of the checkout at ``root`` into ``out``, with the installed setuptools and no network.

    It is built from a copy: in the checkout, setuptools keeps ``build/lib``, and files deleted since the last build
    would come back in the next wheel.
    """
    with tempfile.TemporaryDirectory(prefix="stvit-build-") as name:
        copy = Path(name) / "stvit"
        copy.mkdir()
        for path in root.iterdir():
            if path.is_file() and not path.name.startswith("."):
                shutil.copy2(path, copy)
        for folder in mapped_folders(root).values():
            shutil.copytree(root / folder, copy / folder, ignore=LEFTOVERS)
        pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(copy))
    (wheel,) = out.glob("stvit-*.whl")
    return wheel


def pip(*arguments: str) -> None:
    """Run pip quietly; raise :class:`CheckError` with its words if it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise CheckError(f"pip {arguments[0]} failed:\n{done.stdout.rstrip()}")


def check_contents(wheel: Path, root: Path) -> str:
    """Compare the wheel with the package folders of the checkout."""
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    of_stvit = {name for name in held if name.startswith("stvit/")}
    info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    wanted = package_files(root) | {"stvit/py.typed"}
    problems = [
        *(f"the wheel lacks {name}" for name in sorted(wanted - of_stvit)),
        *(f"the wheel holds {name}, which the checkout does not" for name in sorted(of_stvit - wanted)),
        *(f"the wheel installs {name} outside stvit" for name in sorted(held - of_stvit) if not name.startswith(info)),
    ]
    if f"{info}/licenses/LICENSE" not in held:
        problems.append("the wheel lacks the licence")
    if problems:
        raise CheckError("\n    ".join(["the wheel is not what the checkout says:", *problems]))
    packages = sum(name.endswith("/__init__.py") for name in of_stvit)
    return f"{wheel.name} holds the {len(of_stvit)} files of {packages} packages and nothing else"


def borrowing_environment(folder: Path, site: Path) -> Path:
    """A virtual environment with ``site`` and this interpreter's installed packages on its path; its interpreter.

    Path files (``.pth``) are not followed in the borrowed folders, so an editable install of the checkout, which is
    one, stays behind and cannot lend a module that the wheel lacks.
    """
    venv.EnvBuilder(with_pip=False).create(folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    show = [str(python), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = subprocess.run(show, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    Path(own, "borrowed.pth").write_text("\n".join([str(site), *borrowed]) + "\n")
    return python


def check_import(site: Path, work: Path) -> str:
    """Import every module of the wheel unpacked in ``site``, from the folder ``work``."""
    python = borrowing_environment(work / "env", site)
    command = [str(python), "-I", "-c", IMPORT_EVERYTHING]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise CheckError(f"the wheel does not import:\n{done.stderr.rstrip()}")
    answer = json.loads(done.stdout.splitlines()[-1])
    for name, file in answer["files"].items():
        if not Path(file).resolve().is_relative_to(site):
            raise CheckError(f"{name} was imported from {file}, not from the wheel in {site}")
    if not answer["models"]:
        raise CheckError("stvit.list_models() names no model in the installed wheel")
    return f"{len(answer['files'])} modules import from the wheel alone; it lists {len(answer['models'])} models"


def check_types(site: Path, root: Path, work: Path) -> str:
    """Run mypy on the wheel unpacked in ``site`` and on ``tools/``, from the folder ``work`` outside the checkout."""
    modules = mypy(["-p", "stvit"], site, root, work)
    expected = sum(name.endswith(".py") for name in package_files(root))
    if modules < expected:
        raise CheckError(f"mypy saw {modules} source files of stvit, but the package folders hold {expected}")
    tools = mypy([str(path) for path in sorted((root / "tools").glob("*.py"))], site, root, work)
    return f"mypy finds nothing in {modules} source files and {tools} tools"


def mypy(what: Sequence[str], site: Path, root: Path, work: Path) -> int:
    """Run mypy with the checkout's settings; returns the number of source files it checked."""
    command = [sys.executable, "-m", "mypy", "--no-pretty", "--no-color-output"]
    command += ["--config-file", str(root / "pyproject.toml"), "--cache-dir", str(root / ".mypy_cache"), *what]
    environment = {**os.environ, "MYPYPATH": str(site)}
    done = subprocess.run(
        command, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise CheckError("mypy found:\n" + in_checkout(done.stdout.rstrip(), os.path.relpath(site, work), root))
    count = re.search(r"no issues found in (\d+) source file", done.stdout)
    if count is None:
        raise CheckError(f"mypy did not say how many files it checked: {done.stdout.rstrip()!r}")
    return int(count[1])


def in_checkout(report: str, site: str, root: Path) -> str:
    """Paths of the unpacked wheel in a report, written as the paths of the checkout that a reader would open."""
    for package, folder in sorted(mapped_folders(root).items(), reverse=True):  # stvit.datasets before stvit
        report = re.sub(rf"(?m)^{re.escape(site)}/{package.replace('.', '/')}/", f"{folder}/", report)
    return report


def check(steps: Sequence[str], root: Path, work: Path) -> None:
    """Take the named steps on a new wheel of ``root``, a line for each; ``work`` is an empty folder elsewhere."""
    wheel = build_wheel(root, work / "dist")
    site = work / "site"
    pip("install", "--no-deps", "--no-compile", "--target", str(site), str(wheel))
    if "contents" in steps:
        print("contents:", check_contents(wheel, root), flush=True)
    if "import" in steps:
        print("import:", check_import(site, work), flush=True)
    if "types" in steps:
        print("types:", check_types(site, root, work), flush=True)


def main() -> int:
    """Entry point: 0 if every check passes, 1 if one finds something, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"one or more of {', '.join(STEPS)} (default: all)")
    steps = parser.parse_args().steps or STEPS
    for step in steps:
        if step not in STEPS:
            parser.error(f"there is no step {step!r}: choose from {', '.join(STEPS)}")
    try:
        with tempfile.TemporaryDirectory(prefix="stvit-wheel-") as work:
            check(steps, ROOT, Path(work).resolve())
    except CheckError as error:
        print(f"check_wheel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
