"""The command line: thin wrappers around the public functions."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from gainreg import __version__
from gainreg.errors import GainregError, MomentError, ParameterError, PluginError

if TYPE_CHECKING:
    from gainreg.entry import GainEntry

# A slope or a factor this close to 1 is marked as neither growing nor shrinking.
LEVEL = 5e-3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 if ``check`` found differences; 2 for any error, with one line on stderr.
    """
    try:
        options = _parser().parse_args(argv)
        _warnings_in_a_line()
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a terminal that has no φ
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

    def command(name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        sub.add_argument(
            "--plugin",
            metavar="FILE.py",
            action="append",
            default=[],
            help="load a plugin file first; may be given more than once",
        )
        return sub

    def with_params(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "-p",
            "--param",
            metavar="NAME=VALUE",
            action="append",
            default=[],
            help="a parameter of the activation; may be given more than once",
        )

    sub = command("list", _list, "list all activations with their gains at std 1", "gainreg list")
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = command(
        "gain", _gain, "print one gain", "gainreg gain elu --std 2 -p alpha=0.5 --mode backward"
    )
    sub.add_argument("name", help="an activation or alias")
    sub.add_argument("--std", type=_number, default=1.0, help="std of the pre-activation (1)")
    sub.add_argument(
        "--mode",
        choices=("forward", "centered", "backward"),
        default="forward",
        help="what the gain keeps: the forward variance (default), that of the activation "
        "itself, or the gradient's",
    )
    with_params(sub)

    sub = command("show", _show, "print whole entries", "gainreg show gelu silu --std 0.5 --json")
    sub.add_argument("names", nargs="+", metavar="NAME", help="activations or aliases")
    sub.add_argument("--std", type=_number, default=1.0, help="std of the pre-activation (1)")
    sub.add_argument("--json", action="store_true", help="print JSON")
    with_params(sub)

    sub = command(
        "build", _build, "build a gain table", "gainreg build elu tanh --std 0.5,1,2 -o gains.yaml"
    )
    sub.add_argument(
        "names", nargs="*", metavar="NAME", help="activations (default: all that are registered)"
    )
    sub.add_argument("--std", type=_numbers, default=[1.0], help="stds, as in 0.5,1,2 (1)")
    sub.add_argument(
        "-o", "--output", metavar="FILE", help="the file to write (standard output: -)"
    )
    with_params(sub)

    sub = command(
        "check",
        _check,
        "recompute every entry of a table; exit 1 if any differs",
        "gainreg check gains.yaml",
    )
    sub.add_argument("file", metavar="FILE", help="a table")
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = command(
        "plugins",
        _plugins,
        "show every plugin, its hooks and activations, and what is broken",
        "gainreg plugins --plugin my_activations.py",
    )
    sub.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _numbers(text: str) -> list[float]:
    return [_number(part) for part in text.split(",")]


def _params(options: argparse.Namespace) -> dict[str, float]:
    params: dict[str, float] = {}
    for text in options.param:
        name, equals, value = text.partition("=")
        try:
            params[name] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ParameterError(f"a param is given as NAME=VALUE, as in alpha=0.5; got {text!r}")
    return params


def _load(files: Iterable[str]) -> None:
    for file in files:
        from gainreg.host import host

        host().load_file(file)


def _warnings_in_a_line() -> None:
    import warnings

    def show(message: Warning | str, *_: Any) -> None:
        _say(f"warning: {message}")

    warnings.showwarning = show  # type: ignore[assignment]


def _print_json(data: Any) -> None:
    import json

    print(json.dumps(data, indent=2))


# --- the commands ---


def _gain(options: argparse.Namespace) -> int:
    from gainreg.lookup import entry_for

    _load(options.plugin)
    print(entry_for(options.name, options.std, _params(options)).gain_for(options.mode))
    return 0


def _show(options: argparse.Namespace) -> int:
    from gainreg.entry import to_dict
    from gainreg.lookup import entry_for

    _load(options.plugin)
    entries = [entry_for(name, options.std, _params(options)) for name in options.names]
    if options.json:
        _print_json([{"activation": e.activation, **to_dict(e)} for e in entries])
        return 0
    for i, entry in enumerate(entries):
        rows = to_dict(entry)
        params = "".join(f", {key}={value:g}" for key, value in rows.pop("params").items())
        print(
            *([""] if i else []), f"{entry.activation}(std={rows.pop('std'):g}{params})", sep="\n"
        )
        for key, value in rows.items():
            print(
                f"  {key:<26}{'none: φ jumps or is not differentiable' if value is None else value}"
            )
    return 0


def _list(options: argparse.Namespace) -> int:
    from gainreg.host import host

    _load(options.plugin)
    families: dict[str, list[dict[str, Any]]] = {}
    for activation in host().activations():
        families.setdefault(host().owner(activation.name), []).append(_row(activation))
    if options.json:
        _print_json(families)
        return 0
    rows = [row for family in families.values() for row in family]
    width = max((len(row["name"]) for row in rows), default=4) + 2
    head = f"{'':{width}}{'gain':>10} {'slope':>8} {'gradient':>9}  method"
    for family, members in families.items():
        print(f"{family}\n{head}" if family == next(iter(families)) else family)
        for row in members:
            cells = [_cell(row[key]) for key in ("gain", "variance_slope", "gradient")]
            print(
                f"  {row['name']:{width - 2}}{cells[0]:>10} {cells[1]:>8} {cells[2]:>9}  "
                f"{row['method'] or '':<11} {'; '.join(row['marks'])}".rstrip()
            )
        print()
    print("gain at std 1 and the default params; slope: variance_slope, what a small error in the")
    print("variance is multiplied by a layer; gradient: what the mean squared gradient is")
    print(
        "multiplied by a layer, gradient_factor by pre-activations per output. A plain deep stack"
    )
    print("wants both at 1 or just below.")
    return 0


def _row(activation: Any) -> dict[str, Any]:
    """What ``list`` says of one activation."""
    from gainreg.lookup import entry_for

    row: dict[str, Any] = {
        "name": activation.name,
        "aliases": list(activation.aliases),
        "params": dict(activation.params),
        "reference": activation.reference,
        "gain": None,
        "variance_slope": None,
        "gradient_factor": None,
        "gradient": None,
        "method": None,
        "marks": [],
    }
    needed = [name for name, value in activation.params.items() if value is None]
    if needed:
        row["marks"].append(f"needs {', '.join(needed)}")
        return row
    try:
        entry: GainEntry = entry_for(activation.name, 1.0, {})
        width = activation.width
    except GainregError as error:
        row["marks"].append(str(error))
        return row
    row |= {
        "gain": entry.gain,
        "variance_slope": entry.variance_slope,
        "gradient_factor": entry.gradient_factor,
        "gradient": None if entry.gradient_factor is None else entry.gradient_factor / width,
        "method": entry.method,
    }
    if entry.variance_slope > 1 + LEVEL:
        row["marks"].append("unstable forward")
    factor = row["gradient"]
    if factor is None:
        row["marks"].append("no gradient")
    elif abs(factor - 1) > LEVEL:
        row["marks"].append(f"gradients {'grow' if factor > 1 else 'vanish'}")
    return row


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if 1e-3 < abs(value) < 1e4 or value == 0 else f"{value:.3g}"


def _build(options: argparse.Namespace) -> int:
    from gainreg.build import build_table

    _load(options.plugin)
    params = _params(options)
    names = [(name, params) for name in options.names] or None
    if params and not names:
        raise ParameterError("-p belongs to an activation; name it, as in 'gainreg build elu'")
    table = build_table(names, options.std, _progress("building"))
    if names and not len(table):
        raise MomentError("nothing is left to write: none of these activations has a gain there")
    if options.output in (None, "-"):
        print(table.to_yaml(), end="")
    else:
        table.write(options.output)
        print(f"{options.output}: {len(table)} entries of {len(table.listings)} activations")
    return 0


def _check(options: argparse.Namespace) -> int:
    from gainreg.check import differences
    from gainreg.table import load_table

    _load(options.plugin)
    table = load_table(options.file)
    found = differences(table, _progress("checking"))
    if options.json:
        _print_json({"file": options.file, "entries": len(table), "differences": found})
        return 1 if found else 0
    for line in found:
        print(line)
    count = f"{len(table)} entries"
    print(f"{options.file}: {f'{len(found)} differences in ' if found else 'all right, '}{count}")
    return 1 if found else 0


def _progress(what: str) -> Any:
    """A progress bar for what takes more than a second, on a terminal, if tqdm is installed."""
    if sys.stderr is None or not sys.stderr.isatty():
        return iter
    try:
        from tqdm import tqdm
    except ImportError:
        return iter
    return lambda work: tqdm(work, desc=what, delay=1.0, leave=False, file=sys.stderr)


def _plugins(options: argparse.Namespace) -> int:
    import warnings

    from gainreg.host import host

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the broken ones are listed below
        the_host = host()
    for file in options.plugin:
        try:
            the_host.load_file(file)
        except PluginError:
            continue  # listed below
    if options.json:
        import dataclasses

        _print_json([dataclasses.asdict(info) for info in the_host.plugins()])
        return 0
    for info in the_host.plugins():
        print(f"{info.name}  ({' '.join(filter(None, (info.distribution, info.version)))})")
        if info.error:
            print(f"  broken       {info.error}")
            continue
        print(f"  hooks        {', '.join(info.hooks)}")
        if info.activations:
            print(f"  activations  {', '.join(info.activations)}")
    return 0
