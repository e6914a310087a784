"""Nets evaluated with numpy: values, and Taylor series in one variable for the tables. No kernels here.

Layers are those of ``model.Layer``: y = x' + step · φ(x W + b).
"""

import numpy as np

from spinmd.errors import InputError
from spinmd.potentials.deepspin.model import ACTIVATIONS, Layer, Net

RESNET_NONE, RESNET_SAME, RESNET_DOUBLE = 0, 1, 2
_GELU = np.sqrt(2.0 / np.pi)
_CUBE = 0.044715


def resnet_kind(layer: Layer) -> int:
    """0: no shortcut, 1: x is added, 2: (x, x) is added."""
    n_in, n_out = layer.weight.shape
    if not layer.resnet or n_out not in (n_in, 2 * n_in):
        return RESNET_NONE
    return RESNET_SAME if n_out == n_in else RESNET_DOUBLE


def _sigmoid(x):
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def activation_series(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """φ(x), φ'(x), φ''(x). gelu is its tanh form, as in DeePMD-kit. Raises InputError for a name that is not known."""
    if name == "tanh":
        y = np.tanh(x)
        slope = 1.0 - y * y
        return y, slope, -2.0 * y * slope
    if name == "linear":
        return x, np.ones_like(x), np.zeros_like(x)
    if name == "sigmoid":
        y = _sigmoid(x)
        slope = y * (1.0 - y)
        return y, slope, slope * (1.0 - 2.0 * y)
    if name == "softplus":
        y = _sigmoid(x)
        return np.logaddexp(0.0, x), y, y * (1.0 - y)
    if name == "relu":
        return np.maximum(x, 0.0), (x > 0.0).astype(x.dtype), np.zeros_like(x)
    if name == "silu":
        y = _sigmoid(x)
        slope = y * (1.0 - y)
        return x * y, y + x * slope, slope * (2.0 + x * (1.0 - 2.0 * y))
    if name == "gelu":
        y = np.tanh(_GELU * (x + _CUBE * x**3))
        inner, inner_slope = _GELU * (1.0 + 3.0 * _CUBE * x**2), _GELU * 6.0 * _CUBE * x
        slope = (1.0 - y * y) * inner
        curve = (1.0 - y * y) * inner_slope - 2.0 * y * slope * inner
        return 0.5 * x * (1.0 + y), 0.5 * (1.0 + y) + 0.5 * x * slope, slope + 0.5 * x * curve
    raise InputError(f"{name!r} is not an activation that spinmd knows; use one of {', '.join(ACTIVATIONS)}", "model")


def evaluate(net: Net, x: np.ndarray) -> np.ndarray:
    """(P, n_out) values of a net at the rows of ``x`` (P, n_in)."""
    for layer in net:
        z = x @ layer.weight
        if layer.bias is not None:
            z += layer.bias
        y = activation_series(layer.activation, z)[0]
        x = _shortcut(layer, y if layer.step is None else y * layer.step, x)
    return x


def _shortcut(layer: Layer, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    kind = resnet_kind(layer)
    if kind == RESNET_SAME:
        return y + x
    if kind == RESNET_DOUBLE:
        return y + np.concatenate([x, x], axis=-1)
    return y


def series(net: Net, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value, first and second derivative of a net of one variable at the points ``x`` (P,): three arrays (P, n_out)."""
    value, slope, curve = x[:, None], np.ones((len(x), 1)), np.zeros((len(x), 1))
    for layer in net:
        z = value @ layer.weight
        if layer.bias is not None:
            z += layer.bias
        z1, z2 = slope @ layer.weight, curve @ layer.weight
        y, d1, d2 = activation_series(layer.activation, z)
        parts = [y, d1 * z1, d2 * z1 * z1 + d1 * z2]
        if layer.step is not None:
            parts = [part * layer.step for part in parts]
        value, slope, curve = (_shortcut(layer, p, x0) for p, x0 in zip(parts, (value, slope, curve), strict=True))
    return value, slope, curve
