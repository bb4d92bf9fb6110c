"""The JavaScript reader of the table reads what Python wrote, to the same doubles."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import gainreg

READER = Path(__file__).parents[2] / "examples" / "lookup.js"
ENTRIES = [
    ("elu", "2", []),
    ("swish", "1", []),
    ("leaky_relu", "0.5", ["negative_slope=0.01"]),
]


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module", autouse=True)
def _js_yaml() -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if node("-e", "require('js-yaml')").returncode:
        pytest.skip("js-yaml is not installed (npm install js-yaml; NODE_PATH says where)")


def test_the_reader_has_at_most_twenty_lines() -> None:
    assert len(READER.read_text().splitlines()) <= 20


@pytest.mark.parametrize(("name", "std", "params"), ENTRIES)
def test_names_aliases_and_defaults_are_looked_up(
    name: str, std: str, params: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "gains.yaml"
    table = gainreg.build_table(["elu", "silu", "leaky_relu"], stds=[0.5, 1.0, 2.0])
    table.write(path)
    entry = table.lookup(name, float(std))
    run = node(str(READER), str(path), name, std, *params)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["gain"] == entry.gain
    assert found["variance_slope"] == entry.variance_slope
    lacking = node(str(READER), str(path), name, "7")
    assert lacking.returncode == 1
    assert "the table has no" in lacking.stderr


def test_every_float_of_the_shipped_table_is_the_same_double(tmp_path: Path) -> None:
    path = tmp_path / "gains.yaml"
    shipped = gainreg.load_table()
    shipped.write(path)
    dump = (
        "const { load } = require('js-yaml'); const { readFileSync } = require('node:fs');"
        "console.log(JSON.stringify(load(readFileSync(process.argv[1], 'utf8')).activations))"
    )
    run = node("-e", dump, str(path))
    assert run.returncode == 0, run.stderr
    theirs = json.loads(run.stdout)
    read = [
        (name, entry["std"], *(entry[key] for key in ("gain", "mean", "second_moment", "error")))
        for name, listing in theirs.items()
        for entry in listing["entries"]
    ]
    ours = [
        (entry.activation, entry.std, entry.gain, entry.mean, entry.second_moment, entry.error)
        for entry in shipped
    ]
    assert sorted(read) == sorted(ours)
