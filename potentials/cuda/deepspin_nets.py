"""Nets on the GPU: matrix products by torch on the arrays that kernels fill and read, activations by a kernel. Rows are atoms.

    z = x W + b,   x' = shortcut(x) + step · φ(z),   and back:   ∂E/∂z = ∂E/∂x' · step φ'(z),   ∂E/∂x = ∂E/∂z Wᵀ + shortcut

Everything is on the stream of the run and in buffers that are made once, for a block of atoms. Products are in the precision of the
buffers; TF32 is off unless asked for (``deepspin``).
"""

import math

import numpy as np
import torch
from numba import cuda

from spinmd.cuda.arrays import DeviceArray, on_device, zeros
from spinmd.cuda.launch import Kernel, array, i8, in_both, kernel
from spinmd.potentials.deepspin.fitting import TANH, activation_law
from spinmd.potentials.deepspin.model import ACTIVATIONS, Net
from spinmd.potentials.deepspin.nets import resnet_kind


def in_both_precisions(make) -> dict[str, Kernel]:
    """{"float64": kernel, "float32": kernel} of ``make(real)``, which returns a function and its signature."""

    def one(real) -> Kernel:
        function, signature = make(real)
        return kernel(*signature)(function)

    return in_both(one, short="float32")


def _activate(real):
    def activate(rows, code, copies, inputs, steps, x, z, out):
        """z becomes step · φ'(z), out = step · φ(z) + the shortcut: ``copies`` of the first ``inputs`` numbers of x side
        by side. One thread per number."""
        t = cuda.grid(1)
        width = steps.shape[0]
        r, o = t // width, t % width
        if r < rows:
            if code == TANH:
                y = real(math.tanh(z[r, o]))
                slope = real(1.0) - y * y
            else:
                value, derivative = activation_law(code, float(z[r, o]))
                y, slope = real(value), real(derivative)
            y *= steps[o]
            if copies > 0:
                y += x[r, o % inputs]
            z[r, o] = slope * steps[o]
            out[r, o] = y

    return activate, (i8, i8, i8, i8, array(real, 1), array(real, 2), array(real, 2), array(real, 2))


def _shortcut(real):
    def shortcut(rows, copies, later, earlier):
        """∂E/∂x of a layer's input gets what goes past the layer. One thread per number."""
        t = cuda.grid(1)
        width = earlier.shape[1]
        r, m = t // width, t % width
        if r < rows:
            for copy in range(copies):
                earlier[r, m] += later[r, copy * width + m]

    return shortcut, (i8, i8, array(real, 2), array(real, 2))


ACTIVATE, SHORTCUT = in_both_precisions(_activate), in_both_precisions(_shortcut)


class DeviceNet:
    """A net from n_in numbers to an energy, for up to ``rows`` atoms at a time.

    input   (rows, n_in or more), filled by the caller before ``forward``: of an array that is ``given`` the first n_in columns
    energies (rows, 1) after ``forward``
    slopes  (rows, n_in) ∂E/∂input after ``backward``, with the first n_in of the numbers ``added`` if there are such
    """

    def __init__(
        self, net: Net, rows: int, precision: str, given: DeviceArray | None = None, added: DeviceArray | None = None
    ):
        self._precision, self._added = precision, added
        dtype = np.dtype(precision)
        self.input = zeros((rows, net[0].weight.shape[0]), precision) if given is None else given
        self._layers, self._x, self._z = [], [self.input], []
        for layer in net:
            n_out = layer.weight.shape[1]
            bias = np.zeros(n_out) if layer.bias is None else layer.bias
            step = np.ones(n_out) if layer.step is None else layer.step
            weight, bias, step = (on_device(np.asarray(part, dtype)) for part in (layer.weight, bias, step))
            self._layers.append((weight, bias, step, ACTIVATIONS.index(layer.activation), resnet_kind(layer)))
            self._z.append(zeros((rows, n_out), precision))
            self._x.append(zeros((rows, n_out), precision))
        self._slopes = [zeros((rows, weight.shape[0]), precision) for weight, *_ in self._layers] + [
            zeros((rows, 1), precision)
        ]

    @property
    def energies(self) -> DeviceArray:
        return self._x[-1]

    @property
    def slopes(self) -> DeviceArray:
        return self._slopes[0]

    @staticmethod
    def numbers_per_row(net: Net) -> int:
        """Numbers that the buffers hold per atom."""
        return 2 * net[0].weight.shape[0] + sum(3 * layer.weight.shape[1] for layer in net)

    def forward(self, rows: int) -> None:
        """Energies of the first ``rows`` rows."""
        for (weight, bias, step, code, copies), x, z, after in zip(
            self._layers, self._x[:-1], self._z, self._x[1:], strict=True
        ):
            n_in = weight.shape[0]
            torch.addmm(bias.tensor, x.tensor[:rows, :n_in], weight.tensor, out=z.tensor[:rows])
            ACTIVATE[self._precision](rows * z.shape[1], rows, code, copies, n_in, step, x, z, after)

    def backward(self, rows: int) -> None:
        """∂E/∂input of the rows of the last ``forward``."""
        self._slopes[-1].tensor[:rows].fill_(1.0)
        for k in range(len(self._layers) - 1, -1, -1):
            weight, _, _, _, copies = self._layers[k]
            later, earlier, z = self._slopes[k + 1], self._slopes[k], self._z[k]
            z.tensor[:rows].mul_(later.tensor[:rows])
            if k == 0 and self._added is not None:
                n_in = weight.shape[0]
                torch.addmm(self._added.tensor[:n_in], z.tensor[:rows], weight.tensor.T, out=earlier.tensor[:rows])
            else:
                torch.mm(z.tensor[:rows], weight.tensor.T, out=earlier.tensor[:rows])
            if copies > 0:
                SHORTCUT[self._precision](rows * earlier.shape[1], rows, copies, later, earlier)
