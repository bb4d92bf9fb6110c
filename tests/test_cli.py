"""The command line, as a user types it."""

import dataclasses
import json
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import gainreg
from gainreg.cli import main

PICTURES = (Path(__file__).parent.parent / "docs" / "howto" / "pictures.md").read_text()
GAINREG = [sys.executable, "-m", "gainreg"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


def test_gain_prints_one_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "gain", "elu") == (0, "1.2451983007007066\n", "")
    code, out, _ = run(capsys, "gain", "elu", "--std", "2", "-p", "alpha=0.5", "--mode", "backward")
    assert code == 0
    assert float(out) == gainreg.gain("elu", 2.0, "backward", alpha=0.5)
    for mode, fan in (("forward", "fan_in"), ("backward", "fan_out")):
        assert run(capsys, "gain", "tanh", "--mode", mode) == run(
            capsys, "gain", "tanh", "--mode", fan
        )


def test_show_prints_whole_entries_for_people_and_for_programs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "show", "tanh", "sign", "--std", "0.5")
    assert code == 0
    assert "tanh(std=0.5)\n" in out
    assert "\n\nsign(std=0.5)\n" in out
    columns = {line.index(line.split()[1]) for line in out.splitlines() if line.startswith("  ")}
    assert len(columns) == 1  # aligned
    code, out, _ = run(capsys, "show", "tanh", "sign", "--json")
    tanh, sign = json.loads(out)
    assert tanh["gain"] == gainreg.gain("tanh")
    assert sign["backward_gain"] is None


def test_show_gives_formula_and_aliases(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "show", "swish")
    silu = gainreg.load_table().lookup("silu")
    assert out.startswith("silu(std=1)\n  reference                 x·sigmoid(x); Elfwing")
    assert "\n  aliases                   swish\n" in out
    assert f"\n  gradient_factor           {silu.gradient_factor}\n" in out
    _, out, _ = run(capsys, "show", "swish", "--json")
    assert json.loads(out)[0]["aliases"] == ["swish"]


def test_show_says_why_a_number_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "show", "sign", "step")
    sign, step = out.split("\n\n")[:2]
    assert "  backward_gain             none\n" in sign
    assert "'sign' has no backward gain" in sign
    assert "'step' has no backward gain" in step
    _, out, _ = run(capsys, "show", "threshold", "-p", "threshold=1000", "-p", "value=1")
    assert "'threshold' has no centered gain: φ is constant" in out
    assert "no backward gain: φ is constant, so that no gradient passes" in " ".join(out.split())
    _, out, _ = run(capsys, "show", "gaussian")
    assert "critical_bias_std         none\n" in out
    assert "'gaussian' has no critical biases: gradient_factor < 1" in out


def test_a_family_leaves_out_what_has_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("show", "critical", "build"):
        code, out, err = run(capsys, command, "rectifiers")
        assert code == 0
        assert "relu6" in out
        assert "\nthreshold" not in out.replace(" ", "")
        assert "left out: 'threshold' needs its param 'threshold': give it as threshold=…" in err
        code, out, err = run(capsys, command, "threshold")  # by its own name
        assert (code, out) == (2, "")
    code, out, err = run(capsys, "critical", "competitive")
    assert (code, out) == (2, "")
    assert err.endswith("nothing is left: none of the activations named has an answer\n")


def test_a_std_that_is_none_is_refused_once(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list", "show"):
        code, out, err = run(capsys, command, "rectifiers", "--std", "0")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "std must be above 0, got 0.0" in err


def test_each_activation_gets_the_params_that_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "show", "gelu", "leaky_relu", "-p", "negative_slope=0.2", "--json")
    gelu, leaky_relu = json.loads(out)
    assert gelu["gain"] == gainreg.gain("gelu")
    assert leaky_relu["gain"] == gainreg.gain("leaky_relu", negative_slope=0.2)
    _, out, _ = run(capsys, "list", "elu", "-p", "alpha=0.1,1")
    assert {"elu(alpha=0.1)", "elu(alpha=1)"} <= rows(out).keys()
    code, _, err = run(capsys, "show", "gelu", "leaky_relu", "-p", "slope=0.2")
    assert code == 2
    assert "no such param; gelu takes none; leaky_relu takes negative_slope" in err


def test_critical_says_where_all_is_level_and_what_that_means_for_a_deep_stack(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out, _ = run(capsys, "critical", "gelu", "relu", "sigmoid", "--json")
    gelu, relu, sigmoid = json.loads(out)
    # Roberts, Yaida and Hanin 2022, ch. 5
    assert gelu["gain"] ** 2 == pytest.approx(1.98305826, abs=5e-9)
    assert gelu["bias_std"] ** 2 == pytest.approx(0.17292239, abs=5e-9)
    assert [point["kind"] for point in (gelu, relu, sigmoid)] == [
        "half_stable",
        "scale_invariant",
        "none",
    ]
    _, out, _ = run(capsys, "critical", "gelu", "relu", "sigmoid", "leaky_relu", "tanh")
    meanings = [block.splitlines()[-1] for block in out.strip().split("\n\n")]
    assert len(set(meanings)) == 4
    assert meanings[1] == meanings[3]
    assert f"  gain                      {gelu['gain']}\n" in out


def rows(out: str) -> dict[str, list[str]]:
    """The rows of ``list`` by name."""
    lines = [line.split() for line in out.splitlines() if re.match(r"  \S", line)]
    return {words[0]: words for words in lines}


def test_list_shows_each_activation_with_its_family_method_and_marks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert rows(out)["relu"] == ["relu", "1.4142", "1.0000", "1.0000", "analytic"]
    assert rows(out)["tanh"][-2:] == ["gradients", "grow"]
    assert out.index("\nrectifiers") < out.index("  relu ") < out.index("\nsigmoids")
    assert "\n      x·sigmoid(x); Elfwing et al. 2017, arXiv:1702.03118; also swish\n" in out
    code, out, _ = run(capsys, "list", "--json")
    assert json.loads(out)["rectifiers"][0]["name"] == "identity"


def test_list_takes_names_aliases_families_params_and_a_std(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["list", "waves", "swish", "maxout", "--std", "2", "-p", "k=3", "--json"]
    _, out, _ = run(capsys, *words)
    families = json.loads(out)
    names = [row["name"] for members in families.values() for row in members]
    assert names[:5] == ["sin", "cos", "snake", "gaussian", "square"]
    assert names[5:] == ["silu", "maxout"]
    assert families["self_gated"][0]["gain"] == gainreg.gain("silu", 2.0)
    assert families["competitive"][0]["gain"] == gainreg.gain("maxout", 2.0, k=3)
    code, _, err = run(capsys, "list", "wave")
    assert code == 2
    assert "no activation is called 'wave'" in err


def test_list_and_show_give_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "list", "swiglu", "crelu", "--json")
    listed = [row for members in json.loads(out).values() for row in members]
    _, out, _ = run(capsys, "show", "swiglu", "crelu", "--json")
    for row, shown in zip(listed, json.loads(out), strict=True):
        for key in ("gain", "variance_slope", "gradient_factor"):
            assert row[key] == shown[key]


@pytest.mark.parametrize("columns", [50, 80, 200])
@pytest.mark.parametrize("command", ["list", "show"])
def test_lines_are_as_long_as_the_terminal_is_wide(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = run(capsys, command, "gelu", "sign", "relu_squared")
    longest = max(map(len, out.splitlines()))
    assert min(columns, 100) - 20 < longest <= columns


def test_build_writes_a_table_that_check_finds_right(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = str(tmp_path / "gains.yaml")
    code, out, _ = run(capsys, "build", "elu", "tanh", "--std", "0.5,1", "-o", file)
    assert (code, out) == (0, f"{file}: 4 entries of 2 activations\n")
    assert run(capsys, "check", file) == (0, f"{file}: all right, 4 entries\n", "")
    for to_stdout in ([], ["-o", "-"]):
        _, out, _ = run(capsys, "build", "elu", "tanh", "--std", "0.5,1", *to_stdout)
        assert out == Path(file).read_text()


def test_check_lists_what_differs_and_exits_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    entry = gainreg.resolve("elu")
    # consistent in itself, and wrong in the fourth digit
    wrong = dataclasses.replace(entry, second_moment=0.645, variance=0.645 - entry.mean**2)
    listing = gainreg.build_table(["elu"]).listings["elu"]._replace(entries=(wrong,))
    gainreg.GainTable({"elu": listing}).write(tmp_path / "t.yaml")
    code, out, _ = run(capsys, "check", str(tmp_path / "t.yaml"))
    assert code == 1
    assert "elu at std = 1: second_moment is 0.645 in the table, 0.64494541749292" in out


def test_check_says_so_if_an_activation_is_not_known(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mine = gainreg.Activation("nobodys", lambda x: x)
    gainreg.build_table([mine]).write(tmp_path / "t.yaml")
    code, out, _ = run(capsys, "check", str(tmp_path / "t.yaml"))
    assert code == 1
    assert "'nobodys'" in out


PLUGIN = """
from gainreg import Activation, hookimpl

@hookimpl
def gainreg_activations():
    return [Activation("cube", forward=lambda x: x**3)]
"""


@pytest.mark.usefixtures("fresh_host")
def test_a_plugin_file_serves_every_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    code, out, _ = run(capsys, "gain", "cube", "--plugin", str(file))
    assert code == 0
    assert float(out) == pytest.approx(15**-0.5)


@pytest.mark.usefixtures("fresh_host")
def test_plugins_shows_every_plugin_and_why_one_is_broken(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "good.py").write_text(PLUGIN)
    (tmp_path / "bad.py").write_text("def (:")
    files = [str(tmp_path / name) for name in ("good.py", "bad.py")]
    code, out, _ = run(capsys, "plugins", "--plugin", files[0], "--plugin", files[1])
    assert code == 0
    assert f"rectifiers  (gainreg {gainreg.__version__})\n  hooks        gainreg_act" in out
    assert f"{files[0]}  (file)\n  hooks        gainreg_activations\n  activations  cube" in out
    assert f"{files[1]}  (file)\n  broken       SyntaxError: invalid syntax (line 1)" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gain", "gellu"], "did you mean"),
        (["gain", "sigmoids"], "is a family: give one of tanh, "),
        (["gain", "elu", "--std", "0"], "std must be above 0"),
        (["gain", "elu", "--std", "nan"], "std must be finite"),
        (["gain", "elu", "-p", "beta=1"], "no param 'beta'"),
        (["gain", "elu", "--mode", "sideways"], "'fan_out'"),
        (["gain", "elu", "-p", "alpha"], "NAME=VALUE"),
        (["gain", "elu", "-p", "alpha=x"], "NAME=VALUE"),
        (["show", "elu", "-p", "alpha=abc"], "'abc' is not a number"),
        (["show", "elu", "-p", "beta=1"], "elu takes alpha"),
        (["gain", "sign", "--mode", "backward"], "no backward gain"),
        (["gain", "elu", "--plugin", "absent.py"], "no such file"),
        (["check", "absent.yaml"], "No such file"),
        (["build", "elu", "-o", "absent/t.yaml"], "cannot write"),
        (["build", "-p", "alpha=1"], "-p belongs to an activation"),
    ],
)
@pytest.mark.usefixtures("fresh_host")
def test_an_error_is_one_line_on_stderr_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("gainreg: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["fly"], ["gain"], ["gain", "elu", "--std", "x"]])
def test_a_misuse_exits_with_2_and_says_where_help_is(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("gainreg: ")
    assert "--help" in err
    assert err.count("\n") == 1


def test_stds_that_are_none_are_shown_as_they_should_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["build", "elu", "--std", "1;2"])
    assert "as in 0.5,1,2, got '1;2'" in capsys.readouterr().err


def test_without_stderr_an_error_does_not_end_up_in_the_output() -> None:
    done = subprocess.run(
        f"{sys.executable} -m gainreg gain nope 2>&-", shell=True, capture_output=True
    )
    assert (done.returncode, done.stdout) == (2, b"")


def test_where_warnings_are_errors_one_line_says_so() -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "error", "GAINREG_PLUGINS": "absent.py"}
    done = subprocess.run([*GAINREG, "list"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "absent.py" in done.stderr


@pytest.mark.usefixtures("fresh_host")
def test_one_failing_activation_spoils_neither_list_nor_build(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.py").write_text(PLUGIN.replace("x**3", "1 // 0"))
    bad = str(tmp_path / "bad.py")
    code, out, _ = run(capsys, "list", "--plugin", bad)
    assert code == 0
    assert "ZeroDivisionError" in out
    words = [*GAINREG, "build", "--plugin", bad, "-o", str(tmp_path / "t.yaml")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0
    assert "warning: left out of the table: activation 'cube'" in done.stderr
    assert len(gainreg.load_table(tmp_path / "t.yaml")) > 50


def test_plugins_and_check_print_json_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, out, _ = run(capsys, "plugins", "--json")
    assert "relu" in next(p for p in json.loads(out) if p["name"] == "rectifiers")["activations"]
    file = str(tmp_path / "t.yaml")
    gainreg.build_table(["elu"]).write(file)
    _, out, _ = run(capsys, "check", file, "--json")
    assert json.loads(out) == {"file": file, "entries": 1, "differences": []}


@pytest.mark.parametrize("command", ["list", "gain", "show", "build", "check", "plugins"])
def test_every_commands_help_has_an_example(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"example: gainreg {command}" in capsys.readouterr().out


def test_a_closed_pipe_is_no_news() -> None:
    with subprocess.Popen(
        [*GAINREG, "build", "elu", "relu", "--std", ",".join(str(s / 10) for s in range(1, 500))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def on_a_terminal(
    words: list[str], stream: str, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with one of its streams on a terminal; stdout is what stood there."""
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 80))
    streams: dict[str, int] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    inherited = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    done = subprocess.run(
        words, **streams | {stream: writer}, env=inherited | environment, check=True
    )
    os.close(writer)
    done.stdout = b""
    try:
        while chunk := os.read(reader, 1000):
            done.stdout += chunk
    except OSError:  # the terminal is closed
        pass
    os.close(reader)
    return done


def test_a_long_build_shows_a_progress_bar_on_a_terminal_only(tmp_path: Path) -> None:
    pytest.importorskip("tqdm", reason="tqdm draws the bar")
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\n"
        + PLUGIN.replace("lambda x: x**3", "slow")
        + "\ndef slow(x):\n    time.sleep(waits.pop() if waits else 0)\n    return x\n"
        + "\nwaits = [1.2]\n"  # the bar comes after a second
    )
    words = [*GAINREG, "build", "cube", "elu", "--plugin", str(slow), "-o", str(tmp_path / "t")]
    quiet = subprocess.run(words, capture_output=True)
    assert quiet.stderr == b""
    assert b"building" in on_a_terminal(words, "stderr").stdout


def test_colours_are_for_a_terminal_whose_user_has_not_refused_them() -> None:
    words = [*GAINREG, "list", "tanh"]
    assert b"\033[1msigmoids\033[0m" in on_a_terminal(words, "stdout").stdout
    assert b"\033" not in on_a_terminal(words, "stdout", NO_COLOR="1").stdout
    assert b"\033" not in subprocess.run(words, capture_output=True).stdout


def test_the_shell_completes_commands_options_names_and_files(tmp_path: Path) -> None:
    pytest.importorskip("argcomplete", reason="the shell is answered by argcomplete")
    (tmp_path / "mine.yaml").touch()
    asked = {
        "gainreg cr": "critical",
        "gainreg gain gelu --mo": "--mode",
        "gainreg gain gelu --mode bac": "backward",
        "gainreg show hardsw": "hardswish",
        "gainreg list self": "self_gated",
        "gainreg check mi": "mine.yaml",
    }
    # what bash does on TAB: ask the function that the documentation's line makes
    script = """
eval "$(register-python-argcomplete gainreg)"
while read -r COMP_LINE; do
  read -ra words <<<"$COMP_LINE"
  COMP_POINT=${#COMP_LINE} COMP_TYPE=9 COMPREPLY=()
  _python_argcomplete gainreg "${words[-1]}" "${words[-2]}"
  echo ${COMPREPLY[@]}
done"""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    found = subprocess.run(
        ["bash", "-c", script],
        input="\n".join([*asked, ""]),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines() == list(asked.values())
    assert 'eval "$(register-python-argcomplete gainreg)"' in PICTURES
