"""Making a table from live answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gainreg.activation import Activation
from gainreg.entry import GainEntry
from gainreg.errors import GainregError, MomentError, ParameterError, TableError
from gainreg.frameworks import as_activation
from gainreg.host import host
from gainreg.params import NAME
from gainreg.resolver import check_stds, find
from gainreg.schema import Listing
from gainreg.table import GainTable

Item = str | Activation | Callable[..., Any]


def build_table(
    activations: Iterable[Item | tuple[Item, Mapping[str, Any]]] | None = None,
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
    everything = activations is None
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
        if everything and None in known.params.values():
            continue  # nothing to say without params; the listing still names them
        for at in std:
            try:
                entry = find(known, [at], params)[0]
            except GainregError as error:
                if not everything and not isinstance(error, MomentError):
                    raise
                warnings.warn(f"left out of the table: {error}", RuntimeWarning, stacklevel=2)
                if not isinstance(error, MomentError):
                    break  # its plugin fails: it would say the same at every std
            else:
                listed[tuple(entry.params.items()), at] = entry
    return GainTable(
        {
            name: Listing(known.aliases, dict(known.params), known.width, tuple(listed.values()))
            for name, (known, listed) in found.items()
        }
    )


def _pairs(items: Any) -> list[tuple[str | Activation, Mapping[str, Any]]]:
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
        found.append(as_activation(*pair))
    return found
