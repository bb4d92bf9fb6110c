"""Making a table from live answers, here or by the workers of an executor."""

from __future__ import annotations

import contextlib
import pickle
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

from gainreg import __version__, reload_plugins
from gainreg.activation import Activation
from gainreg.bound import reason
from gainreg.entry import GainEntry
from gainreg.errors import GainregError, MomentError, ParameterError, TableError
from gainreg.frameworks import Item, as_activation, with_params
from gainreg.host import PROGRAM, host
from gainreg.params import NAME, check_params, combinations
from gainreg.resolver import check_stds, curve_of
from gainreg.schema import Listing
from gainreg.table import GainTable

Outcome = list[GainEntry | GainregError]  # one for each std, up to an error that all would share

# Stds of one task. A task binds its activation anew, which takes up to 40 ms (ELU: its closed forms
# are compared with quadrature); 1000 entries take 150 to 400, so that little of it is lost, and a
# long list of stds is still shared out.
STDS_OF_A_TASK = 1000

_loading = threading.Lock()  # a worker may have several threads, and each file is loaded once


class Task(NamedTuple):
    """What is done in one go: an activation with its params, at some of the stds.

    Attributes:
        given: the activation, or the function of which it was made, which can be sent when that
            cannot.
        activation: the activation.
        params: all of them.
        stds: some of the table's.
    """

    given: Item
    activation: Activation
    params: Mapping[str, float]
    stds: list[float]


def build_table(
    activations: Iterable[Item | tuple[Item, Mapping[str, Any]]] | None = None,
    stds: Sequence[float] = (1.0,),
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
    executor: Executor | None = None,
) -> GainTable:
    """A table of the gains of ``activations`` at each of ``stds``.

    Args:
        activations: names, Activations or functions, or pairs of one and its params; None for
            every registered activation, at its defaults. A param may have several values,
            ``("elu", {"alpha": [0.5, 1.0]})``; of several such params all combinations are taken.
        stds: standard deviations of the pre-activation.
        progress: wraps the list of work to be done, to draw a progress bar.
        executor: any ``concurrent.futures.Executor``, whose workers do the work; None for this
            process. The workers need the same gainreg, the same installed plugins and the same
            plugin files in the same places. On processors of one kind the table is byte for byte
            the same. Activations that cannot be pickled are computed here.

    Warns:
        RuntimeWarning: an entry is left out, because its moments leave the range of a double; or,
            of all registered activations, because its plugin fails. An activation is computed
            here, because it cannot be sent to a worker.

    Raises:
        UnknownActivationError, ParameterError, PluginError: as ``gainreg.resolve``.
        TableError: an activation's name cannot stand in a table, or two have the same; or the
            executor failed, as when a worker died.
    """
    everything = activations is None
    std = sorted(set(check_stds(stds).tolist()))
    work = _work_of(host().activations() if activations is None else activations)
    known: dict[str, Activation] = {}
    listed: dict[str, dict[Any, GainEntry]] = {}
    tasks = []
    for given, activation, params in work:
        first = known.setdefault(activation.name, activation)
        if not NAME.fullmatch(activation.name):
            raise TableError(
                f"{activation.name!r} cannot stand in a table: it is not lower_snake_case; name "
                "it, as in gainreg.Activation('my_name', forward=my_function)"
            )
        if (first.forward, first.sample) != (activation.forward, activation.sample):
            raise TableError(f"two different activations are called {activation.name!r}")
        listed.setdefault(activation.name, {})
        if everything and None in activation.params.values():
            continue  # nothing to say without params; the listing still names them
        values = check_params(activation.name, activation.params, params)
        for i in range(0, len(std), STDS_OF_A_TASK):
            tasks.append(Task(given, activation, values, std[i : i + STDS_OF_A_TASK]))
    # closed here, so that what is left of the work is cancelled when an error ends it
    with contextlib.closing(_outcomes(tasks, progress, executor)) as outcomes:
        for task, outcome in zip(tasks, outcomes, strict=True):
            if isinstance(outcome, str):
                warnings.warn(
                    f"{task.activation.name!r} is computed here, as it cannot be sent to a worker "
                    f"({outcome}); declare it in a module or a plugin to have it sent",
                    RuntimeWarning,
                    stacklevel=2,
                )
                outcome = _entries(*task[1:])
            for found in outcome:
                if isinstance(found, GainEntry):
                    listed[found.activation][tuple(found.params.items()), found.std] = found
                elif everything or isinstance(found, MomentError):
                    warnings.warn(f"left out of the table: {found}", RuntimeWarning, stacklevel=2)
                else:
                    raise found
    return GainTable(
        {
            name: Listing(a.aliases, dict(a.params), a.width, tuple(listed[name].values()))
            for name, a in known.items()
        }
    )


def _work_of(items: Any) -> Iterator[tuple[Item, Activation, Mapping[str, Any]]]:
    """What the tasks have in common: each activation with each combination of its params."""
    if isinstance(items, (str, Activation)) or not isinstance(items, Iterable):
        items = [items]
    for item in items:
        given, params = with_params(item)
        known, params = as_activation(given, params)
        if isinstance(known, str):
            given = known = host().activation(known)
        for combination in combinations(params):
            yield given, known, combination


def _outcomes(
    tasks: list[Task], progress: Callable[[Sequence[Any]], Iterable[Any]], executor: Executor | None
) -> Generator[Outcome | str]:
    """What comes of each task, in their order; or, as text, why no worker can do it.

    Raises:
        TableError: the executor failed.
    """
    if executor is not None and not isinstance(executor, Executor):
        raise ParameterError(
            "an executor is one of concurrent.futures, such as a ProcessPoolExecutor, or what a "
            f"library makes of one, got {type(executor).__name__}"
        )
    if executor is None:
        for task in progress(tasks):
            yield _entries(*task[1:])
        return
    files = host().files()
    futures: list[Future[Outcome | str] | str] = []
    at = "the start"
    try:
        for task in tasks:
            sent = _pack(task.given)
            futures.append(
                executor.submit(_work, __version__, files, sent, task.params, task.stds)
                if isinstance(sent, bytes)
                else sent
            )
        for task, future in progress(list(zip(tasks, futures, strict=True))):
            at = repr(task.activation.name)
            yield future if isinstance(future, str) else future.result()
    except Exception as error:
        raise TableError(
            f"no table was made: the executor failed at {at} ({reason(error)}); a worker died or "
            "is set up otherwise than this process; try fewer workers, or an executor that retries"
        ) from error
    finally:
        for future in futures:
            if not isinstance(future, str):
                future.cancel()


def _pack(given: Item) -> bytes | str:
    """What is sent to a worker for an activation, or why nothing can be.

    One of a plugin goes by its name: the worker has the plugin, and its functions may be lambdas.
    It is pickled here, not by the executor, so that what does not arrive is no death of a worker.
    """
    for known in host().activations():
        if given is known and host().owner(known.name) != PROGRAM:
            given = known.name
    try:
        return pickle.dumps(given)
    except Exception as error:  # whatever it is that a function holds on to
        return reason(error)


def _work(
    version: str, files: dict[str, str], sent: bytes, params: Mapping[str, float], stds: list[float]
) -> Outcome | str:
    """In a worker: what comes of a task, or why it cannot be done there.

    Raises:
        PluginError: a plugin file does not load there.
        TableError: gainreg or the plugin files are not the same there.
    """
    if version != __version__:
        raise TableError(f"the worker has gainreg {__version__}, expected {version}")
    with _loading:
        if host().files() != files:  # none yet, or those of an earlier build
            reload_plugins()
            for file in files:
                host().load_file(file)
            if host().files() != files:
                raise TableError("the worker has other plugin files, or other versions of them")
    try:
        given = pickle.loads(sent)
    except Exception as error:  # its functions stand in a module that is not there
        return reason(error)
    known, _ = as_activation(given, {})
    return _entries(host().activation(known) if isinstance(known, str) else known, params, stds)


def _entries(activation: Activation, params: Mapping[str, float], stds: list[float]) -> Outcome:
    """What comes of a task. Each std is taken by itself, so that its last digits do not depend on
    which others there are.
    """
    outcome: Outcome = []
    try:
        bound = host().bind(activation, params)
        for std in stds:
            try:
                outcome.append(curve_of(bound, [std])[0])
            except MomentError as error:
                outcome.append(error)
    except GainregError as error:  # its plugin fails: it would say the same at every std
        outcome.append(error)
    return outcome
