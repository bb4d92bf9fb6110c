"""GainTable: gains looked up by activation, std and params; its file, and the one shipped.

Nothing here imports numpy, scipy or pluggy, so that a look-up costs next to nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gainreg import document, schema
from gainreg.entry import GainEntry
from gainreg.errors import TableError
from gainreg.params import called, check_params, check_std, close_names, known_name
from gainreg.schema import Listing

SHIPPED = Path(__file__).with_name("registry.yaml")


@dataclasses.dataclass(repr=False)
class GainTable:
    """Gains by activation, std and params, looked up exactly.

    Attributes:
        listings: what it says of each activation, by canonical name.
    """

    listings: Mapping[str, Listing]

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        """From every name and alias to the canonical name."""
        return {
            known: name
            for name, listing in self.listings.items()
            for known in (name, *listing.aliases)
        }

    def __iter__(self) -> Iterator[GainEntry]:
        for listing in self.listings.values():
            yield from listing.entries

    def __len__(self) -> int:
        return sum(len(listing.entries) for listing in self.listings.values())

    def __repr__(self) -> str:
        return f"<GainTable: {len(self)} entries of {len(self.listings)} activations>"

    def _repr_html_(self) -> str:
        from gainreg import notebook

        return notebook.table(self)

    def lookup(self, /, activation: str, std: float = 1.0, **params: float) -> GainEntry:
        """The entry of exactly that activation, std and params (defaults filled in).

        Raises:
            TableError: there is no such entry; the message names the nearest.
            ParameterError: a param is unknown or missing, or a number is none.
        """
        std = check_std(std)
        known = known_name(activation, self._names)
        if known is None:
            hint = close_names(activation, self._names)
            raise TableError(f"the table has no activation {activation!r}{hint and '; ' + hint}")
        name = self._names[known]
        listing = self.listings[name]
        values = check_params(name, listing.params, params)
        for entry in listing.entries:
            if entry.std == std and entry.params == values:
                # params of its own, lest a change to them change the table
                return dataclasses.replace(entry, params=dict(entry.params))
        raise TableError(
            f"the table has no entry for {called(name, {'std': std, **values})}; "
            + _nearest(listing.entries, std, values)
            + "; add it with 'gainreg build', or resolve it live with gainreg.resolve"
        )

    def to_yaml(self) -> str:
        """The table as the text of its file, digest included; the same bytes every time.

        Raises:
            TableError: it could not be read back.
        """
        body = schema.to_text(self.listings)
        try:
            schema.from_plain(document.parse(body, "the table"), "the table")
        except TableError as error:
            raise TableError(f"this table could not be read back: {error}") from None
        return document.with_digest(body, "table")

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a file, whole or not at all: a crash leaves the old one.

        Raises:
            TableError: the file cannot be written, or could not be read back.
        """
        document.write(path, self.to_yaml())


def load_table(path: str | os.PathLike[str] | None = None, verify: bool = True) -> GainTable:
    """Read a table.

    Args:
        path: its file; None for the table of all built-in activations that gainreg ships.
        verify: refuse a file whose digest does not fit its bytes. False takes a file written or
            edited by hand; the schema is checked all the same.

    Raises:
        TableError: the file is missing, unreadable, too large, damaged, or breaks the schema.
    """
    if path is None:
        return _shipped()
    return GainTable(schema.from_plain(document.read(path, "table", verify), str(path)))


@functools.cache
def _shipped() -> GainTable:
    return load_table(SHIPPED)


def _nearest(entries: Iterable[GainEntry], std: float, params: Mapping[str, float]) -> str:
    def distance(entry: GainEntry) -> float:
        off = sum(abs(entry.params[key] - value) for key, value in params.items())
        return abs(math.log(entry.std) - math.log(std)) + off

    near = sorted(entries, key=distance)[:3]
    if not near:
        return "it has none for this activation"
    return "nearest: " + ", ".join(called(e.activation, {"std": e.std, **e.params}) for e in near)
