"""The signal through a tape: forward states with each weight as it is or as it will be set, then
gradients back."""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

import gainreg
from gainreg.errors import MomentError
from gainreg.signals import gradients, interpolations, norms, rules, streams
from gainreg.signals.functions import Function, named
from gainreg.signals.gradients import NOTHING, Gradient
from gainreg.signals.layout import SAMPLE, count
from gainreg.signals.relations import ROUNDING, among, product_of, ultimate
from gainreg.signals.rules.step import part
from gainreg.signals.state import LARGEST, SMALLEST, Moments, Source, State, fresh, joined
from gainreg.signals.streams import Residual
from gainreg.signals.tape import Node, Tape, Use

# A weight's target is found to this, relative: as many digits as the moments have.
ENOUGH = 1e-12

REUSED = "a weight that is used more than once"


@dataclass
class Aims:
    """What the weights are set for.

    Attributes:
        residual: what all branches of a stream together add, of its second moment; None for 1 a
            branch.
        output_std: standard deviation of the model's output.
        critical: set weights by the backward gain of what feeds them, and biases so that the
            forward variance is kept, where the activation has such a point.
    """

    residual: float | None = 1.0
    output_std: float = 1.0
    critical: bool = False


class Flow:
    """States and gradients of every node of a tape.

    Args:
        tape: what the model did.
        aims: what the weights are to be set for; None to take them as they are.
    """

    def __init__(self, tape: Tape, aims: Aims | None) -> None:
        norms.recognise(tape)
        interpolations.write_as_sums(tape)
        self.tape = tape
        self.aims = aims
        self.residuals = streams.residuals(tape)
        self.endings = streams.endings(tape)
        self.states: dict[Node, State] = {}
        self.steps: dict[Node, rules.Step] = {}
        self.variances: dict[str, float] = {}
        self.biases: dict[str, float] = {}
        self.targets: dict[Node, float] = {}
        self.notes: dict[Node, str] = {}
        self.stopped: set[Node] = set()  # signals that are 0 since a kept parameter or constant is
        self.fed: set[Node] = set()  # signals that depend on any of the model's inputs
        # where a stream has parts, as class tokens and patches, its largest one counts
        sums = sorted(self.residuals.values(), key=lambda residual: residual.node.size)
        self.ends = {node: residual for residual in sums for node in residual.last}
        self._solving: set[Residual] = set()
        uses = Counter(name for node in tape.nodes if node.use for name in node.use.names)
        self._uses: dict[str, list[tuple[Use, Node]]] = {
            name: [] for name, n in uses.items() if n > 1
        }
        self._reused: set[Node] = set()  # where weights meet signals that depend on each other
        if aims is not None:
            self._tie()
        for node in tape.nodes:
            self.state(node)
        self.gradients = self._backward()

    # --- forward ---

    def state(self, node: Node) -> State:
        """The state of a node's output."""
        if node not in self.states:
            for parent in node.inputs:
                self.state(parent)
            inputs = [self.states[parent] for parent in node.inputs]
            try:
                with np.errstate(all="ignore"):  # what is not finite is said in a sentence
                    step = self._step(node, inputs)
                    step = step._replace(state=self._met_before(node, inputs, step.state))
                q = step.state.q
            except OverflowError:
                q = math.inf
            if not q < LARGEST and not all(state.exact for state in inputs):
                # an approximation that got lost is no evidence that the signal does
                self.tape.warn(
                    f"the size behind step {node.id}, {node.rule}, fed by {inputs[0].phrase}, "
                    "could not be predicted: it counts as 1 from there on"
                )
                lost = fresh(node.id, Moments(0.0, 1.0, 0.0, 0.0)).but("a size that was lost")
                step, q = rules.Step(lost, tuple(rules.back(1.0) for _ in inputs)), 1.0
            if not q < LARGEST:
                fed = f", fed by {inputs[0].phrase}" if inputs else ""
                last = next((n for n in self.tape.nodes[node.id :: -1] if n.weight), None)
                where = f", after the weight {last.weight!r}" if last else ""
                raise MomentError(
                    f"the signal behind step {node.id}, {node.rule}{fed}{where}, has a second "
                    f"moment of {q:.3g}, which is not finite in single precision; look for what "
                    "makes it grow, or is undefined, on the way, or give other example inputs"
                )
            self.states[node] = step.state
            self.steps[node] = step
            if streams.is_data(node) or not self.fed.isdisjoint(node.inputs):
                self.fed.add(node)
            if q == 0:
                by_parameter = node.rule in ("linear", "normalise", "scale") and inputs[0].q > 0
                given = node.rule == "given" and node.facts["phrase"] != "data"
                if by_parameter or given or not self.stopped.isdisjoint(node.inputs):
                    self.stopped.add(node)
        return self.states[node]

    def _met_before(self, node: Node, inputs: list[State], y: State) -> State:
        """The output of a weight that was used before, or an input beside others, as far as it
        depends on theirs.

        A weight is the same linear map each time: E[y·y′] = gain·E[x·x′], also where x depends on
        y′ (Yang 2019, arXiv:1910.12478).
        """
        if node.rule == "given":
            measured = self.tape.products.get(node, {}).items()
            return among(y, [(self.states[it], by) for it, by in measured if it in self.states])
        use = node.use
        uses = self._uses.get(use.names[0]) if use and use.names else None
        if use is None or uses is None:
            return y
        x, bias = inputs[0], self._bias(node, inputs)
        gain, known, lost = part(y.q - bias, x.q), [], False
        whole = gain > 0 and len(y.root.terms) == 1 and y.function.core is None
        for earlier, other in uses:
            if use.start != earlier.start:
                continue
            fed, made = self.states[other.inputs[0]], self.states[other]
            met = bool(self._before[node.inputs[0].id] & self._before[other.inputs[0].id])
            mean, size = x.moments.mean * fed.moments.mean, math.sqrt(x.q * fed.q)
            product = product_of(x, fed)
            unclear = met and (use != earlier or not whole or _hidden(x) != _hidden(fed))
            if unclear or abs(product - mean) > ROUNDING * size:
                self._reused |= {node, other}
            if use == earlier and whole:
                gains = math.sqrt(max(0.0, gain * part(made.q - bias, fed.q)))
                known.append((made, gains * product + bias))
            lost = lost or unclear
        uses.append((use, node))
        y = among(y, known)
        return y.but(REUSED) if lost else y

    @functools.cached_property
    def _before(self) -> list[int]:
        """Of each node, the steps that it depends on, as bits; parameters and constants, which all
        may depend on, are none."""
        nodes = self.tape.nodes
        shared = sum(1 << it.id for it in nodes if it.rule == "given" and not streams.is_data(it))
        return [bits & ~shared for bits in streams.ancestors(self.tape)[0]]

    def _step(self, node: Node, inputs: list[State], target: float | None = None) -> rules.Step:
        if not node.weighs:
            if node.moments is not None:
                return rules.at("given", node, inputs, {"moments": node.moments, "phrase": "data"})
            return rules.at(node.rule, node, inputs, node.facts)
        if node.rule == "embedding":
            return rules.embedding(node, variance=self._table(node), **node.facts)
        gain = node.facts["fan_in"] * node.facts["taps"]
        x, bias = inputs[0], self._bias(node, inputs)
        known = self.variances.get(node.weight, node.variance)
        if known is None and self.aims is None:
            known = self.tape.parameters[node.weight].square
        if target is None and known is not None:
            return rules.linear(node, x, bias=bias, variance=known, **node.facts)
        q = x.q * x.averaged
        if target is None:
            target = self._target(node)
            fed = node not in self.endings or node.inputs[0] in self.fed
            if q == 0 and fed and node.inputs[0] in self.stopped:
                self.targets[node] = target
                self.variances[node.weight] = target / gain
                return rules.linear(node, x, variance=target / gain, **node.facts)
            if q < SMALLEST:
                size = f"zero or nearly so, {q:.3g}"
                raise MomentError(
                    f"the weight {node.weight!r} cannot be set: the signal that feeds it, "
                    f"{x.phrase}, has a second moment that is {size}; look for what "
                    "stops it on the way, or give other example inputs"
                )
            self.targets[node] = target
            bias = self._critical_bias(node, x, target)
            target -= bias
            self.variances[node.weight] = target / (gain * q)
            target /= x.averaged
        variance = target / (gain * x.q) if x.q else 0.0
        return rules.linear(node, x, bias=bias, variance=variance, target=target, **node.facts)

    def _bias(self, node: Node, inputs: list[State]) -> float:
        """Mean square of a weight's biases."""
        if node.bias and self.aims is not None:
            return self.biases.get(node.bias, 0.0)
        return inputs[1].q if len(inputs) > 1 else 0.0

    def _critical_bias(self, node: Node, x: State, target: float) -> float:
        """The variance of a weight's biases: what the backward gain leaves of the target."""
        if self.aims is None or not self.aims.critical or not node.bias:
            return 0.0
        if x.function.core is None or node in self.ends or node in self.endings:
            return 0.0
        kept = x.root.moments.variance * x.profile.slope  # of the gradient, by the forward gain
        if not kept > x.q:
            return 0.0
        self.biases[node.bias] = target * (1 - x.q / kept)
        return self.biases[node.bias]

    def _table(self, node: Node) -> float:
        if node.weight in self.variances:
            return self.variances[node.weight]
        square = self.tape.parameters[node.weight].square if node.weight else node.variance
        if self.aims is None or not node.weight:
            return 1.0 if square is None else square
        self.variances[node.weight] = 1.0
        return 1.0

    # --- targets ---

    def _target(self, node: Node) -> float:
        assert self.aims is not None
        residual = self.ends.get(node)
        if residual is not None and self.aims.residual is not None:
            if residual in self._solving:
                return 1.0
            return self._branch_target(residual)
        if node in self.endings:
            return self.aims.output_std**2
        return self._critical_variance(node) if self.aims.critical else 1.0

    def _critical_variance(self, node: Node) -> float:
        """The variance at which what follows a weight is critical, however it is spelt, if it is at
        one above 0, and the weight behind that has the bias that it takes."""
        later = self.tape.nodes[node.id + 1 :]
        alone = {node: fresh(node.id, Moments(0.0, 1.0, 0.0, 0.0))}
        for follower in later:
            if follower.rule == "portion" and node in follower.inputs:
                alone[follower] = alone[node]
            if follower.rule not in ("elementwise", "add", "multiply"):
                continue
            if not all(parent in alone for parent in follower.inputs):
                continue
            inputs = [alone[parent] for parent in follower.inputs]
            alone[follower] = rules.at(follower.rule, follower, inputs, follower.facts).state
            f = alone[follower].function
            known = named(f.core) if f.core is not None and f == Function(core=f.core) else None
            biased = all(it.bias for it in later if it.weighs and follower in it.inputs)
            if known is not None and biased:
                point = gainreg.critical(known[0], **known[1])
                if point.kind == "half_stable" and point.std is not None:
                    return point.std**2
        return 1.0

    def _branch_target(self, residual: Residual) -> float:
        """What the last weights of a branch aim at, so that ``residual`` arrives at the sum."""
        known = [self.targets[node] for node in residual.last if node in self.targets]
        if known:
            return known[0]
        if residual.normed:
            self.notes[residual.last[0]] = (
                "its branch ends in a norm, whose scale decides what arrives at the residual sum"
            )
            return 1.0
        self._solving.add(residual)
        try:
            start = self.state(residual.start).q
            for node in residual.last:
                self.state(node.inputs[0])
            return self._solve(residual, self.aims.residual * start)  # type: ignore[union-attr,operator]
        finally:
            self._solving.discard(residual)

    def _solve(self, residual: Residual, wanted: float) -> float:
        """The target t for which L branches add up to what is wanted, by the secant rule in ln t:
        one step where the tail is linear."""
        length = residual.length
        if not wanted:
            self.notes[residual.last[0]] = "its residual stream begins with 0"
            return 1.0
        points: list[tuple[float, float]] = []
        target = wanted / length
        for _ in range(40):
            arrived = self._arriving(residual, target)
            whole = length * arrived.moments.variance + (length * arrived.moments.mean) ** 2
            if not (0 < whole < math.inf):
                self.notes[residual.last[0]] = "nothing of its branch arrives at the residual sum"
                return 1.0
            miss = math.log(whole / wanted)
            if abs(miss) < ENOUGH:
                return target
            points = [*points[-1:], (math.log(target), miss)]
            slope = 1.0
            if len(points) == 2 and points[1][0] != points[0][0]:
                slope = (points[1][1] - points[0][1]) / (points[1][0] - points[0][0])
                slope = min(4.0, max(0.25, slope))
            if abs(miss / slope) < 4 * ENOUGH:
                return target
            target *= math.exp(-miss / slope)
            if target < SMALLEST:
                self.notes[residual.last[0]] = "its branch is larger than it should be without it"
                return 1.0
        return target

    def _arriving(self, residual: Residual, target: float) -> State:
        """What arrives at the sum when the branch's last weights aim at ``target``.

        A learned scale counts as 1: where its author starts it small, the branch is to be small.
        """
        trial: dict[Node, State] = {}
        for node in residual.last:
            trial[node] = self._step(node, [self.state(node.inputs[0])], target).state
        for node in residual.tail:
            inputs = [trial[p] if p in trial else self.state(p) for p in node.inputs]
            if node.rule == "scale" and node.weight:
                trial[node] = inputs[0]
            else:
                trial[node] = rules.at(node.rule, node, inputs, node.facts).state
        return trial[residual.branch]

    def _tie(self) -> None:
        """Tables that are also output weights: what the output needs, found by going through the
        model twice, since what feeds the output may depend on the table."""
        tables = {node.weight for node in self.tape.nodes if node.rule == "embedding"}
        heads = [
            node for node in self.tape.nodes if node.rule == "linear" and node.weight in tables
        ]
        if not heads:
            return
        for _ in range(2):
            for node in self.tape.nodes:
                self.state(node)
            tied = {}
            for head in heads:
                gain = head.facts["fan_in"] * head.facts["taps"]
                tied[head.weight] = self._target(head) / (gain * self.states[head.inputs[0]].q)
            self.states.clear()
            self._reused.clear()
            for uses in self._uses.values():
                uses.clear()
            self.targets.clear()
            self.biases.clear()
            self.variances = tied.copy()

    # --- backward ---

    def _backward(self) -> dict[Node, Gradient]:
        """Gradients by each node's root, the mean square of that by the model's output being 1.

        A node whose output is a function of an earlier node's root passes its gradient to that.
        """
        at = dict.fromkeys(self.tape.nodes, NOTHING)
        at_root = [NOTHING] * len(self.tape.nodes)
        for node in self.tape.outputs:
            of_sample = node.size / count(node.layout)[SAMPLE]
            whole = of_sample * self.states[node].q
            at[node] = at[node].plus(Gradient(1.0, 0.0, w=whole, note=self.states[node].note))
        for node in reversed(self.tape.nodes):
            state = self.states[node]
            if at[node] != NOTHING:
                i = state.root.node
                at_root[i] = at_root[i].plus(gradients.by_root(state, at[node]))
            here = at_root[node.id]
            if here == NOTHING:
                continue
            if node in self._reused:  # what comes back by its uses may depend on each other too
                here = at_root[node.id] = here._replace(note=joined(here.note, REUSED))
            step = self.steps[node]
            for parent, factor in zip(node.inputs, step.back, strict=False):
                passed = here.times(factor, step.note)
                if step.to_roots:
                    i = self.states[parent].root.node
                    at_root[i] = at_root[i].plus(passed)
                else:
                    at[parent] = at[parent].plus(passed)
        return {node: at_root[node.id] for node in self.tape.nodes}


def _hidden(x: State) -> set[Source]:
    """What a state depends on that is a function of no Gaussian that is known."""
    return {source for source in ultimate(x) if not source.gaussian}
