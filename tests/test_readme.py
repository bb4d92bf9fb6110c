"""The README's code blocks run, in order, as a reader would paste them."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gainreg
from gainreg.host import host

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^(?:<!-- (.*?) -->\n)?```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader works, after the first command."""
    folder = tmp_path_factory.mktemp("reader")
    first = next(code for _, language, code in BLOCKS if language == "sh")
    install, build = first.strip().split(" && ")
    assert install == "pip install ."
    subprocess.run([sys.executable, "-m", *build.split()], cwd=folder, check=True)
    return folder


# Runs blocks of code one after the other, each as if it stood alone, and says what each printed.
READER = """
import contextlib, io, json, sys
shown = []
for code in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, code, "exec"), {})
    shown.append(out.getvalue())
print(json.dumps(shown))
"""


def test_every_python_block_runs_and_prints_what_it_says(folder: Path) -> None:
    assert "export KERAS_BACKEND=torch" in README
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "2"}
    blocks = [code for mark, language, code in BLOCKS if language == "python" and not mark]
    assert len(blocks) >= 7
    for module in ("torch", "jax", "flax", "keras", "equinox"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"the README's blocks need {module}")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER],
        input=json.dumps(blocks),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    for code, shown in zip(blocks, printed, strict=True):
        said = re.findall(r"# (\d[\d.]*)…", code)
        for line, word in zip(said, shown.split(), strict=False):
            assert word.startswith(line)


def test_the_plugin_is_whole_and_its_command_runs(tmp_path: Path) -> None:
    ((mark, code),) = [(mark, code) for mark, _, code in BLOCKS if mark.startswith("plugin: ")]
    (tmp_path / mark.removeprefix("plugin: ")).write_text(code)
    (command,) = [code for _, language, code in BLOCKS if "soft_cubic -p" in code]
    words = [sys.executable, "-m", *command.split()]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert 1 / float(done.stdout) ** 2 == pytest.approx(1 + 6 * 0.2 + 15 * 0.2**2)


def test_the_entry_point_is_whole(tmp_path: Path) -> None:
    whole = {mark: code for mark, _, code in BLOCKS}
    (tmp_path / "my_activations.py").write_text(whole["plugin: my_activations.py"])
    project = tomllib.loads(whole["entry point: pyproject.toml"])
    assert project["tool"]["setuptools"]["py-modules"] == ["my_activations"]
    # as the package is when installed
    about = tmp_path / "my_activations-1.0.dist-info"
    about.mkdir()
    points = project["project"]["entry-points"]["gainreg"]
    lines = ["[gainreg]", *(f"{name} = {module}" for name, module in points.items())]
    (about / "entry_points.txt").write_text("\n".join(lines))
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-activations\nVersion: 1.0\n")
    done = subprocess.run(
        [sys.executable, "-c", "import gainreg; print(gainreg.resolve('hard_mish', reach=4.0))"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert "method='analytic'" in done.stdout


def test_the_set_up_command_ends_in_a_table(folder: Path) -> None:
    assert len(gainreg.load_table(folder / "gains.yaml")) == len(gainreg.load_table())


def test_the_numbers_in_the_depth_table_are_those_of_gainreg() -> None:
    rows = re.findall(r"^\| (\w+) \| .* \| (\d\.\d{3}) \| (\d\.\d{3}) \|$", README, re.MULTILINE)
    assert len(rows) == 6
    for name, slope, factor in rows:
        entry = gainreg.resolve(name)
        assert f"{entry.variance_slope:.3f}" == slope
        assert f"{entry.gradient_factor:.3f}" == factor


def test_the_accuracy_table_is_what_its_benchmark_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("torch", reason="the benchmark compares with torch")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import accuracy  # type: ignore[import-not-found]

    worst: dict[str, float] = {}
    for entry in gainreg.load_table():
        if entry.std == 1.0 and entry.method != "sampling":
            found = accuracy.constants(host().activation(entry.activation), entry)
            off = {source: accuracy.off(*pair) or 0.0 for source, pair in found.items()}
            off["gainreg, as it states itself"] = entry.error / entry.second_moment / 2
            worst = {source: max(error, worst.get(source, 0.0)) for source, error in off.items()}
    measured = (ROOT / "docs" / "measured" / "accuracy.md").read_text()
    for source, error in worst.items():
        assert f"| {source} | {error:.0e} |" in README
        assert f"| {source} | {error:.0e} |" in measured
