"""From a tape and its flow to a plan and to the rows of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from gainreg.signals.flow import Flow
from gainreg.signals.layout import UNIT, count
from gainreg.signals.plan import Plan, PlannedParameter, PlannedWeight
from gainreg.signals.report import SignalReport, WeightReport, tendencies
from gainreg.signals.rules.reductions import inverse_of_squares
from gainreg.signals.state import joined
from gainreg.signals.tape import Node, Tape


class Measured(NamedTuple):
    """What was measured of an operation with a weight: root mean squares."""

    input_rms: float | None = None
    output_rms: float | None = None
    gradient_rms: float | None = None


def plan_of(flow: Flow, options: Mapping[str, Any]) -> Plan:
    """The plan that a flow with aims amounts to."""
    tape = flow.tape
    rows = (_weight(flow, node, Measured()) for node in first_uses(tape))
    weights = tuple(
        PlannedWeight(row.name, row.operation, row.fan_in, row.weight_std, row.fed_by)
        for row in rows
        if row.name in flow.variances
    )
    stds = {weight.name: weight.std for weight in weights}
    stds |= {name: math.sqrt(variance) for name, variance in flow.biases.items()}
    shapes = {name: parameter.shape for name, parameter in tape.parameters.items()}
    listed = {
        name: PlannedParameter(shapes[tape.aliases.get(name, name)], status, reason, stds.get(name))
        for name, (status, reason) in _accounts(flow).items()
    }
    return Plan(weights, listed, dict(options), tuple(_warnings(flow)))


def report_of(flow: Flow, measured: Mapping[Node, Measured]) -> SignalReport:
    """The report of a flow, with what was measured by node."""
    weights = tuple(
        replace(_weight(flow, node, measured.get(node, Measured())), stream=stream, stream_rms=rms)
        for node, (stream, rms) in _streams(flow).items()
    )
    warnings = tuple(dict.fromkeys([*_warnings(flow), *tendencies(weights)]))
    return SignalReport(weights, _accounts(flow), warnings)


def first_uses(tape: Tape) -> list[Node]:
    """The first operation with each weight, in order."""
    found: dict[str, Node] = {}
    for node in tape.nodes:
        if node.weighs and node.weight:
            found.setdefault(node.weight, node)
    return list(found.values())


def _streams(flow: Flow) -> dict[Node, tuple[int, float | None]]:
    """Of each weight's first use, in order: the residual stream whose branch it is on, numbered
    from 1, and the rms of that stream behind the sum; (0, None) if it is on none."""
    found: dict[Node, tuple[int, float | None]] = {}
    numbers: dict[Node, int] = {}
    inward = sorted(flow.residuals.values(), key=lambda residual: residual.inside.bit_count())
    for node in first_uses(flow.tape):
        residual = next((it for it in inward if it.inside >> node.id & 1), None)
        if residual is None:
            found[node] = 0, None
        else:
            residual = flow.ends[residual.last[0]]
            number = numbers.setdefault(residual.start, len(numbers) + 1)
            found[node] = number, math.sqrt(flow.states[residual.node].q)
    return found


def _weight(flow: Flow, node: Node, measured: Measured) -> WeightReport:
    state = flow.states[node]
    fed = flow.states[node.inputs[0]] if node.inputs else state
    variance = flow.variances.get(node.weight, node.variance)
    if variance is None:
        variance = flow.tape.parameters[node.weight].square or 0.0
    m = state.moments
    stray = state.noise + 2 / max(1, count(node.layout)[UNIT])
    return WeightReport(
        name=node.weight,
        operation=str(node.facts.get("operation", node.rule)),
        fan_in=float(node.facts.get("fan_in", 1) * node.facts.get("taps", 1.0)),
        weight_std=math.sqrt(variance),
        fed_by=fed.phrase if node.inputs else "tokens",
        input_rms=math.sqrt(fed.q),
        output_rms=math.sqrt(state.q),
        gradient_rms=math.sqrt(flow.gradients[node].g * _by_units(flow, node)),
        spread=math.sqrt(stray) / 2,
        elements=node.size,
        correlation=m.across_samples / m.second_moment if m.second_moment else 0.0,
        exact=state.exact,
        note=joined(state.note, flow.notes.get(node, "")),
        gradient_note=flow.gradients[node].note,
        measured_input_rms=measured.input_rms,
        measured_output_rms=measured.output_rms,
        measured_gradient_rms=measured.gradient_rms,
    )


def _by_units(flow: Flow, node: Node) -> float:
    """How much larger the gradient by a weight's outputs is where a batch norm follows, which
    divides each unit by its own variance: a sum of fan_in squares, and of as many inputs' own,
    which the γ of a norm before makes differ. Further back the same numbers make up for it."""
    for later in flow.tape.nodes[node.id + 1 :]:
        source = later.inputs[0] if later.inputs else later
        while source.rule == "view":
            source = source.inputs[0]
        if later.rule == "normalise" and source is node:
            if later.facts["units"] > 1 or later.facts["samples"] == 1:
                return 1.0
            fan_in = node.facts.get("fan_in", math.inf) * node.facts.get("taps", 1.0)
            units = count(later.layout)[UNIT]
            inputs = node.facts.get("units", math.inf) * _alike(node.inputs[0])
            least = later.facts["epsilon"] / max(flow.states[node].moments.variance, 1e-300)
            found = (inverse_of_squares(n, units, least) for n in (fan_in, inputs))
            return math.prod(found)
    return 1.0


def _alike(node: Node) -> float:
    """Of how many squares a unit's mean square would be a sum, to differ as much as they do by the
    γ of the norm that they come from: 1 for Gaussian γ of mean 0, infinitely many for equal ones.
    """
    while node.rule in ("view", "elementwise", "dropout") and len(node.inputs) == 1:
        node = node.inputs[0]
    if node.rule != "normalise":
        return math.inf
    square, mean = node.facts["square"], node.facts["scale"] ** 2
    stray = 2 * (square - mean) ** 2 + 4 * mean * (square - mean)
    return float(2 * square**2 / stray) if stray > 1e-12 * square**2 else math.inf


def _accounts(flow: Flow) -> dict[str, tuple[str, str]]:
    """Status and reason of every parameter."""
    tape = flow.tape
    firsts = {node.weight: node for node in first_uses(tape)}
    tables = {node.weight for node in tape.nodes if node.rule == "embedding"}
    heads = {node.weight for node in tape.nodes if node.rule == "linear"} & tables
    biases = {node.bias: node.weight for node in tape.nodes if node.bias}
    ends = {node.weight: residual for node, residual in flow.ends.items()}
    found: dict[str, tuple[str, str]] = {}
    for name in tape.parameters:
        node = firsts.get(name)
        if flow.aims is None and (node is not None or name in biases):
            found[name] = "kept", tape.kept.get(name, "measured as it is")
        elif name in heads:
            found[name] = "set", "a table that is also the output's weight: what the output needs"
        elif node is not None and node.rule == "embedding":
            found[name] = "set", "embedding table: std 1"
        elif node is not None and name in flow.variances:
            residual = ends.get(name)
            if not flow.stopped.isdisjoint(node.inputs[:1]):
                found[name] = (
                    "set",
                    "a parameter or a constant of 0 lets nothing through to it: set as for a "
                    "second moment of 1",
                )
            elif residual is not None and not residual.normed and flow.aims is not None:
                if flow.aims.residual is None:
                    found[name] = "set", "last weight of a residual branch, which aims at 1"
                else:
                    found[name] = (
                        "set",
                        f"last weight of one of {residual.length} residual branches that together "
                        f"add {flow.aims.residual:g} times what their stream begins with",
                    )
            elif node in flow.endings:
                found[name] = "set", "output weight: the output's std"
            else:
                found[name] = "set", "its output keeps second moment 1"
        elif name in flow.biases:
            found[name] = "set", f"critical bias of {biases[name]}"
        elif name in biases:
            found[name] = "zeroed", f"bias of {biases[name]}"
        elif name in tape.kept:
            found[name] = "kept", tape.kept[name]
        else:
            found[name] = "unreached", "no signal met it on the way to the output"
    for alias, name in tape.aliases.items():
        found[alias] = "tied", f"the same as {name}"
    return found


def _warnings(flow: Flow) -> list[str]:
    found = list(flow.tape.warnings)
    for residual in flow.residuals.values():
        if residual.normed:
            found.append(
                "residual branches end in a norm, whose scale is kept: each adds as much as the "
                "norm gives, so the stream grows with every block"
            )
            break
    return found
