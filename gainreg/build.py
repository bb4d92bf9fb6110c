"""Making a table from live answers, and holding a table against them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gainreg.activation import Activation
from gainreg.entry import GainEntry
from gainreg.errors import GainregError, MomentError, TableError
from gainreg.host import NAME, host
from gainreg.resolver import curve, resolve
from gainreg.table import GainTable, Listing, to_dict

Item = str | Activation | tuple[str | Activation, Mapping[str, Any]]


def build_table(
    activations: Iterable[Item] | None = None,
    stds: Sequence[float] = (1.0,),
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> GainTable:
    """A table of the gains of ``activations`` at each of ``stds``.

    Args:
        activations: names, Activations, or pairs of one and its params; None for every
            registered activation, at its defaults.
        stds: standard deviations of the pre-activation.
        progress: wraps the list of work to be done, to draw a progress bar.

    Warns:
        RuntimeWarning: an entry is left out, because its moments leave the range of a double.

    Raises:
        UnknownActivationError, ParameterError, PluginError: as ``gainreg.resolve``.
        TableError: an activation's name cannot stand in a table.
    """
    work = _pairs(host().activations() if activations is None else activations)
    stds = sorted(set(np.asarray(stds, dtype=float).ravel().tolist()))
    found: dict[str, tuple[Activation, dict[Any, GainEntry]]] = {}
    for activation, params in progress(work):
        known = host().activation(activation) if isinstance(activation, str) else activation
        if not NAME.match(known.name):
            raise TableError(f"{known.name!r} cannot stand in a table: it is not lower_snake_case")
        _, entries = found.setdefault(known.name, (known, {}))
        if activations is None and None in known.params.values():
            continue  # nothing to say without params; the listing still names them
        for entry in _entries(known, stds, params):
            entries[tuple(entry.params.items()), entry.std] = entry
    return GainTable(
        {
            name: Listing(known.aliases, dict(known.params), tuple(entries.values()))
            for name, (known, entries) in found.items()
        }
    )


def _pairs(items: Iterable[Item]) -> list[tuple[str | Activation, Mapping[str, Any]]]:
    if isinstance(items, (str, Activation)):
        items = [items]
    return [item if isinstance(item, tuple) else (item, {}) for item in items]


def _entries(
    activation: Activation, stds: Sequence[float], params: Mapping[str, Any]
) -> Iterator[GainEntry]:
    try:
        yield from list(curve(activation, np.array(stds), **params))
    except MomentError:  # some of them have no gain: one by one
        for std in stds:
            try:
                yield resolve(activation, std, **params)
            except MomentError as error:
                warnings.warn(f"left out of the table: {error}", RuntimeWarning, stacklevel=4)


def differences(
    table: GainTable, progress: Callable[[Sequence[Any]], Iterable[Any]] = iter
) -> list[str]:
    """Recompute every entry of a table; a sentence for each that differs.

    Numbers agree within 1e-12 relative (the mean beside √second_moment), or within the errors
    that both sides state.
    """
    found = []
    for name, listing in progress(list(table.listings.items())):
        by_params: dict[Any, list[GainEntry]] = {}
        for entry in listing.entries:
            by_params.setdefault(tuple(entry.params.items()), []).append(entry)
        for entries in by_params.values():
            given: Mapping[str, Any] = entries[0].params
            try:
                stds = np.array([entry.std for entry in entries])
                again = list(curve(name, stds, **given))
            except GainregError as error:
                found.append(f"{name}: {error}")
                continue
            for old, new in zip(entries, again, strict=True):
                found += _compare(old, new)
    return found


def _compare(old: GainEntry, new: GainEntry) -> Iterator[str]:
    before, after = to_dict(old), to_dict(new)
    # stated errors, as relative errors of any of the numbers; a sampled slope is noisier
    allowed = 1e-12 + 20 * (old.error / old.second_moment + new.error / new.second_moment)
    sizes = {"mean": new.second_moment**0.5, "variance_slope": max(1.0, abs(new.variance_slope))}
    for key, value in after.items():
        if isinstance(value, float) and isinstance(before[key], float) and key != "error":
            if abs(before[key] - value) <= allowed * sizes.get(key, abs(value)):
                continue
        elif key in ("error", "method", "params") or before[key] == value:
            continue
        yield (
            f"{old.activation} at std = {old.std:g}: {key} is {before[key]} in the table, "
            f"{value} recomputed"
        )
