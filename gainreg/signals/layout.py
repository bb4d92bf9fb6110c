"""Which axes of a tensor hold units, positions and samples, followed through reshapes.

An axis is a run of parts, a part is (role, size): after ``x.reshape(samples·tokens, features)`` the
first axis is a run of two. Numbers that are averaged over are counted here, nothing is computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

SAMPLE, POSITION, UNIT = "sample", "position", "unit"

Part = tuple[str, int]
Axis = tuple[Part, ...]
Layout = tuple[Axis, ...]


def of_input(shape: Sequence[int], of_many: int = 1) -> Layout:
    """The layout of a model's input: samples first, then positions; the last axis holds units.

    Where there are four axes or more, the axis ``of_many`` holds units, the second as PyTorch's
    convolutions have it. A weight
    says later which axis it sums over, so a wrong guess costs nothing but the typical pair of
    positions that ``across_positions`` is measured on.
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


def taps_inside(
    large: int, small: int, kernel: int, stride: int, padding: int, dilation: int, between: int = 1
) -> list[int]:
    """Of each tap, for how many outputs it meets an input, along one axis.

    Args:
        large, small: numbers of inputs and of outputs.
        kernel, stride, padding, dilation: of the convolution; ``padding`` is that before.
        between: how far apart its inputs lie, more than 1 where it is a transposed one.
    """
    found = []
    for tap in range(kernel):
        offset = tap * dilation - padding  # 0 ≤ i·stride + offset ≤ last, and a multiple of between
        first = max(0, -(offset // stride))
        last = min(small - 1, ((large - 1) * between - offset) // stride)
        if between == 1:
            found.append(max(0, last - first + 1))
        else:
            meets = ((i * stride + offset) % between == 0 for i in range(first, last + 1))
            found.append(sum(meets))
    return found


def inside(axes: Iterable[tuple[Sequence[int], int]]) -> tuple[float, float]:
    """The share of a convolution's taps that meet an input, and of those of one output the share
    that another one has too.

    Args:
        axes: ``taps_inside`` and the number of outputs, of each axis.
    """
    share = common = 1.0
    for taps, outputs in axes:
        total = sum(taps) / outputs
        share *= total / len(taps)
        common *= sum((n / outputs) ** 2 for n in taps) / total if total else 1.0
    return share, common


class Mixing(NamedTuple):
    """A known linear map, in sums over its matrix a; that over two axes at once is their product.

    Attributes:
        squares: Σ a².
        rows, columns: Σ (Σ a)² of the rows, and of the columns.
        whole: Σ a.
        outputs, inputs: how many of each.
    """

    squares: float
    rows: float
    columns: float
    whole: float
    outputs: float
    inputs: float

    @classmethod
    def of(cls, matrix: Any) -> Mixing:
        """That of a matrix, outputs by inputs."""
        rows, columns = matrix.sum(1), matrix.sum(0)
        sums = ((matrix**2).sum(), (rows**2).sum(), (columns**2).sum(), rows.sum())
        return cls(*map(float, sums), *map(float, matrix.shape))

    @classmethod
    def running(cls, n: int, least: int = 1, weights: Sequence[float] = ()) -> Mixing:
        """That of sums of ``least`` elements and more, one more each, times a weight each."""
        factors = [*weights] or [1.0] * n
        numbers = range(least, n + least)
        rows = [k * j for k, j in zip(factors, numbers, strict=True)]
        columns = itertools.accumulate(reversed(factors[1 - least :]))
        squares = sum(k * row for k, row in zip(factors, rows, strict=True))
        twice, down = sum(row**2 for row in rows), sum(column**2 for column in columns)
        return cls(squares, twice, down, sum(rows), n, n)

    def beside(self, others: float) -> Mixing:
        """The same for each of so many others."""
        return Mixing(*(others * it for it in self))

    def and_(self, other: Mixing) -> Mixing:
        """Both, along two axes."""
        return Mixing(*(a * b for a, b in zip(self, other, strict=True)))

    @property
    def back(self) -> Mixing:
        """The way that gradients go."""
        return Mixing(self.squares, self.columns, self.rows, self.whole, self.inputs, self.outputs)

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
        return same / pairs, (self.whole**2 - self.rows - same) / pairs
