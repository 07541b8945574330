"""The project as a whole: its public face, its promises about imports, and the files around the code."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import sightline
from conftest import REPOSITORY

SOURCE = REPOSITORY / "src"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
CONSTRAINTS = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
# What a package on the index is called, where its modules are called otherwise.
CALLED = {"pil": "pillow", "sklearn": "scikit-learn", "skimage": "scikit-image", "yaml": "pyyaml"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(*extras: str) -> list[Requirement]:
    groups = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(text) for group in groups for text in group]


def tracked() -> list[Path]:
    """The repository's files: what git knows, and what it would take in."""
    git = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the project was not cloned with git")
    return [path for name in listed.split("\0") if name and (path := REPOSITORY / name).is_file()]


def imported(path: Path) -> Iterator[str]:
    """The packages that a source file imports, or names in full, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Constant) and node.value in CALLED:
            yield node.value


@pytest.mark.parametrize("package", ["", ".explainers", ".objectives", ".metrics", ".data"])
def test_every_exported_name_exists(package: str) -> None:
    module = importlib.import_module(f"sightline{package}")
    assert len(module.__all__) == len(set(module.__all__)) > 0
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sightline.nothing  # noqa: B018


def test_what_works_from_files_alone_does_not_import_torch() -> None:
    modules = ["errors", "files", "versions", "stats", "scores", "compare", "report", "cli"]
    code = f"""
import importlib, sys
sys.path.insert(0, {str(SOURCE)!r})
print(*[name for name in {modules} if importlib.import_module("sightline." + name) and "torch" in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[?v?(\d+\.\d+\.\d+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[:1] == [sightline.__version__]


def test_constraints_pin_every_declared_package_once_and_for_every_build() -> None:
    pinned = dict(line.split("==") for line in CONSTRAINTS)
    names = [normal(name) for name in pinned]
    assert len(names) == len(set(names)) == len(CONSTRAINTS)
    assert all(re.fullmatch(r"[0-9.]+(post\d+)?", version) for version in pinned.values())
    versions = dict(zip(names, pinned.values(), strict=True))
    declared = [r for r in requirements(*PROJECT["optional-dependencies"]) if r.name != "sightline"]
    assert [str(r) for r in declared if versions.get(normal(r.name), "missing") not in r.specifier] == []


def test_the_core_dependencies_are_what_the_source_imports() -> None:
    names = {name.lower() for path in SOURCE.rglob("*.py") for name in imported(path)}
    used = {CALLED.get(name, name) for name in names - sys.stdlib_module_names - {"sightline"}}
    core = {normal(r.name) for r in requirements()}
    optional = {normal(r.name) for extra in ("annotate", "timm", "parquet", "tensorboard") for r in requirements(extra)}
    assert core <= used
    assert used <= core | optional


def test_files_name_no_machine() -> None:
    # Spelt in pieces, or this file would be the one that is found.
    places = [f"/{place}/" for place in ("root", "work", "tmp")] + ["/(home|Users)/[a-z]", f"{REPOSITORY}/"]
    pattern = re.compile("|".join(places))
    texts = {path: path.read_bytes().decode("utf-8", "ignore") for path in tracked()}
    assert [f"{path}: {hit.group()}" for path, text in texts.items() if (hit := pattern.search(text))] == []


@pytest.mark.parametrize("script", ["scripts/demo", "scripts/test", "scripts/check", ".ci/run"])
def test_scripts_can_be_run(script: str) -> None:
    path = REPOSITORY / script
    assert path.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
