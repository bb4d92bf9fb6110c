"""Making a table from live answers, and holding a table against them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from gainreg.activation import Activation
from gainreg.entry import GainEntry
from gainreg.errors import GainregError, MomentError, ParameterError, TableError
from gainreg.host import host
from gainreg.params import NAME, shortest
from gainreg.resolver import as_activation, check_stds, entries
from gainreg.table import GainTable, Listing, to_dict

Named = str | Activation | Callable[..., Any]
Item = Named | tuple[Named, Mapping[str, Any]]


def build_table(
    activations: Iterable[Item] | None = None,
    stds: Sequence[float] = (1.0,),
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> GainTable:
    """A table of the gains of ``activations`` at each of ``stds``.

    Args:
        activations: names, Activations or functions, or pairs of one and its params; None for
            every registered activation, at its defaults.
        stds: standard deviations of the pre-activation.
        progress: wraps the list of work to be done, to draw a progress bar.

    Warns:
        RuntimeWarning: an entry is left out, because its moments leave the range of a double; or,
            of all registered activations, because its plugin fails.

    Raises:
        UnknownActivationError, ParameterError, PluginError: as ``gainreg.resolve``.
        TableError: an activation's name cannot stand in a table, or two have the same.
    """
    std = sorted(set(check_stds(stds).tolist()))
    work = _pairs(host().activations() if activations is None else activations)
    found: dict[str, tuple[Activation, dict[Any, GainEntry]]] = {}
    for activation, params in progress(work):
        known = host().activation(activation) if isinstance(activation, str) else activation
        if not NAME.fullmatch(known.name):
            raise TableError(
                f"{known.name!r} cannot stand in a table: it is not lower_snake_case; name it, as "
                "in gainreg.Activation('my_name', forward=my_function)"
            )
        first, listed = found.setdefault(known.name, (known, {}))
        if (first.forward, first.sample) != (known.forward, known.sample):
            raise TableError(f"two different activations are called {known.name!r}")
        if activations is None and None in known.params.values():
            continue  # nothing to say without params; the listing still names them
        try:
            for entry in _entries(known, std, params):
                listed[tuple(entry.params.items()), entry.std] = entry
        except GainregError as error:
            if activations is not None:
                raise
            _warn_of(error)
    return GainTable(
        {
            name: Listing(known.aliases, dict(known.params), tuple(listed.values()))
            for name, (known, listed) in found.items()
        }
    )


def _pairs(items: Iterable[Item]) -> list[tuple[str | Activation, Mapping[str, Any]]]:
    if isinstance(items, (str, Activation)) or not isinstance(items, Iterable):
        items = [items]
    found = []
    for item in items:
        pair = item if isinstance(item, tuple) else (item, {})
        if len(pair) != 2 or not isinstance(pair[1], Mapping):
            raise ParameterError(
                f"an activation to tabulate is a name, or a pair ('elu', {{'alpha': 0.5}}); "
                f"got {item!r}"
            )
        found.append((as_activation(pair[0]), pair[1]))
    return found


def _entries(
    activation: Activation, stds: Sequence[float], params: Mapping[str, Any]
) -> Iterator[GainEntry]:
    try:
        yield from entries(activation, stds, params)
    except MomentError:  # some of them have no gain: one by one
        for std in stds:
            try:
                yield entries(activation, [std], params)[0]
            except MomentError as error:
                _warn_of(error)


def _warn_of(error: GainregError) -> None:
    warnings.warn(f"left out of the table: {error}", RuntimeWarning, stacklevel=5)


def differences(
    table: GainTable, progress: Callable[[Sequence[Any]], Iterable[Any]] = iter
) -> list[str]:
    """Recompute every entry of a table; a sentence for each that differs.

    Numbers agree within 1e-12 relative (the mean beside √second_moment), or within the errors
    that the recomputed entry states.
    """
    found = []
    for name, listing in progress(list(table.listings.items())):
        try:
            known = host().activation(name)
        except GainregError as error:
            found.append(f"{name}: {error}")
            continue
        for what in ("aliases", "params"):
            stored, declared = getattr(listing, what), getattr(known, what)
            if stored != declared:
                found.append(f"{name}: its {what} are {stored} in the table, {declared} declared")
        by_params: dict[Any, list[GainEntry]] = {}
        for entry in listing.entries:
            by_params.setdefault(tuple(entry.params.items()), []).append(entry)
        for group in by_params.values():
            try:
                again = entries(name, [entry.std for entry in group], group[0].params)
            except GainregError as error:
                found.append(f"{name}: {error}")
                continue
            for old, new in zip(group, again, strict=True):
                found += _compare(old, new)
    return found


def _compare(old: GainEntry, new: GainEntry) -> Iterator[str]:
    before, after = to_dict(old), to_dict(new)
    # the stated error, as a relative error of any of the numbers; a sampled slope is noisier
    allowed = 1e-12 + 40 * new.error / new.second_moment
    sizes = {"mean": new.second_moment**0.5, "variance_slope": max(1.0, abs(new.variance_slope))}
    for key, value in after.items():
        stored = before[key]
        if key == "params":
            continue
        if key == "method":  # whether a closed form is trusted may hang on a last digit
            agrees = (stored == "sampling") == (value == "sampling")
        elif key == "error":
            agrees = value / 100 <= stored <= 100 * value + 1e-13 * new.second_moment
        elif isinstance(value, float) and isinstance(stored, float):
            agrees = abs(stored - value) <= allowed * sizes.get(key, abs(value))
        else:
            agrees = stored == value
        if not agrees:
            yield (
                f"{old.activation} at std = {shortest(old.std)}: {key} is {stored} in the table, "
                f"{value} recomputed"
            )
