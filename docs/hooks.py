"""What mkdocs adds to the site as it is built: the gallery, the command line, texts of the root.

The gallery comes from the registry and the shipped table, the command line's page from its parser.
The reference is read from the source, where the signature of a decorated function is not its own.
"""

import argparse
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import numpy as np
from mkdocs.structure.files import File, Files

import gainreg
from gainreg.cli import _parser
from gainreg.host import host
from gainreg.page import table_page

ROOT = Path(__file__).parent.parent

# Values for params without a default, in the drawings.
FREE = {"threshold": {"threshold": 0.5, "value": 0.0}}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here."""
    pages = {
        "gallery.md": gallery(),
        "gains.html": table_page(gainreg.load_table(), "Gains"),
        "reference/cli.md": command_line(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links between files of the repository, as they are on the site."""
    markdown = markdown.replace("](../CONTRIBUTING.md)", "](contributing.md)")
    return markdown.replace("](docs/design.md)", "](design.md)")


class Signatures(griffe.Extension):
    """Gives each function that is decorated by ``scaling.takes(f)`` the parameters of ``f``."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for module in _modules(pkg):
            for function in module.functions.values():
                for decorator in [] if function.is_alias else function.decorators:
                    found = re.fullmatch(r"scaling\.takes\((\w+)\)", str(decorator.value))
                    if found:
                        function.parameters = module[found[1]].parameters


def _modules(module: griffe.Module) -> Iterator[griffe.Module]:
    yield module
    for inner in module.modules.values():
        if not inner.is_alias:
            yield from _modules(inner)


def gallery() -> str:
    """All registered activations, a section for each family."""
    table = gainreg.load_table()
    families: dict[str, list[gainreg.Activation]] = {}
    for activation in host().activations():
        families.setdefault(host().owner(activation.name), []).append(activation)
    lines = [
        "---\nhide: [navigation]\n---",
        "# Gallery",
        "",
        f"All {len(host().activations())} activations that gainreg brings, from its registry: each "
        "with its definition, params and other names, its drawing over −4 ≤ x ≤ 4, and the entry "
        "at std 1 of the shipped table. All entries, to be searched, sorted and copied from, are "
        "on [a page of their own](gains.html). "
        "[What the numbers mean](index.md#what-the-numbers-mean).",
        "",
    ]
    # those of which the table says nothing come last
    silent = {
        name: all(None in activation.params.values() for activation in members)
        for name, members in families.items()
    }
    for family in sorted(families, key=silent.__getitem__):
        lines += [f"## {family.replace('_', ' ').capitalize()}", ""]
        lines += ["| φ | activation | gain | backward gain | variance slope | gradient factor |"]
        lines += ["| --- | --- | ---: | ---: | ---: | ---: |"]
        lines += [_row(activation, table) for activation in families[family]]
        lines += [""]
    return "\n".join(lines)


def _row(activation: gainreg.Activation, table: gainreg.GainTable) -> str:
    about = f'<b id="{activation.name}">`{activation.name}`</b>'
    params = ", ".join(
        f"{name} = {value:g}" if value is not None else f"{name} (to be given)"
        for name, value in activation.params.items()
    )
    if params:
        about += f"<br>{params}"
    about += f"<br>{html.escape(activation.reference)}"
    if activation.aliases:
        about += f"<br>also {', '.join(f'`{alias}`' for alias in activation.aliases)}"
    numbers = ["–"] * 4
    if None not in activation.params.values():
        entry = table.lookup(activation.name)
        values = (
            entry.gain,
            entry.backward_gain if entry.derivative_second_moment else None,
            entry.variance_slope,
            entry.gradient_factor,
        )
        numbers = ["–" if value is None else f"{value:.5g}" for value in values]
    about = about.replace("|", "\\|").replace("_{", "\\_{")
    return f"| {_drawing(activation)} | {about} | {' | '.join(numbers)} |"


def _drawing(activation: gainreg.Activation) -> str:
    """φ (of a gated unit, that of its gate) as a picture that follows the page's colours."""
    drawn = activation.gate or activation
    params = FREE.get(drawn.name, {})
    if drawn.forward is None or (None in drawn.params.values() and not params):
        return ""
    x = np.linspace(-4, 4, 161)
    y = np.clip(host().bind(drawn, params).forward(x), -4, 4)
    points = " L".join(f"{20 * a:.0f} {-20 * b:.1f}" for a, b in zip(x, y, strict=True))
    return (
        '<svg class="phi" viewBox="-80 -50 160 100" preserveAspectRatio="xMidYMid slice" '
        f'role="img" aria-label="{drawn.name}"><path class="axis" d="M-80 0H80M0 -80V80"/>'
        f'<path d="M{points}"/></svg>'
    )


def command_line() -> str:
    """The help of each command."""
    parser = _parser()
    lines = ["# The command line", "", parser.description or "", ""]
    (commands,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for name, command in commands.choices.items():
        text = re.sub(r"\x1b\[[0-9;]*m", "", command.format_help()).rstrip()
        lines += [f"## gainreg {name}", "", "```text", text, "```", ""]
    return "\n".join(lines)
