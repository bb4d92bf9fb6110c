"""The table: what is written is what is read, and nothing else is ever read."""

import hashlib
import math
import os
import random
import re
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

import gainreg
from gainreg import GainEntry, GainTable, TableError, document
from gainreg.entry import to_dict
from gainreg.params import METHODS
from gainreg.schema import Listing
from gainreg.table import SHIPPED


@pytest.fixture(scope="module")
def small() -> GainTable:
    return gainreg.build_table([("elu", {"alpha": 0.5}), "elu", "tanh", "sign"], stds=[0.3, 1.0])


@pytest.fixture
def file(small: GainTable, tmp_path: Path) -> Path:
    path = tmp_path / "gains.yaml"
    small.write(path)
    return path


def with_digest(body: str) -> bytes:
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f"# gainreg table; sha256 of all bytes after this line: {digest}\n{body}".encode()


# --- round trips ---


def test_a_table_reads_back_as_it_was_written(small: GainTable, file: Path) -> None:
    again = gainreg.load_table(file)
    assert again == small
    assert len(again) == 8
    assert again.to_yaml() == small.to_yaml() == file.read_text()
    assert again.lookup("elu", alpha=0.5) == gainreg.resolve("elu", alpha=0.5)


def test_building_twice_gives_the_same_bytes(small: GainTable) -> None:
    twin = gainreg.build_table(
        [("elu", {"alpha": 0.5}), "elu", "tanh", "sign"], stds=(1.0, 0.3, 1.0)
    )
    assert twin.to_yaml() == small.to_yaml()


def test_a_gain_that_does_not_exist_is_null(file: Path) -> None:
    plain = yaml.safe_load(file.read_text())
    for entry in plain["activations"]["sign"]["entries"]:
        assert entry["backward_gain"] is entry["gradient_factor"] is None
        assert entry["derivative_second_moment"] is None


def floats(data: object) -> list[float]:
    if isinstance(data, dict):
        data = list(data.values())
    if isinstance(data, list):
        return [x for item in data for x in floats(item)]
    return [data] if isinstance(data, float) else []


def test_every_float_reads_as_the_same_double_in_yaml_1_1_and_1_2() -> None:
    text = SHIPPED.read_text()
    entries = [to_dict(entry) for entry in gainreg.load_table()]
    written = floats([{**entry, "width": None} for entry in entries])
    one_one = yaml.safe_load(text)
    one_two = YAML(typ="safe", pure=True)
    one_two.version = (1, 2)
    for data in (one_one, one_two.load(text)):
        entries = [e for item in data["activations"].values() for e in item["entries"]]
        assert floats(entries) == written


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_double_survives_the_writers_format(value: float) -> None:
    text = document.flow(value)
    assert re.fullmatch(r"-?\d+\.\d+(e[-+]\d+)?", text)
    assert yaml.safe_load(text) == value
    assert yaml.safe_load(text).hex() == value.hex()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_writers_format(value: str) -> None:
    text = document.flow([value, {"key": value}])
    assert yaml.safe_load(text) == document.parse(text, "t") == [value, {"key": value}]


def test_names_that_yaml_takes_for_booleans_are_quoted(tmp_path: Path) -> None:
    odd = gainreg.build_table([gainreg.Activation("on", lambda x: x, aliases=("y", "null"))])
    odd.write(tmp_path / "t.yaml")
    again = gainreg.load_table(tmp_path / "t.yaml")
    assert again.lookup("null").activation == "on"
    assert again == odd


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    gainreg.build_table([]).write(tmp_path / "t.yaml")
    assert len(gainreg.load_table(tmp_path / "t.yaml")) == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("-0", 0), ("+1.5", 1.5), (".5", 0.5), ("2.", 2.0), ("1.0e-06", 1e-6)]
    + [
        (text, text)
        for text in ("1e-06", "1_0", "0x1f", "1:30", "017", ".inf", ".nan", "2020-01-01")
    ]
    + [("null", None), ("'1'", "1"), ("true", "true")],
)
def test_numbers_are_what_yaml_1_1_and_1_2_agree_on(text: str, value: object) -> None:
    found = document.parse(f"a: {text}", "t")["a"]
    assert found == value
    assert type(found) is type(value)


# --- damage ---


def damaged(data: bytes, path: Path, whole: GainTable) -> None:
    """A damaged file is refused, or reads as the very same entries."""
    path.unlink()  # a file system may wait for the disk where a file is written over
    path.write_bytes(data)
    try:
        found = gainreg.load_table(path)
    except TableError:
        return
    assert found == whole


def test_cut_at_any_byte_it_is_refused(file: Path, small: GainTable) -> None:
    data = file.read_bytes()
    for length in range(len(data)):
        damaged(data[:length], file, small)


def test_with_any_bit_flipped_it_is_refused_or_the_same(file: Path, small: GainTable) -> None:
    data = file.read_bytes()
    bits = (
        range(8 * len(data))
        if len(data) < 500
        else random.Random(0).sample(range(8 * len(data)), 1500)
    )
    for bit in [*range(8 * 140), *bits]:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged(bytes(flipped), file, small)


def test_with_any_line_twice_or_missing_it_is_refused(file: Path, small: GainTable) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    for i in range(len(lines)):
        damaged(b"".join(lines[: i + 1] + lines[i:]), file, small)
        damaged(b"".join(lines[:i] + lines[i + 1 :]), file, small)


def test_an_edited_table_is_refused_unless_verify_is_false(file: Path) -> None:
    file.write_text(file.read_text().replace("schema: 2", "schema: 2  # mine"))
    with pytest.raises(TableError, match="verify=False"):
        gainreg.load_table(file)
    assert len(gainreg.load_table(file, verify=False)) == 8


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("schema: 2", "schema: 3", "a newer gainreg"),
        ("schema: 2", "schema: 1", "gainreg build NAMES --std STDS -o"),
        ("schema: 2", "schema: '2'", "schema"),
        ("schema: 2", "schema: true", "schema"),
        ("schema: 2\n", "", "schema"),
        ("generator:", "generater:", "keys"),
        ("std: 0.3", "std: -0.3", "std cannot be"),
        ("std: 0.3", "std: 0.0", "std cannot be"),
        ("std: 0.3", "std: .nan", "finite"),
        ("std: 0.3", "std: .inf", "finite"),
        ("std: 0.3", "std: '0.3'", "number"),
        ("std: 0.3", "std: true", "number"),
        ("std: 0.3", "std: 0.4", "the moments give"),
        ("gain: 1.", "gain: -1.", "the moments give"),
        ("gain: 1.", "gain: 2.", "the moments give"),
        ("method: quadrature", "method: guess", "method"),
        ("  tanh:", "  elu:", "twice"),
        ("  tanh:", "  Tanh:", "lower_snake_case"),
        ("  tanh:\n    aliases: []", "  tanh:\n    aliases: [elu]", "twice"),
        ("  tanh:\n    aliases: []", "  tanh:\n    aliases: 3", "list"),
        ("params: {alpha: 1.0}", "params: {beta: 1.0}", "params"),
        ("- {params: {alpha: 0.5}", "- {params: {beta: 0.5}", "params"),
        ("width: 1.0", "width: 0.0", "width"),
        ("width: 1.0", "width: 2.0", "gradient_factor"),
        ("    width: 1.0\n", "", "keys"),
        ("- {params", "- {width: 2.0, params", "gradient_factor"),
        ("params: {}", "params: {}, extra: 1", "YAML"),
        ("method: quadrature", "method: !!python/object/apply:os.system ['false']", "tags"),
        ("aliases: []", "aliases: &a []", "anchors"),
        ("activations:", "activations: []\nx:", "keys"),
    ],
)
def test_what_breaks_the_schema_is_refused_digest_or_not(
    small: GainTable, tmp_path: Path, old: str, new: str, reason: str
) -> None:
    body = small.to_yaml().partition("\n")[2]
    assert old in body
    for path, data in (
        (tmp_path / "digest.yaml", with_digest(body.replace(old, new, 1))),
        (tmp_path / "hand.yaml", body.replace(old, new, 1).encode()),
    ):
        path.write_bytes(data)
        with pytest.raises(TableError, match=reason) as caught:
            gainreg.load_table(path, verify=path.name == "digest.yaml")
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def test_an_entry_may_not_stand_twice(small: GainTable, tmp_path: Path) -> None:
    body = small.to_yaml().partition("\n")[2]
    line = next(line for line in body.splitlines(keepends=True) if "std: 0.3" in line)
    (tmp_path / "t.yaml").write_bytes(with_digest(body.replace(line, line + line)))
    with pytest.raises(TableError, match="same std"):
        gainreg.load_table(tmp_path / "t.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("centered_gain", 77.0),
        ("centered_gain", None),
        ("mean", 5.0),
        ("variance_slope", -0.7),
        ("variance_slope", 1e77),
        ("gain", 2.0),
        ("backward_gain", None),
        ("gradient_factor", 0.5),
        ("critical_bias_std", None),
        ("critical_bias_std", 0.01),
        ("variance", 0.5),
        ("variance", -0.1),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(
    small: GainTable, tmp_path: Path, key: str, value: float | None
) -> None:
    body = small.to_yaml().partition("\n")[2]
    edited = re.sub(rf" {key}: [^,}}]+", f" {key}: {document.flow(value)}", body, count=1)
    (tmp_path / "t.yaml").write_text(edited)
    with pytest.raises(TableError, match=f"{key}|variance|centered_gain"):
        gainreg.load_table(tmp_path / "t.yaml", verify=False)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize(
    "body",
    [
        *("", "\n", "---\n...\n", "3\n", "[]\n", "{}\n", "\x00", "schema: 1\n", "\t- :", "'"),
        *("[" * 100_000, "{a: " * 50_000, "- " * 50_000, "? " * 50_000, BOMB),
        *("schema: 1\n# " + "x" * 10**6, "!!python/name:os.system x", "a: *b\n"),
        *("schema: 1\nschema: 1\n", "%YAML 3.0\n---\n"),
        "schema: " + "1:" * 500_000 + "1\n",  # a base-60 integer of YAML 1.1
        *("schema: 0x" + "f" * 5000 + "\n", "schema: " + "9" * 5000 + "\n"),
        "activations: [" + "1," * 4_000_000 + "]\n",
    ],
    ids=lambda body: f"{body[:12]!r}",
)
def test_hostile_yaml_is_refused_in_bounded_time(tmp_path: Path, body: str) -> None:
    start = time.process_time()
    path = tmp_path / "t.yaml"
    for data, verify in ((body.encode(), False), (with_digest(body), True)):
        path.write_bytes(data)
        with pytest.raises(TableError):
            gainreg.load_table(path, verify=verify)
        if len(body) > 10**6:
            break  # it takes seconds, and the same ones with a digest
    assert time.process_time() - start < 30  # bounded, not fast


def test_a_table_of_100_megabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    with path.open("wb") as handle:
        handle.truncate(100 * 2**20)
    with pytest.raises(TableError, match="larger than"):
        gainreg.load_table(path)


def test_what_is_no_file_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "absent.yaml", "No such file"),
        (tmp_path, "directory"),
        ("\0", "path"),
        ("/dev/zero", "larger"),
    ):
        with pytest.raises(TableError, match=reason):
            gainreg.load_table(path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TableError, match="UTF-8"):
        gainreg.load_table(binary)


# --- writing ---


def test_a_failed_write_leaves_the_old_table_and_no_litter(
    small: GainTable, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()
    for step in ("fsync", "replace"):

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(TableError, match="No space left"):
                gainreg.build_table(["relu"]).write(file)
        assert file.read_bytes() == before
        assert os.listdir(file.parent) == [file.name]


def test_writing_where_there_is_no_folder_is_an_error_in_a_sentence(
    small: GainTable, tmp_path: Path
) -> None:
    with pytest.raises(TableError, match="cannot write"):
        small.write(tmp_path / "absent" / "t.yaml")
    with pytest.raises(TableError, match="cannot write"):
        small.write(tmp_path)


def test_writing_through_a_link_keeps_the_link_and_the_permissions(
    small: GainTable, file: Path
) -> None:
    link = file.with_name("link.yaml")
    link.symlink_to(file.name)
    file.chmod(0o640)
    gainreg.build_table(["relu"]).write(link)
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert len(gainreg.load_table(file)) == 1


WRITE_OFTEN = """
import sys, gainreg
table = gainreg.load_table(sys.argv[1])
for _ in range(60):
    table.write(sys.argv[2])
"""


def test_two_processes_writing_one_file_leave_one_whole_table(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    gainreg.build_table(["gelu"]).write(path)
    writers = []
    for name in ("relu", "elu"):
        source = tmp_path / f"{name}.yaml"
        gainreg.build_table([name]).write(source)
        words = [sys.executable, "-c", WRITE_OFTEN, str(source), str(path)]
        writers.append(subprocess.Popen(words))
    while any(writer.poll() is None for writer in writers):
        assert len(gainreg.load_table(path)) == 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert {entry.activation for entry in gainreg.load_table(path)} <= {"relu", "elu"}
    assert sorted(os.listdir(tmp_path)) == ["elu.yaml", "relu.yaml", "t.yaml"]


def test_what_could_not_be_read_back_is_not_written(file: Path) -> None:
    before = file.read_bytes()
    clash = gainreg.Activation("mine", lambda x: x, aliases=("relu",))
    odd = gainreg.Activation("mine", lambda x: x, aliases=("Bad Name",))
    for activations, reason in (([clash, "relu"], "twice"), ([odd], "lower_snake_case")):
        with pytest.raises(TableError, match=f"could not be read back: .*{reason}"):
            gainreg.build_table(activations).write(file)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


# --- building ---


def test_a_function_needs_a_name_to_stand_in_a_table() -> None:
    def cube(x: np.ndarray) -> np.ndarray:
        return x**3

    assert gainreg.build_table([cube]).lookup("cube").gain == pytest.approx(15**-0.5)
    with pytest.raises(TableError, match="lower_snake_case"):
        gainreg.build_table([lambda x: x])
    with pytest.raises(TableError, match="two different"):
        gainreg.build_table([gainreg.Activation("cube", np.tanh), cube])


@pytest.mark.parametrize("stds", ["abc", [True], [0.0], [[1.0]], None])
def test_stds_of_a_table_are_checked(stds: object) -> None:
    with pytest.raises(gainreg.ParameterError, match="std"):
        gainreg.build_table(["elu"], stds=stds)  # type: ignore[arg-type]


@pytest.mark.parametrize("items", [[("elu",)], [3], [("elu", 0.5)]])
def test_items_of_a_table_are_checked(items: object) -> None:
    with pytest.raises(gainreg.ParameterError, match="activation"):
        gainreg.build_table(items)  # type: ignore[arg-type]


def test_an_entry_that_has_no_gain_is_left_out_with_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="left out of the table.*at std = 1e-06"):
        built = gainreg.build_table(["hardshrink", "relu"], stds=[1e-6, 1.0])
    assert [(e.activation, e.std) for e in built] == [
        ("hardshrink", 1.0),
        ("relu", 1e-6),
        ("relu", 1.0),
    ]


def test_a_table_may_hold_an_activation_of_ones_own(tmp_path: Path) -> None:
    mine = gainreg.Activation("cube", lambda x: x**3, aliases=("third",))
    gainreg.build_table([mine]).write(tmp_path / "t.yaml")
    assert gainreg.load_table(tmp_path / "t.yaml").lookup("third").gain == pytest.approx(15**-0.5)
    with pytest.raises(TableError, match="lower_snake_case"):
        gainreg.build_table([gainreg.Activation("<lambda>", lambda x: x)])


@settings(max_examples=25, deadline=None)
@given(
    st.floats(1e-6, 1e6),
    st.lists(st.floats(-1e300, 1e300), min_size=3, max_size=3),
    st.sampled_from(METHODS),
)
def test_any_entry_round_trips(std: float, numbers: list[float], method: str) -> None:
    second = abs(numbers[0]) % 1e6 + 1e-200
    mean, slope = math.sqrt(second), round(abs(numbers[1]) % 1e3, 9)
    entry = GainEntry(
        "any", {"p": numbers[2]}, std, mean, second, 0.0, slope, slope, 2.0, method, second
    )
    whole = GainTable({"any": Listing((), {"p": None}, 2.0, (entry,))})
    with tempfile.TemporaryDirectory() as folder:
        whole.write(f"{folder}/t.yaml")
        assert gainreg.load_table(f"{folder}/t.yaml") == whole
