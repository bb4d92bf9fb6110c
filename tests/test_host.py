"""Plugins: how they come in, what they may add, and how they fail alone."""

import warnings
from pathlib import Path

import numpy as np
import pytest

import gainreg
from gainreg import (
    Activation,
    MomentError,
    ParameterError,
    PluginError,
    UnknownActivationError,
)
from gainreg.host import host

pytestmark = pytest.mark.usefixtures("fresh_host")

CUBE = """
from gainreg import Activation, hookimpl

@hookimpl
def gainreg_activations():
    return [Activation("cube", forward=lambda x: x**3, aliases=("x_cubed",))]
"""


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    file = folder / name
    file.write_text(text)
    return str(file)


def test_the_built_ins_come_from_entry_points_like_anyones() -> None:
    plugins = {info.name: info for info in host().plugins()}
    assert plugins["rectifiers"].distribution == "gainreg"
    assert plugins["rectifiers"].version == gainreg.__version__
    assert "relu" in plugins["rectifiers"].activations
    assert plugins["rectifiers"].hooks == ("gainreg_activations",)


def test_a_plugin_file_adds_an_activation(tmp_path: Path) -> None:
    host().load_file(write(tmp_path, CUBE))
    # E[z⁶] = 15
    assert gainreg.gain("cube") == pytest.approx(15**-0.5, rel=1e-14)
    assert gainreg.gain("x_cubed") == gainreg.gain("cube")


def test_a_plugin_file_named_in_the_environment_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAINREG_PLUGINS", write(tmp_path, CUBE))
    assert host().activation("x_cubed").name == "cube"


def test_a_registered_activation_is_found_by_name_alias_and_params() -> None:
    gainreg.register(
        Activation("power", lambda x, p: np.abs(x) ** p, params={"p": 2.0}, aliases=("pow",))
    )
    assert gainreg.gain("pow") == pytest.approx(3**-0.5, rel=1e-14)  # E[z⁴] = 3
    assert gainreg.gain("power", p=3) == pytest.approx(15**-0.5, rel=1e-14)


def test_an_activation_may_be_resolved_without_registration() -> None:
    assert gainreg.gain(Activation("cube", lambda x: x**3)) == pytest.approx(15**-0.5, rel=1e-14)


def test_registering_twice_needs_replace_and_replace_forgets_the_old_answer() -> None:
    gainreg.register(Activation("mine", lambda x: x))
    assert gainreg.gain("mine") == pytest.approx(1)
    with pytest.raises(PluginError, match="replace=True"):
        gainreg.register(Activation("mine", lambda x: 2 * x))
    gainreg.register(Activation("mine", lambda x: 2 * x), replace=True)
    assert gainreg.gain("mine") == pytest.approx(0.5)


def test_what_a_plugin_declares_cannot_be_replaced() -> None:
    with pytest.raises(PluginError, match=r"'relu'.*gainreg\.register.*rectifiers"):
        gainreg.register(Activation("relu", lambda x: x), replace=True)
    assert gainreg.resolve("relu", 3.0).gain == pytest.approx(2**0.5)


def test_two_plugins_with_one_name_are_refused_and_both_are_named(tmp_path: Path) -> None:
    first, second = write(tmp_path, CUBE), write(tmp_path, CUBE, "other.py")
    host().load_file(first)
    with pytest.raises(PluginError) as caught:
        host().load_file(second)
    assert first in str(caught.value)
    assert second in str(caught.value)
    assert gainreg.gain("cube") > 0


def test_an_alias_may_not_be_anothers_name() -> None:
    with pytest.raises(PluginError, match="'tanh'"):
        gainreg.register(Activation("mine", lambda x: x, aliases=("tanh",)))
    with pytest.raises(UnknownActivationError):
        gainreg.gain("mine")


@pytest.mark.parametrize("name", ["", "Mine", "my-act", "1st", "my act", "mine\n", 3])
def test_a_name_must_be_lower_snake_case(name: str) -> None:
    with pytest.raises(PluginError, match="lower_snake_case"):
        gainreg.register(Activation(name, lambda x: x))


def test_registering_something_else_is_refused_with_the_way_to_do_it() -> None:
    with pytest.raises(PluginError, match=r"Activation\('my_name', forward=my_function\)"):
        gainreg.register(np.tanh)  # type: ignore[arg-type]
    with pytest.raises(PluginError, match="a forward or a sample"):
        gainreg.register(Activation("nothing"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def (:", "SyntaxError"),
        ("import no_such_module_at_all", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("x = 1", "no hook"),
        (CUBE.replace("return [", "return 3 #"), "TypeError"),
        (CUBE.replace("[Activation", "['cube', Activation"), "'cube', which is no"),
        (CUBE.replace("gainreg_activations", "gainreg_activation"), "no hook of gainreg"),
        (CUBE.replace("@hookimpl", ""), "hookimpl"),
        (CUBE.replace("gainreg_activations()", "gainreg_activations(x)"), "x"),
    ],
)
def test_a_broken_plugin_file_is_named_with_the_reason_and_falls_alone(
    tmp_path: Path, text: str, reason: str
) -> None:
    file = write(tmp_path, text)
    with pytest.raises(PluginError, match="failed to load") as caught:
        host().load_file(file)
    assert file in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    broken = {info.name: info.error for info in host().plugins()}
    assert reason in broken[file]
    assert gainreg.resolve("tanh", 7.0).gain > 0


def test_a_missing_plugin_file_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="no such file"):
        host().load_file(str(tmp_path / "absent.py"))


def test_a_broken_plugin_in_the_environment_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAINREG_PLUGINS", write(tmp_path, "def (:"))
    with pytest.warns(RuntimeWarning, match="SyntaxError"):
        host()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gainreg.resolve("tanh", 7.0).gain > 0
    with pytest.raises(UnknownActivationError, match=r"failed to load: .*mine\.py"):
        gainreg.gain("cube")


HOOK = """
import numpy as np
from gainreg import hookimpl

@hookimpl
def {hook}:
    return {answer}
"""


def load(folder: Path, hook: str, answer: str) -> str:
    """Load a plugin file, foreign.py, with one hook of one line; its path."""
    file = write(folder, HOOK.format(hook=hook, answer=answer), "foreign.py")
    host().load_file(file)
    return file


def test_a_plugin_may_add_a_closed_form_to_anothers_activation(tmp_path: Path) -> None:
    host().load_file(write(tmp_path, CUBE))
    answer = "15 * std**6 if activation.name == 'cube' else None"
    load(tmp_path, "gainreg_second_moment(activation, std)", answer)
    entry = gainreg.resolve("cube", 2.0)
    assert entry.method == "analytic"
    assert entry.second_moment == 15 * 2.0**6


def test_a_wrong_closed_form_for_anothers_activation_is_refused_and_its_plugin_named(
    tmp_path: Path,
) -> None:
    answer = "std**2 if activation.name == 'tanh' else None"
    load(tmp_path, "gainreg_second_moment(activation, std)", answer)
    with pytest.raises(
        PluginError, match=r"of 'tanh', from plugin '.*foreign\.py', is wrong: .*1 "
    ):
        gainreg.resolve("tanh")


def test_a_plugin_may_add_a_sampler_to_anothers_activation(tmp_path: Path) -> None:
    host().load_file(write(tmp_path, CUBE))
    hook = "gainreg_sample(activation, std, size, rng)"
    load(tmp_path, hook, "(std * rng.standard_normal(size)) ** 3")
    entry = gainreg.resolve("cube", method="sampling")
    assert abs(entry.second_moment - 15) < 4 * entry.error
    assert entry.error > 1e-3  # plain draws, not the host's own points


def test_a_foreign_sampler_that_contradicts_a_closed_form_is_named(tmp_path: Path) -> None:
    answer = "3 * std * rng.standard_normal(size) if activation.name == 'rrelu' else None"
    file = load(tmp_path, "gainreg_sample(activation, std, size, rng)", answer)
    with pytest.raises(
        PluginError, match=r"of 'rrelu' is wrong: .* where the sampler of"
    ) as caught:
        gainreg.resolve("rrelu", 3.0)
    assert file in str(caught.value)


def test_a_closed_form_with_wrong_params_is_refused_for_those_params_only() -> None:
    gainreg.register(
        Activation(
            "scaled",
            lambda x, a: a * x,
            params={"a": 1.0},
            second_moment=lambda std, a: std**2,  # forgets a
        )
    )
    assert gainreg.resolve("scaled").method == "analytic"
    with pytest.raises(PluginError, match=r"gives 1 where quadrature gives 4\b"):
        gainreg.resolve("scaled", a=2.0)


def test_a_closed_form_right_at_one_std_only_is_refused() -> None:
    gainreg.register(Activation("half", lambda x: np.maximum(x, 0), second_moment=lambda s: s / 2))
    with pytest.raises(PluginError, match="is wrong"):
        gainreg.gain("half")


def test_a_wrong_mean_or_derivative_moment_is_refused_too() -> None:
    for name in ("mean", "derivative_second_moment", "variance_slope"):
        wrong = Activation("twice", lambda x: 2 * x + 1, **{name: lambda std: 0.5 + 0 * std})
        with pytest.raises(PluginError, match=f"the {name} of 'twice' is wrong"):
            gainreg.resolve(wrong)


def test_a_wrong_closed_form_of_something_random_is_refused_by_sampling() -> None:
    def sample(std: float, size: int, rng: np.random.Generator) -> np.ndarray:
        return std * rng.standard_normal(size) * rng.integers(0, 2, size)

    right = Activation("dropped", sample=sample, second_moment=lambda std: std**2 / 2)
    assert gainreg.resolve(right).method == "analytic"
    wrong = Activation("dropped", sample=sample, second_moment=lambda std: std**2 / 2.1)
    with pytest.raises(PluginError, match=r"where sampling gives 0\.00[45]"):
        gainreg.resolve(wrong)


@pytest.mark.parametrize("field", ["forward", "derivative", "second_moment", "kinks", "sample"])
def test_a_raising_function_is_named_with_its_activation(field: str) -> None:
    def fail(*_: object, **__: object) -> object:
        raise OSError("disk on fire")

    activation = Activation("burning", **{"forward": np.tanh, field: fail})
    method = "sampling" if field == "sample" else "auto"
    with pytest.raises(PluginError, match=r"'burning'.*disk on fire"):
        gainreg.resolve(activation, method=method)


PACKAGE = """
from gainreg import Activation, hookimpl

@hookimpl
def gainreg_activations():
    return [Activation({name!r}, forward=lambda x: 2 * x)]
"""


def install(folder: Path, package: str, entry_point: str, text: str) -> None:
    """A package with an entry point for gainreg, as pip leaves it on the path."""
    (folder / f"{package}_module.py").write_text(text)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gainreg]\n{entry_point} = {package}_module\n")


def test_an_installed_package_adds_an_activation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "aaa", "twice", PACKAGE.format(name="twice"))
    monkeypatch.syspath_prepend(tmp_path)
    assert gainreg.gain("twice") == 0.5
    info = next(p for p in host().plugins() if p.name == "twice")
    assert (info.distribution, info.version, info.activations) == ("aaa", "1.0", ("twice",))


def test_a_package_that_claims_a_built_ins_name_is_refused_and_the_built_in_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "abb", "mine", PACKAGE.format(name="relu"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(RuntimeWarning, match=r"'mine' failed.*'relu'.*mine.*rectifiers"):
        host()
    assert gainreg.resolve("relu", 3.0).gain == pytest.approx(2**0.5)
    assert gainreg.gain("leaky_relu", 3.0) > 0


def test_two_packages_may_call_their_entry_points_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "acc", "rectifiers", PACKAGE.format(name="first_mine"))
    install(tmp_path, "add", "gainreg", PACKAGE.format(name="second_mine"))
    monkeypatch.syspath_prepend(tmp_path)
    assert gainreg.gain("first_mine") == gainreg.gain("second_mine") == 0.5
    assert {"rectifiers", "rectifiers of acc", "gainreg"} <= {p.name for p in host().plugins()}


@pytest.mark.parametrize("broken", ["METADATA", "entry_points.txt"])
def test_broken_metadata_of_a_package_takes_nothing_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    install(tmp_path, "aee", "mine", PACKAGE.format(name="mine"))
    (tmp_path / "aee-1.0.dist-info" / broken).write_text("[gainreg]\nnothing")
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert gainreg.resolve("relu", 3.0).gain == pytest.approx(2**0.5)


def test_a_plugin_whose_hook_fails_for_anothers_activation_is_named_and_left_out(
    tmp_path: Path,
) -> None:
    hook, answer = "gainreg_second_moment(activation, std)", "activation.params['no_such'] * std"
    load(tmp_path, hook, answer)
    with pytest.warns(RuntimeWarning, match=r"foreign\.py' raised KeyError.*left out"):
        assert gainreg.resolve("relu", 3.0).gain == pytest.approx(2**0.5)
    assert gainreg.resolve("tanh", 3.0).gain > 0  # and no second warning


def test_a_foreign_forward_of_the_wrong_shape_is_named_and_left_out(tmp_path: Path) -> None:
    answer = "np.zeros(3) if activation.name == 'gelu' else None"
    load(tmp_path, "gainreg_forward(activation, x)", answer)
    with pytest.warns(RuntimeWarning, match=r"foreign\.py' returned shape.*'gelu'.*left out"):
        assert gainreg.resolve("gelu", 3.0).gain > 0


def test_an_interrupted_start_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.distributions", interrupted)
        with pytest.raises(KeyboardInterrupt):
            host()
    assert gainreg.gain("tanh", 3.0) > 0


def test_two_samplers_of_one_name_are_two_activations() -> None:
    def half(std: float, size: int, rng: np.random.Generator) -> np.ndarray:
        return std * rng.standard_normal(size) / 2

    def third(std: float, size: int, rng: np.random.Generator) -> np.ndarray:
        return std * rng.standard_normal(size) / 3

    one, other = (Activation("part", sample=sample) for sample in (half, third))
    with pytest.raises(gainreg.TableError, match="two different"):
        gainreg.build_table([one, other])


def test_a_wrong_mean_of_something_random_is_refused_by_sampling() -> None:
    def sample(std: float, size: int, rng: np.random.Generator) -> np.ndarray:
        return np.abs(std * rng.standard_normal(size))

    with pytest.raises(PluginError, match="the mean of 'size' is wrong"):
        gainreg.resolve(Activation("size", sample=sample, mean=lambda std: 7 * std))


def test_what_jumps_regularly_may_have_its_derivative() -> None:
    for forward in (np.floor, lambda x: np.floor(4 * np.maximum(x, 0)) / 4):
        stairs = Activation("stairs", forward, derivative=np.zeros_like)
        assert gainreg.resolve(stairs).derivative_second_moment is None


def test_a_derivative_a_few_percent_wrong_is_refused() -> None:
    steep = Activation("steep", np.tanh, derivative=lambda x: 1.05 * (1 - np.tanh(x) ** 2))
    with pytest.raises(PluginError, match="derivative of 'steep' is wrong"):
        gainreg.resolve(steep)


@pytest.mark.parametrize("rate", [1.0, 30.0, 300.0])
def test_right_closed_forms_are_not_refused_where_no_derivative_is_given(rate: float) -> None:
    wave = Activation(
        "wave",
        lambda x: np.sin(rate * x),
        second_moment=lambda std: -np.expm1(-2 * (rate * std) ** 2) / 2,
        derivative_second_moment=lambda std: rate**2 * (1 + np.exp(-2 * (rate * std) ** 2)) / 2,
    )
    assert gainreg.resolve(wave, 0.7).method == "analytic"


def test_a_failed_replacement_leaves_the_old_activation() -> None:
    gainreg.register(Activation("mine", lambda x: x))
    with pytest.raises(PluginError, match="'relu'"):
        gainreg.register(Activation("mine", lambda x: x, aliases=("relu",)), replace=True)
    assert gainreg.gain("mine") == 1
    gainreg.register(Activation("other", lambda x: x, aliases=("third",)))
    with pytest.raises(PluginError, match="'third'"):
        gainreg.register(Activation("third", lambda x: x), replace=True)
    assert gainreg.gain("other") == 1


def test_a_plugin_may_call_gainreg_while_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CUBE + "\nimport gainreg\nassert gainreg.gain('elu', 3.7) > 1\n"
    monkeypatch.setenv("GAINREG_PLUGINS", write(tmp_path, text))
    assert gainreg.gain("cube") > 0


def test_a_plugin_file_named_twice_is_loaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAINREG_PLUGINS", write(tmp_path, CUBE))
    host().load_file(str(tmp_path / "mine.py"))
    host().load_file(str(tmp_path / "." / "mine.py"))
    assert gainreg.gain("cube") > 0


def test_a_helper_called_gainreg_something_is_no_misspelt_hook(tmp_path: Path) -> None:
    host().load_file(write(tmp_path, "import gainreg as gainreg_itself\n" + CUBE))
    assert gainreg.gain("cube") > 0


@pytest.mark.parametrize(
    ("declaration", "reason"),
    [
        ({"params": {"a": "one"}}, "no finite number"),
        ({"params": {"A": 1.0}}, "lower_snake_case"),
        ({"params": {"std": 1.0}}, "lower_snake_case, and none of"),
        ({"params": [1.0]}, "no mapping"),
        ({"aliases": 3}, "no tuple of names"),
        ({"constraints": [1]}, "no mapping"),
    ],
)
def test_a_malformed_declaration_is_refused_where_it_is_made(
    declaration: dict[str, object], reason: str
) -> None:
    with pytest.raises(PluginError, match=f"'mine' has .*{reason}"):
        Activation("mine", np.tanh, **declaration)  # type: ignore[arg-type]


def test_defaults_are_floats_whatever_numbers_they_were() -> None:
    numbers = {"a": np.sqrt(2), "b": np.float32(0.1), "c": 2}
    declared = Activation("mine", np.tanh, params=numbers)
    assert {type(value) for value in declared.params.values()} == {float}


def test_defaults_that_break_their_own_constraint_are_refused() -> None:
    negative = Activation(
        "mine",
        lambda x, a: a * x,
        params={"a": -1.0},
        constraints={"a > 0": lambda a: a > 0},
    )
    with pytest.raises(PluginError, match="default params are out of range"):
        gainreg.register(negative)


def test_a_wrong_derivative_is_refused_with_both_numbers() -> None:
    forgot_the_square = Activation("mine", np.tanh, derivative=lambda x: 1 - np.tanh(x))
    with pytest.raises(PluginError, match=r"derivative of 'mine' is wrong.*where φ has the slope"):
        gainreg.resolve(forgot_the_square)


@pytest.mark.parametrize(
    "together",
    [np.sort, lambda x: np.exp(x) / np.exp(x).sum(), np.maximum.accumulate],
    ids=["sort", "softmax", "running maximum"],
)
def test_what_is_not_elementwise_is_refused(together: object) -> None:
    with pytest.raises(PluginError, match="not elementwise"):
        gainreg.resolve(lambda x: together(x.ravel()).reshape(x.shape))  # type: ignore[operator]


def test_a_sampler_without_a_second_moment_is_an_error() -> None:
    cauchy = Activation("cauchy", sample=lambda std, size, rng: rng.standard_cauchy(size))
    with pytest.raises(MomentError, match="do not agree"):
        gainreg.resolve(cauchy)


def test_a_name_may_be_spelled_as_a_class() -> None:
    assert gainreg.gain("LeakyReLU", negative_slope=0.2) == gainreg.gain(
        "leaky_relu", negative_slope=0.2
    )
    assert gainreg.resolve("GELU", 3.0).activation == "gelu"
    assert gainreg.resolve("Softmax2d", dim=3).activation == "softmax"


def test_unknown_names_come_with_suggestions_and_are_key_errors() -> None:
    with pytest.raises(UnknownActivationError, match="did you mean 'leaky_relu'") as caught:
        gainreg.gain("leaky_rleu")
    assert isinstance(caught.value, KeyError)
    assert str(caught.value)[0] != '"'
    with pytest.raises(UnknownActivationError, match="gainreg list"):
        gainreg.gain("zzzzzzz")


def test_params_must_satisfy_the_activations_constraints() -> None:
    gainreg.register(
        Activation(
            "soft",
            lambda x, beta: np.logaddexp(0, beta * x) / beta,
            params={"beta": None},
            constraints={"beta > 0": lambda beta: beta > 0},
        )
    )
    with pytest.raises(ParameterError, match="needs its param 'beta'"):
        gainreg.gain("soft")
    with pytest.raises(ParameterError, match="needs beta > 0, got beta=-1"):
        gainreg.gain("soft", beta=-1)
    with pytest.raises(ParameterError, match="it takes beta"):
        gainreg.gain("soft", gamma=1)
    assert gainreg.gain("soft", beta=2) > 0
