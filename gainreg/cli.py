"""The command line: thin wrappers around the public functions."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from gainreg import __version__, document
from gainreg.entry import MODES, to_dict
from gainreg.errors import (
    GainregError,
    MomentError,
    ParameterError,
    PluginError,
    UnknownActivationError,
)
from gainreg.lookup import look_up
from gainreg.params import called, check_params, check_std, combinations

if TYPE_CHECKING:
    from gainreg.activation import Activation
    from gainreg.host import Host

# `list` marks a slope or factor that is further than this from 1. What it leaves unmarked
# changes a mean square by no more than a quarter in 50 layers: 1.005⁵⁰ = 1.28.
MARKED = 5e-3

FACTORS = ("gain", "variance_slope", "gradient_factor")  # the columns of `list`

PLAIN, BOLD, DIM, YELLOW = 0, 1, 2, 33  # of a terminal

# What each kind of critical point means for a deep stack with these weights and biases.
STACKS = {
    "scale_invariant": "signals and gradients of any size keep it through any depth",
    "half_stable": "signals and gradients keep this size; small errors drift by a power of depth",
    "origin": "small signals and gradients nearly keep their size, and shrink by a power of depth",
    "none": "at no std do signals and gradients both keep their size: use norms or residual sums",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 if ``check`` found differences; 2 for any error, with one line on stderr.
    """
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:
        _complete(parser)
    try:
        options = parser.parse_args(argv)
        _warn_in_a_line()
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a terminal that has no φ
        if options.run is not _plugins:  # which lists what is broken
            for file in options.plugin:
                _host().load_file(file)
        code: int = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except (GainregError, Warning) as error:  # a warning, where they were made errors
        _say(str(error))
        return 2
    except BrokenPipeError:  # the reader has seen enough: say nothing more, at exit neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # the disk is full, say
        _say(f"cannot write the output: {error.strerror}")
        return 2
    except KeyboardInterrupt:
        return 130


def _complete(parser: argparse.ArgumentParser) -> None:
    """Tell a shell that asks by argcomplete what may come next, and end."""
    import argcomplete
    from argcomplete.completers import FilesCompleter

    def candidates(prefix: str, action: argparse.Action, **_: Any) -> Any:
        if action.dest == "mode":
            return MODES
        if action.dest not in ("name", "names"):
            return FilesCompleter()(prefix)
        known = _host().activations()
        families = {_host().owner(activation.name) for activation in known}
        return families.union(*((a.name, *a.aliases) for a in known))

    completer: Any = candidates
    argcomplete.autocomplete(parser, default_completer=completer)


def _warn_in_a_line() -> None:
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")


def _say(text: str) -> None:
    """One line on stderr, if there is one."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"gainreg: {' '.join(text.split())}", file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        _say(f"{message}; see '{self.prog} --help'")
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gainreg",
        description="How large initial weights must be so that signals keep their size.",
    )
    parser.add_argument("--version", action="version", version=f"gainreg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def shared(*flags: str, **settings: Any) -> _Parser:
        """An argument that several commands take."""
        parent = _Parser(add_help=False)
        parent.add_argument(*flags, **settings)
        return parent

    named = "activations, aliases or families"
    some = shared("names", nargs="+", metavar="NAME", help=named)
    any_ = shared("names", nargs="*", metavar="NAME", help=f"{named} (default: all)")
    std = shared("--std", type=float, default=1.0, help="std of the pre-activation (1)")
    text = "the file to write (default: -, standard output)"
    output = shared("-o", "--output", metavar="FILE", default="-", help=text)
    as_json = shared("--json", action="store_true", help="print JSON")
    repeated: Any = {"action": "append", "default": []}
    text = "a param, for those that have it; several values as in alpha=0.5,1"
    param = shared("-p", "--param", metavar="NAME=VALUE", **repeated, help=text)
    text = "load a plugin file first; may be given more than once"
    plugin = shared("--plugin", metavar="FILE.py", **repeated, help=text)

    def command(run: Any, text: str, example: str, *parents: _Parser) -> _Parser:
        sub = commands.add_parser(
            example.split()[0],
            help=text,
            description=text,
            epilog=f"example: gainreg {example}",
            parents=[*parents, plugin],
        )
        sub.set_defaults(run=run)
        return sub

    command(_list, "list activations and gains", "list sigmoids gelu", any_, std, param, as_json)

    sub = command(_gain, "print one gain", "gain elu -p alpha=0.5 --mode backward", std, param)
    sub.add_argument("name", metavar="NAME", help="an activation or alias")
    text = "forward or fan_in (default), backward or fan_out, or centered"
    sub.add_argument("--mode", default="forward", help=text)

    text = "print whole entries"
    command(_show, text, "show gelu silu --std 0.5 --json", some, std, param, as_json)

    text = "print the std, gain and biases with which signals and gradients are level together"
    command(_critical, text, "critical gelu tanh", some, param, as_json)

    example = "build elu -p alpha=0.1,1 --std 0.5,1,2 -o my.yaml"
    sub = command(_build, "build a gain table", example, any_, param, output)
    sub.add_argument("--std", type=_stds, default=[1.0], help="stds, as in 0.5,1,2 (1)")
    text = "processes that share the work (1)"
    sub.add_argument("--jobs", type=int, default=1, metavar="N", help=text)

    example = "plot gelu silu -o gelu.png"
    sub = command(_plot, "draw activations and what depth does to them", example, some, std, param)
    sub.add_argument("-o", "--output", metavar="FILE", help="a .png or .svg (default: a window)")
    sub.add_argument("--width", type=int, default=256, help="of the layers drawn in depth (256)")

    text = "recompute every entry of a table; exit 1 if any differs"
    sub = command(_check, text, "check my.yaml", as_json)
    sub.add_argument("file", metavar="FILE", help="a table")

    text = "make a page for the browser of a table: search, sort, curves, lines of code to copy"
    sub = command(_page, text, "page my.yaml -o gains.html", output)
    sub.add_argument("file", metavar="FILE", nargs="?", help="a table (default: the shipped one)")

    text = "show every plugin, its hooks and activations, and what is broken"
    command(_plugins, text, "plugins --plugin my_activations.py", as_json)
    return parser


def _stds(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        message = f"expected numbers with commas between, as in 0.5,1,2, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def _params(options: argparse.Namespace) -> dict[str, list[float]]:
    """The values of each param."""
    params = {}
    for text in options.param:
        name, equals, value = text.partition("=")
        try:
            params[name] = [float(part) for part in value.split(",")]
        except ValueError:
            fault = f"{value!r} is not a number" if equals else "it has no '='"
            raise ParameterError(f"-p {text}: {fault}; write NAME=VALUE, as in alpha=0.5") from None
    return params


def _host() -> Host:
    from gainreg.host import host  # where it is asked first: a look-up in a table does without

    return host()


def _family(name: str) -> list[Activation]:
    """The activations that the plugin of that name declares; [] if there is no such plugin."""
    return [each for each in _host().activations() if _host().owner(each.name) == name]


def _named(options: argparse.Namespace) -> list[tuple[Activation, dict[str, float]]]:
    """The activations named, all if none is, each with those of the params that it has; with each
    combination of them, where params have several values."""
    found = [] if options.names else _host().activations()
    for name in options.names:
        found += _family(name) or [_host().activation(name)]
    params = _params(options)
    for key in params:
        if not any(key in activation.params for activation in found):
            takes = (f"{a.name} takes {', '.join(a.params) or 'none'}" for a in found[:3])
            raise ParameterError(f"-p {key}: no such param; {'; '.join(takes)}")
    return [
        (activation, chosen)
        for activation in found
        for chosen in combinations({key: params[key] for key in activation.params if key in params})
    ]


def _answers(options: argparse.Namespace, ask: Any) -> list[tuple[Activation, Any]]:
    """What ``ask`` says of each activation named; those of a family that have no answer are
    left out, with a line on stderr.
    """
    answers = []
    for activation, params in _named(options):
        try:
            answers.append((activation, ask(activation, params)))
        except (MomentError, ParameterError) as error:
            if _host().owner(activation.name) not in options.names:
                raise
            _say(f"left out: {error}")
    if not answers:
        raise ParameterError("nothing is left: none of the activations named has an answer")
    return answers


def _print_json(data: Any) -> int:
    import json

    print(json.dumps(data, indent=2))
    return 0


def _write(file: str, text: str, told: str) -> int:
    """Write a file and tell so, or print what would stand in it."""
    if file == "-":
        print(text.removesuffix("\n"))
    else:
        document.write(file, text)
        print(f"{file}: {told}")
    return 0


def _print(text: str, style: int = PLAIN, indent: int = 0, hanging: int = 0) -> None:
    """Print a paragraph as wide as the terminal; in a style if it is one and NO_COLOR is unset."""
    import shutil
    import textwrap

    width = shutil.get_terminal_size().columns
    first, others = " " * indent, " " * (indent + hanging)
    text = textwrap.TextWrapper(width, first, others, break_long_words=False).fill(text)
    if style and sys.stdout and sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        text = f"\033[{style}m{text}\033[0m"
    print(text)


def _print_facts(facts: dict[str, Any], given: dict[str, float], *sentences: str) -> None:
    """What is known of an activation under what was given, and sentences below it."""
    _print(called(facts["activation"], given), BOLD)
    for key, value in facts.items():
        if key not in ("activation", "params", *given) and value not in ("", []):
            shown = ", ".join(value) if isinstance(value, list) else value
            _print(f"{key:<26}{'none' if value is None else shown}", indent=2, hanging=26)
    for sentence in sentences:
        _print(sentence)
    print()


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if 1e-3 < abs(value) < 1e3 or value == 0 else f"{value:.2e}"


def _progress(what: str) -> Any:
    """A progress bar for what takes more than a second, on a terminal, if tqdm is installed."""
    if sys.stderr is not None and sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            return lambda work: tqdm(work, desc=what, delay=1.0, leave=False, file=sys.stderr)
    return iter


def _list(options: argparse.Namespace) -> int:
    check_std(options.std)
    families: dict[str, dict[str, dict[str, Any]]] = {}
    for activation, params in _named(options):
        rows = families.setdefault(_host().owner(activation.name), {})
        rows[called(activation.name, params)] = _row(activation, options.std, params)
    if options.json:
        return _print_json({family: [*rows.values()] for family, rows in families.items()})
    width = max(len(title) for rows in families.values() for title in rows) + 2
    _print(f"{'':{width}}{'gain':>9}{'slope':>9}{'gradient':>9}  method", DIM, 2, 2)
    for family, rows in families.items():
        _print(family, BOLD)
        for title, row in rows.items():
            cells = "".join(f"{_cell(row[key]):>9}" for key in FACTORS)
            marks = "; ".join(row["marks"])
            line = f"{title:{width}}{cells}  {row['method'] or '':<11} {marks}"
            _print(line, YELLOW if marks else PLAIN, 2, 2)
            aliases = f"also {', '.join(row['aliases'])}" if row["aliases"] else ""
            _print("; ".join(filter(None, (row["reference"], aliases))), DIM, 6)
        print()
    _print(
        f"gain: at std {options.std:g}. slope: variance_slope, what a layer multiplies a small "
        "error in the variance by. gradient: gradient_factor, what it multiplies the mean squared "
        "gradient by. A plain deep stack wants both at 1 or just below."
    )
    return 0


def _row(activation: Activation, std: float, params: dict[str, float]) -> dict[str, Any]:
    """What ``list`` says of one activation."""
    entry, marks = None, []
    try:
        entry = look_up(activation.name, std, params)
        factor = entry.gradient_factor
        if entry.variance_slope > 1 + MARKED:
            marks.append("unstable forward")
        if factor is None:
            marks.append("no gradient factor")
        elif abs(factor - 1) > MARKED:
            marks.append(f"gradients {'grow' if factor > 1 else 'vanish'}")
    except GainregError as error:  # it needs a param, say
        marks.append(str(error))
    return {
        "name": activation.name,
        "aliases": list(activation.aliases),
        "params": {**activation.params, **params},
        "reference": activation.reference,
        **{key: getattr(entry, key, None) for key in (*FACTORS, "method")},
        "marks": marks,
    }


def _gain(options: argparse.Namespace) -> int:
    try:
        params = {key: v[0] if len(v) == 1 else v for key, v in _params(options).items()}
        entry = look_up(options.name, options.std, params)
    except UnknownActivationError:
        if not (members := ", ".join(activation.name for activation in _family(options.name))):
            raise
        message = f"{options.name!r} is a family: give one of {members}, or see 'gainreg list'"
        raise ParameterError(message) from None
    print(entry.gain_for(options.mode))
    return 0


def _show(options: argparse.Namespace) -> int:
    std = check_std(options.std)
    found = []
    for activation, entry in _answers(options, lambda a, params: look_up(a.name, std, params)):
        about = {"reference": activation.reference, "aliases": list(activation.aliases)}
        found.append(({"activation": activation.name, **about, **to_dict(entry)}, entry))
    if options.json:
        return _print_json([facts for facts, _ in found])
    for facts, entry in found:
        reasons = []
        for mode in ("centered", "backward"):
            try:
                entry.gain_for(mode)
            except MomentError as error:
                reasons.append(str(error))
        if facts["critical_bias_std"] is None and entry.gradient_factor is not None:
            reasons.append(f"{entry.activation!r} has no critical biases: gradient_factor < 1")
        _print_facts(facts, {"std": entry.std, **entry.params}, *reasons)
    return 0


def _critical(options: argparse.Namespace) -> int:
    import gainreg

    answers = _answers(options, lambda activation, params: gainreg.critical(activation, **params))
    found = [point for _, point in answers]
    if options.json:
        return _print_json([dataclasses.asdict(point) for point in found])
    for point in found:
        _print_facts(dataclasses.asdict(point), point.params, STACKS[point.kind])
    return 0


def _build(options: argparse.Namespace) -> int:
    from gainreg.build import build_table

    if options.param and not options.names:
        raise ParameterError("-p belongs to an activation; name it, as in 'gainreg build elu'")
    items = None
    if options.names:
        items = _answers(options, lambda a, params: check_params(a.name, a.params, params))
    with _executor(options.jobs) as executor:
        table = build_table(items, options.std, _progress("building"), executor)
    if options.names and not len(table):
        raise MomentError("nothing is left to write: none of these activations has a gain there")
    told = f"{len(table)} entries of {len(table.listings)} activations"
    return _write(options.output, table.to_yaml(), told)


def _executor(jobs: int) -> Any:
    """That many processes, none beside this one if it is 1; as a context manager."""
    if jobs < 1:
        raise ParameterError(f"--jobs is a number of processes, at least 1, got {jobs}")
    if jobs == 1:
        return contextlib.nullcontext()
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # started anew, not forked: a plugin may have started threads, which do not survive a fork
    return ProcessPoolExecutor(jobs, get_context("spawn"), _warn_in_a_line)


def _check(options: argparse.Namespace) -> int:
    from gainreg.check import differences
    from gainreg.table import load_table

    table = load_table(options.file)
    found = differences(table, _progress("checking"))
    if options.json:
        _print_json({"file": options.file, "entries": len(table), "differences": found})
    else:
        verdict = f"{len(found)} differences in" if found else "all right,"
        print(*found, f"{options.file}: {verdict} {len(table)} entries", sep="\n")
    return 1 if found else 0


def _plot(options: argparse.Namespace) -> int:
    from gainreg.plot import activations, look  # first: it says what is missing

    named = _named(options)
    figure = look.window(*activations.SIZE) if options.output is None else None
    figure = activations.overview(*named, std=options.std, width=options.width, figure=figure)
    if options.output is None:
        from matplotlib import pyplot

        pyplot.show()
    else:
        look.save(figure, options.output)
    return 0


def _page(options: argparse.Namespace) -> int:
    from gainreg.page import table_page
    from gainreg.table import SHIPPED, load_table

    file = options.file or str(SHIPPED)
    page = table_page(load_table(file), f"Gains of {os.path.basename(file)}")
    return _write(options.output, page, f"{len(page.encode()) / 1000:.0f} kB")


def _plugins(options: argparse.Namespace) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the broken ones are listed below
        the_host = _host()
    for file in options.plugin:
        with contextlib.suppress(PluginError):  # listed below
            the_host.load_file(file)
    if options.json:
        return _print_json([dataclasses.asdict(info) for info in the_host.plugins()])
    for info in the_host.plugins():
        print(f"{info.name}  ({' '.join(filter(None, (info.distribution, info.version)))})")
        hooks, activations = ", ".join(info.hooks), ", ".join(info.activations)
        facts = {"broken": info.error, "hooks": hooks, "activations": activations}
        print(*(f"  {key:<13}{fact}" for key, fact in facts.items() if fact), sep="\n")
    return 0
