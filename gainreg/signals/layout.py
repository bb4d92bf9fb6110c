"""Which axes of a tensor hold units, positions and samples, followed through reshapes.

An axis is a run of parts, a part is (role, size): after ``x.reshape(samples·tokens, features)`` the
first axis is a run of two. Numbers that are averaged over are counted here,
and known maps over positions summed up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from gainreg.signals.functions import FloatArray

SAMPLE, POSITION, UNIT = "sample", "position", "unit"

Part = tuple[str, int]
Axis = tuple[Part, ...]
Layout = tuple[Axis, ...]


def of_input(shape: Sequence[int], of_many: int = 1) -> Layout:
    """The layout of a model's input: samples first, then positions; the last axis holds units.

    Of four axes or more, the axis ``of_many`` holds units: the second, as in PyTorch's
    convolutions. A weight says later which axis it sums over, so a wrong guess costs nothing but
    the typical pair of positions that ``across_positions`` is measured on.
    """
    if len(shape) < 2:
        return tuple(((UNIT, size),) for size in shape)
    unit = of_many % len(shape) if len(shape) >= 4 else len(shape) - 1
    roles = [
        SAMPLE if axis == 0 else UNIT if axis == unit else POSITION for axis in range(len(shape))
    ]
    return tuple(((role, size),) for role, size in zip(roles, shape, strict=True))


def count(axes: Iterable[Axis]) -> dict[str, int]:
    """How many units, positions and samples the axes run over."""
    sizes = {SAMPLE: 1, POSITION: 1, UNIT: 1}
    for axis in axes:
        for role, size in axis:
            sizes[role] *= size
    return sizes


def size(axis: Axis) -> int:
    """The length of an axis."""
    return math.prod(part for _, part in axis)


def role(axis: Axis) -> str:
    """The role of most of an axis: what a new part of other length inherits."""
    return max(axis, key=lambda part: part[1])[0] if axis else POSITION


def roles(axes: Iterable[Axis]) -> set[str]:
    """All that axes hold."""
    return {role for axis in axes for role, _ in axis}


def resized(axis: Axis, length: int) -> Axis:
    """The axis with another length, in the same role."""
    return axis if size(axis) == length else ((role(axis), length),)


def fitted(layout: Layout, shape: Sequence[int]) -> Layout:
    """The layout with the lengths of ``shape``, axis by axis."""
    return tuple(resized(axis, length) for axis, length in zip(layout, shape, strict=True))


def reshaped(layout: Layout, shape: Sequence[int]) -> Layout:
    """The layout after the same elements, in the same order, took another shape."""
    parts = [part for axis in layout for part in axis if part[1] > 1]
    found: list[Axis] = []
    for length in shape:
        taken: list[Part] = []
        left = length
        while left > 1:
            if not parts:
                taken.append((POSITION, left))
                break
            name, whole = parts.pop(0)
            if left % whole == 0:
                taken.append((name, whole))
                left //= whole
            else:  # the part is split: as much as fits goes here, the rest to the next axis
                common = math.gcd(left, whole)
                taken.append((name, left if common < 2 else common))
                left = 1 if common < 2 else left // common
                if common > 1 and whole > common:
                    parts.insert(0, (name, whole // common))
        found.append(tuple(taken))
    return tuple(found)


def broadcast(layouts: Sequence[Layout], shape: Sequence[int]) -> Layout:
    """The layout of what an operation makes of operands that broadcast against each other."""
    found: list[Axis] = []
    for back in range(len(shape), 0, -1):
        axes = [
            layout[-back]
            for layout in layouts
            if len(layout) >= back and size(layout[-back]) == shape[-back] > 1
        ]
        found.append(axes[0] if axes else ((POSITION, shape[-back]),) if shape[-back] > 1 else ())
    return tuple(found)


def reduced(layout: Layout, axes: Sequence[int], keep: bool) -> tuple[Layout, dict[str, int]]:
    """The layout after axes were averaged over, and how much of each kind these held.

    Args:
        layout: before.
        axes: which, from 0 on.
        keep: whether they stay, of length 1.
    """
    rest = tuple(
        () if i in axes else axis for i, axis in enumerate(layout) if keep or i not in axes
    )
    return rest, count([layout[axis] for axis in axes])


class Taps(NamedTuple):
    """How the taps of a convolution lie along one axis.

    Attributes:
        large, small: numbers of inputs and of outputs.
        kernel, stride, before, dilation: of the convolution; ``before`` is its padding there.
        between: how far apart its inputs lie, more than 1 where it is a transposed one.
    """

    large: int
    small: int
    kernel: int
    stride: int
    before: int
    dilation: int
    between: int = 1

    @property
    def inside(self) -> FloatArray:
        """1 where a tap (a row) of an output (a column) meets an input, else 0."""
        taps, outputs = np.arange(self.kernel)[:, None], np.arange(self.small)
        places = outputs * self.stride + taps * self.dilation - self.before
        meets = (places >= 0) & (places <= (self.large - 1) * self.between)
        found: FloatArray = (meets & (places % self.between == 0)).astype(np.float64)
        return found

    @property
    def own(self) -> FloatArray:
        """At how many outputs a tap meets the input at their own place."""
        meets = np.arange(self.kernel)[:, None] * self.dilation == self.before
        outputs = self.small if self.stride == self.between == 1 else 0
        return np.where(meets, float(outputs), 0.0)

    @property
    def share(self) -> float:
        """Of all taps, the share that meets an input."""
        return float(self.inside.mean())

    @property
    def back(self) -> Taps:
        """The same seen from the inputs."""
        return Taps(
            self.small, self.large, self.kernel, self.between, -self.before, -self.dilation,
            self.stride,
        )  # fmt: skip


def inside(axes: Iterable[Taps]) -> tuple[float, float]:
    """The share of a convolution's taps that meet an input, and of those of one output the share
    that another one has too."""
    share = common = 1.0
    for axis in axes:
        each = axis.inside.mean(1)
        share *= float(each.mean())
        common *= float((each**2).sum() / each.sum()) if each.any() else 1.0
    return share, common


class Mixing(NamedTuple):
    """A known linear map, in sums over its matrix a; that over two axes at once is their product.

    Of units that have a matrix each it holds the averages.

    Attributes:
        squares: Σ a².
        rows, columns: Σ (Σ a)² of the rows, and of the columns.
        whole, total: Σ a and (Σ a)².
        diagonal: Σ a of outputs by inputs at their own places.
        outputs, inputs: how many of each.
    """

    squares: float
    rows: float
    columns: float
    whole: float
    total: float
    diagonal: float
    outputs: float
    inputs: float

    @classmethod
    def of(cls, matrix: FloatArray) -> Mixing:
        """That of a matrix, outputs by inputs, or of several."""
        each = matrix.reshape(-1, *matrix.shape[-2:])
        square = matrix.shape[-2] == matrix.shape[-1]
        own = each.trace(axis1=1, axis2=2) if square else np.zeros(len(each))
        return cls._of(each.sum(2), each.sum(1), (each**2).sum((1, 2)), own)

    @classmethod
    def sliding(cls, kernels: FloatArray, axes: Sequence[Taps]) -> Mixing:
        """That of a convolution of each unit by itself; the first axis of its kernels is the
        units'."""
        if (kernels == kernels[:1]).all():
            kernels = kernels[:1]
        return cls._of(
            _over(kernels, [axis.inside for axis in axes]),
            _over(kernels, [axis.back.inside for axis in axes]),
            _over(kernels**2, [axis.inside.sum(1, keepdims=True) for axis in axes]),
            _over(kernels, [axis.own for axis in axes]),
        )

    @classmethod
    def _of(
        cls, rows: FloatArray, columns: FloatArray, squares: FloatArray, diagonal: FloatArray
    ) -> Mixing:
        n, whole = len(rows), rows.reshape(len(rows), -1).sum(1)
        each = squares, rows**2, columns**2, whole, whole**2, diagonal
        sums = [float(it.sum()) for it in each]
        return cls(*(it / n for it in (*sums, rows.size, columns.size)))

    @classmethod
    def running(cls, n: int, least: int = 1, weights: Sequence[float] = ()) -> Mixing:
        """That of sums of ``least`` elements and more, one more each, times a weight each."""
        factors = [*weights] or [1.0] * n
        numbers = range(least, n + least)
        rows = [k * j for k, j in zip(factors, numbers, strict=True)]
        columns = itertools.accumulate(reversed(factors[1 - least :]))
        squares = sum(k * row for k, row in zip(factors, rows, strict=True))
        twice, down = sum(row**2 for row in rows), sum(column**2 for column in columns)
        whole, own = sum(rows), sum(factors) * (least == 1)
        return cls(squares, twice, down, whole, whole**2, own, n, n)

    @classmethod
    def average(cls, n: float, outputs: int, inputs: int) -> Mixing:
        """That of means over n inputs each, of which each input is in equally many."""
        squares = outputs / n
        columns = max(squares, outputs**2 / inputs)
        return cls(squares, outputs, columns, outputs, outputs**2, squares, outputs, inputs)

    def beside(self, others: float) -> Mixing:
        """The same for each of so many others."""
        return Mixing(*(others * it for it in self))._replace(total=others**2 * self.total)

    def and_(self, other: Mixing) -> Mixing:
        """Both, along two axes."""
        return Mixing(*(a * b for a, b in zip(self, other, strict=True)))

    @property
    def back(self) -> Mixing:
        """The way that gradients go."""
        return self._replace(
            rows=self.columns, columns=self.rows, outputs=self.inputs, inputs=self.outputs
        )

    @property
    def keeps_sign(self) -> bool:
        """Whether its outputs have the sign of its inputs, as where all of a is positive: their
        sums are alike then. Of running sums (Σ a)² is three quarters of what it is of equal ones;
        of differences it is 0, and of random numbers one in the number of outputs."""
        return self.total * 2 > self.rows * self.outputs

    @property
    def one(self) -> tuple[float, float]:
        """What an output has of an input with itself, and of two inputs."""
        return self.squares / self.outputs, (self.rows - self.squares) / self.outputs

    @property
    def two(self) -> tuple[float, float]:
        """The same of two outputs; of a single one, with itself."""
        pairs = self.outputs * (self.outputs - 1)
        if not pairs:
            return self.one
        same = self.columns - self.squares
        return same / pairs, (self.total - self.rows - same) / pairs


def _over(kernels: FloatArray, masks: Iterable[FloatArray]) -> FloatArray:
    """Sums over all taps, one axis after the other."""
    for mask in masks:
        kernels = np.tensordot(kernels, mask, (1, 0))
    return kernels
