"""The project file says what is there."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_of_the_package_is_shipped() -> None:
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "gainreg").rglob("__init__.py")}
    packages = {".".join(folder.parts) for folder in folders} | {"gainreg_plugins"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


def test_every_file_of_built_ins_is_an_entry_point() -> None:
    files = {file.stem for file in (ROOT / "plugins").glob("[!_]*.py")}
    points = PROJECT["project"]["entry-points"]["gainreg"]
    assert points == {name: f"gainreg_plugins.{name}" for name in files}
