"""Building tables: grids of params, and the workers of executors, down to real Dask."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import gainreg
from gainreg import Activation, ParameterError, TableError

PLUGIN = """
from gainreg import Activation, hookimpl

@hookimpl
def gainreg_activations():
    return [Activation("plugged", lambda x: x * abs(x), aliases=("plugged_too",))]
"""

# φ ends the process that evaluates it, until the file is there that it leaves behind.
DEADLY = """
import os
from pathlib import Path
from gainreg import Activation, hookimpl

def forward(x):
    left = Path(__file__).with_suffix(".died")
    if not left.exists():
        left.touch()
        os._exit(1)
    return x ** 3

@hookimpl
def gainreg_activations():
    return [Activation("deadly", forward)]
"""


def squared(x: np.ndarray) -> np.ndarray:
    return x * x


def load(path: Path, text: str) -> None:
    path.write_text(text)
    gainreg.host.host().load_file(str(path))  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def workers() -> Iterator[Executor]:
    """Two processes that were started before the tests register anything."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        assert sum(pool.map(abs, [-1, -2])) == 3
        yield pool


# --- grids ---


def test_of_several_values_all_combinations_are_taken() -> None:
    grid = {"lower": [0.1, 0.2], "upper": np.array([0.3, 0.4])}
    built = gainreg.build_table([("rrelu", grid), ("elu", {"alpha": (0.5, 1)})], stds=[1, 2])
    params = [tuple(entry.params.values()) for entry in built if entry.std == 1]
    assert params == [(0.1, 0.3), (0.1, 0.4), (0.2, 0.3), (0.2, 0.4), (0.5,), (1.0,)]
    assert len(built) == 12


@pytest.mark.parametrize(
    ("alpha", "message"),
    [([], "no values"), ([0.5, "a"], "must be a number, got 'a'"), ([1, True], "got True")],
)
def test_values_of_a_grid_are_checked(alpha: object, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        gainreg.build_table([("elu", {"alpha": alpha})])  # type: ignore[list-item]


# --- executors ---


def test_workers_make_the_same_table_as_this_process(workers: Executor) -> None:
    there = gainreg.build_table(stds=[0.5, 1.0], executor=workers)
    assert there.to_yaml() == gainreg.build_table(stds=[0.5, 1.0]).to_yaml()


def test_an_entry_that_has_no_gain_is_left_out_with_a_warning(workers: Executor) -> None:
    with pytest.warns(RuntimeWarning, match=r"left out of the table.*at std = 1e-06"):
        built = gainreg.build_table(["hardshrink", "relu"], [1e-6, 1.0], executor=workers)
    assert [(entry.activation, entry.std) for entry in built] == [
        ("hardshrink", 1.0),
        ("relu", 1e-6),
        ("relu", 1.0),
    ]


def test_a_long_list_of_stds_is_shared_out(workers: Executor) -> None:
    stds, shares = np.geomspace(0.1, 10, 2500), []

    def progress(work: object) -> object:
        shares.extend(work)  # type: ignore[call-overload]
        return shares

    built = gainreg.build_table(["relu"], stds, progress, workers)  # type: ignore[arg-type]
    assert len(shares) == 3
    assert [entry.std for entry in built] == stds.tolist()


@pytest.mark.usefixtures("fresh_host")
def test_workers_find_plugin_files_and_what_the_program_registers(
    workers: Executor, tmp_path: Path
) -> None:
    load(tmp_path / "plug.py", PLUGIN)
    gainreg.register(Activation("squared", squared))
    names = ["plugged", "squared", Activation("twice", np.exp2)]
    here = gainreg.build_table(names)
    assert gainreg.build_table(names, executor=workers).to_yaml() == here.to_yaml()


@pytest.mark.usefixtures("fresh_host")
def test_workers_load_a_plugin_file_anew_that_was_edited(workers: Executor, tmp_path: Path) -> None:
    gains = []
    for factor in (1, 2):
        gainreg.reload_plugins()
        load(tmp_path / "plug.py", PLUGIN.replace("abs(x)", f"{factor}"))
        gains.append(gainreg.build_table(["plugged"], executor=workers).lookup("plugged").gain)
    assert gains == pytest.approx([1, 0.5])


def test_what_cannot_be_sent_is_computed_here_and_said(workers: Executor) -> None:
    mine = Activation("mine", lambda x: x**3)
    with pytest.warns(RuntimeWarning, match=r"'mine' is computed here.*lambda"):
        built = gainreg.build_table([mine, "elu"], executor=workers)
    assert [entry.activation for entry in built] == ["mine", "elu"]


def test_what_a_worker_cannot_import_is_computed_here_and_said(
    workers: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def cube(x):\n    return x**3\n")
    monkeypatch.syspath_prepend(tmp_path)
    from only_here import cube  # type: ignore[import-not-found]

    with pytest.warns(RuntimeWarning, match="No module named 'only_here'"):
        built = gainreg.build_table([cube], executor=workers)
    assert built.lookup("cube").gain == pytest.approx(15**-0.5)


@pytest.mark.usefixtures("fresh_host")
def test_an_error_is_the_same_from_a_worker(workers: Executor, tmp_path: Path) -> None:
    load(tmp_path / "plug.py", PLUGIN.replace("x * abs(x)", "x[:1]"))
    errors = []
    for executor in (None, workers, ThreadPoolExecutor(1)):
        with pytest.raises(gainreg.PluginError, match="must be vectorised") as raised:
            gainreg.build_table(["plugged"], executor=executor)
        errors.append(str(raised.value))
    assert len(set(errors)) == 1


@pytest.mark.usefixtures("fresh_host")
def test_a_worker_that_dies_ends_the_build_with_a_sentence(tmp_path: Path) -> None:
    load(tmp_path / "deadly.py", DEADLY)
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as pool,
        pytest.raises(TableError, match=r"executor failed at 'deadly' \(BrokenProcessPool"),
    ):
        gainreg.build_table(["deadly"], executor=pool)


@pytest.mark.usefixtures("fresh_host")
def test_a_plugin_file_that_a_worker_does_not_see_ends_the_build(
    workers: Executor, tmp_path: Path
) -> None:
    load(tmp_path / "plug.py", PLUGIN)
    (tmp_path / "plug.py").unlink()
    with pytest.raises(TableError, match=r"plug.py' failed to load: there is no such file"):
        gainreg.build_table(["plugged"], executor=workers)


@pytest.mark.usefixtures("fresh_host")
def test_dask_makes_the_same_table_and_goes_on_where_a_worker_dies(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    load(tmp_path / "deadly.py", DEADLY)
    load(tmp_path / "plug.py", PLUGIN)
    items = ["elu", "plugged", "deadly", ("prelu", {"weight": [0.1, 0.2]})]
    with (
        distributed.LocalCluster(1, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        there = gainreg.build_table(items, [0.5, 1.0], executor=client.get_executor())
    assert (tmp_path / "deadly.died").exists()
    assert there.to_yaml() == gainreg.build_table(items, [0.5, 1.0]).to_yaml()


def test_jobs_of_the_command_line_make_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "plug.py").write_text(PLUGIN)
    environment = {**os.environ, "GAINREG_PLUGINS": "plug.py"}
    for jobs in ("1", "2"):
        words = ["elu", "plugged_too", "-p", "alpha=0.1,0.5,1", "--std", "0.5,1,2"]
        command = [sys.executable, "-m", "gainreg", "build", *words, "--jobs", jobs, "-o", jobs]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{jobs}: 12 entries of 2 activations\n"
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_what_is_no_executor_is_refused_before_any_work() -> None:
    with pytest.raises(gainreg.ParameterError, match="an executor is one of concurrent"):
        gainreg.build_table(["relu"], executor=3)
