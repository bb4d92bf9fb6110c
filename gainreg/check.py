"""Holding a table against live answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from gainreg.entry import GainEntry
from gainreg.errors import GainregError
from gainreg.host import host
from gainreg.params import shortest
from gainreg.resolver import curve_of
from gainreg.table import GainTable

# Numbers of one entry that were made on two machines, whose exp and sin differ in the last bits,
# agree within the error that the entry states for its second moment, times this (the slope of
# sampled moments is that much noisier), and within ROUNDED.
NOISE = 40
ROUNDED = 1e-12


def differences(
    table: GainTable, progress: Callable[[Sequence[Any]], Iterable[Any]] = iter
) -> list[str]:
    """Recompute every entry of a table; a sentence for each that differs.

    What an entry derives from its moments was checked when the table was read; here the moments
    are. They agree within 1e-12 relative (the mean beside √second_moment), or within the errors
    that the recomputed entry states.
    """
    found = []
    for name, listing in progress(list(table.listings.items())):
        try:
            known = host().activation(name)
        except GainregError as error:
            found.append(f"{name}: {error}")
            continue
        for what in ("aliases", "params", "width"):
            stored, declared = getattr(listing, what), getattr(known, what)
            if stored != declared:
                found.append(f"{name}: its {what} are {stored} in the table, {declared} declared")
        for old in listing.entries:
            try:
                new = curve_of(host().bind(name, old.params), [old.std])[0]
            except GainregError as error:
                found.append(f"{name} at std = {shortest(old.std)}: {error}")
            else:
                found += _compare(old, new)
    return found


def _compare(old: GainEntry, new: GainEntry) -> Iterator[str]:
    second, slope = new.second_moment, new.derivative_second_moment
    allowed = ROUNDED + NOISE * new.error / second
    # What an error of each number is measured against: errors of φ shift the mean beside the root
    # of the mean square, and the variance beside that root times its own.
    sizes = {
        "mean": second**0.5,
        "second_moment": second,
        "variance": (second * new.variance) ** 0.5,
        "variance_slope": max(1.0, abs(new.variance_slope)),
        "derivative_second_moment": slope,
    }
    agree = {"method": (old.method == "sampling") == (new.method == "sampling")}
    # whether a closed form is trusted may hang on a last digit, and with it method and error
    agree["error"] = new.error / 100 <= old.error <= 100 * new.error + 1e-13 * second
    for name, size in sizes.items():
        stored, value = getattr(old, name), getattr(new, name)
        if size is None or stored is None:
            agree[name] = stored is value
        else:
            agree[name] = abs(stored - value) <= allowed * size
    for name, fits in agree.items():
        if not fits:
            yield (
                f"{old.activation} at std = {shortest(old.std)}: {name} is {getattr(old, name)} in "
                f"the table, {getattr(new, name)} recomputed"
            )
