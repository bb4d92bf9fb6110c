"""The documentation's code blocks run, its numbers are gainreg's, and its site builds."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from doc_blocks import ROOT, blocks, read

import gainreg
from gainreg.host import host

PAGES = sorted((ROOT / "docs").rglob("*.md"))
MEASURED = ROOT / "docs" / "measured"


def test_every_block_of_the_site_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    read([page for page in PAGES if page.parent != MEASURED], tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        tested = block.language in ("python", "sh", "text", "js") or block.mark.startswith("file: ")
        assert tested or re.match("not run: .+", block.mark), block


def test_the_plugin_package_is_whole(tmp_path: Path) -> None:
    whole = {block.mark: block.code for block in blocks(ROOT / "docs" / "howto" / "plugin.md")}
    (tmp_path / "my_activations.py").write_text(whole["file: my_activations.py"])
    project = tomllib.loads(whole["file: pyproject.toml"])
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
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert "method='analytic'" in done.stdout


def test_the_numbers_in_the_depth_table_are_those_of_gainreg() -> None:
    page = (MEASURED / "depth.md").read_text()
    rows = re.findall(r"^\| (\w+) \| .* \| (\d\.\d{3}) \| (\d\.\d{3}) \|$", page, re.MULTILINE)
    assert len(rows) == 6
    for name, slope, factor in rows:
        entry = gainreg.resolve(name)
        assert f"{entry.variance_slope:.3f}" == slope
        assert f"{entry.gradient_factor:.3f}" == factor


def test_the_accuracy_table_is_what_its_benchmark_finds(monkeypatch: pytest.MonkeyPatch) -> None:
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
    page = (MEASURED / "accuracy.md").read_text()
    for source, error in worst.items():
        assert f"| {source} | {error:.0e} |" in page


def test_the_site_builds_strictly_and_asks_nothing_of_other_hosts(tmp_path: Path) -> None:
    # not --quiet, which hides warnings from --strict too
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = re.compile(r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=\"(?:https?:)?//([^\"]*)")
    for page in tmp_path.rglob("*.html"):
        hosts = loaded.findall(page.read_text())
        assert not hosts, (page, hosts)
    assert "softplus" in (tmp_path / "gallery" / "index.html").read_text()
    reference = (tmp_path / "reference" / "torch" / "index.html").read_text()
    shown = re.sub(r"<[^>]*>|\s", "", reference)
    assert "normal_(tensor:Weights" in shown  # as it is called, not as it is decorated
