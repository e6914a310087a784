"""Whether a DeepSPIN model is whole and consistent: every array's shape, type and values against the architecture.

Called after every reading and before every writing, so that nothing that evaluates a model has to ask again.
"""

from typing import NoReturn

import numpy as np

from spinmd.errors import InputError
from spinmd.potentials.deepspin.model import ACTIVATIONS, DeepSpinModel, Layer, Net, Network

PRECISIONS = ("float64", "float32")
TOLERANCE = 1.0e-12  # for statistics that are equal by construction but may have been averaged in another order


class _Check:
    """The checks of one model; each raises InputError at ``place`` with the path of the part that is wrong."""

    def __init__(self, place: str):
        self.place = place

    def fail(self, what: str) -> NoReturn:
        raise InputError(f"{what}; the model file is damaged or was not written by spinmd: make it again", self.place)

    def array(self, value, shape: tuple[int, ...], name: str, *, positive: bool = False, infinite: bool = False):
        if not isinstance(value, np.ndarray):
            self.fail(f"{name} is missing")
        if value.dtype not in (np.float64, np.float32):
            self.fail(f"{name} has numbers of type {value.dtype}, expected float64 or float32")
        if value.shape != shape:
            self.fail(f"{name} has shape {value.shape}, expected {shape}")
        if np.isnan(value).any() or (not infinite and np.isinf(value).any()):
            self.fail(f"{name} holds values that are not finite numbers")
        if positive and (value <= 0.0).any():
            self.fail(f"{name} must be positive")

    def net(self, net: Net, n_in: int, n_out: int, name: str) -> None:
        if not net:
            self.fail(f"{name} has no layers")
        width = n_in
        for k, layer in enumerate(net):
            width = self.layer(layer, width, f"{name} layer {k}")
        if width != n_out:
            self.fail(f"{name} ends with width {width}, expected {n_out}")

    def layer(self, layer: Layer, width: int, name: str) -> int:
        weight = layer.weight
        if not isinstance(weight, np.ndarray) or weight.ndim != 2:
            self.fail(f"{name}: weight is missing or not a matrix")
        if weight.shape[0] != width:
            self.fail(f"{name}: weight has {weight.shape[0]} rows, but what comes in has width {width}")
        if weight.shape[1] < 1:
            self.fail(f"{name}: weight has no columns")
        self.array(weight, weight.shape, f"{name}: weight")
        if layer.bias is not None:
            self.array(layer.bias, (weight.shape[1],), f"{name}: bias")
        if layer.step is not None:
            self.array(layer.step, (weight.shape[1],), f"{name}: step")
        if layer.activation not in ACTIVATIONS:
            self.fail(f"{name}: {layer.activation!r} is not an activation function; known are {', '.join(ACTIVATIONS)}")
        return weight.shape[1]

    def number(self, value, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
            self.fail(f"{name} must be a finite number, got {value!r}")
        return float(value)

    def network(self, network: Network, n: int, magnetic: np.ndarray) -> None:
        cutoff = self.number(network.cutoff, "cutoff")
        smooth = self.number(network.cutoff_smooth, "cutoff_smooth")
        if not 0.0 <= smooth < cutoff:
            self.fail(f"cutoff_smooth must lie between 0 and the cutoff {cutoff}, got {smooth}")
        protection = self.number(network.protection, "protection")
        if protection < 0.0 or (protection == 0.0 and magnetic.any()):
            self.fail(f"protection must be positive, or a vanishing spin would divide by zero; got {protection}")
        if network.precision not in PRECISIONS:
            self.fail(f"precision must be float64 or float32, got {network.precision!r}")
        sel = np.asarray(network.sel)
        if sel.shape != (n,) or sel.dtype.kind not in "iu" or (sel < 1).any():
            self.fail(f"sel must be {n} positive integers, got {sel.tolist()}")
        self.array(network.mean, (n, 4), "mean")
        self.array(network.std, (n, 4), "std", positive=True)
        if np.abs(network.mean[:, 1:]).max() > 0.0:
            self.fail("the mean of the directions (columns 1 to 3) must be zero")
        if np.abs(network.std[:, 2:] - network.std[:, 1:2]).max() > TOLERANCE * np.abs(network.std).max():
            self.fail("the std of the directions (columns 1 to 3) must be one number per element")
        self.embedding(network, n, magnetic)
        width = network.width
        axis = network.axis
        if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)) or not 1 <= axis <= width:
            self.fail(f"axis must be an integer from 1 to the width {width} of the embedding nets, got {axis!r}")
        if not isinstance(network.fitting, list) or len(network.fitting) != n:
            self.fail(f"there must be {n} fitting nets, one per element, found {len(network.fitting)}")
        for c, net in enumerate(network.fitting):
            self.net(net, width * int(axis), 1, f"fitting net {c}")

    def invariants(self, model: DeepSpinModel, n: int) -> None:
        from spinmd.potentials.deepspin.prior import invariant_count  # here: a model without a prior does not need it

        if model.prior is None:
            self.fail("there are nets over the invariants of a prior, but no prior")
        if not isinstance(model.invariants, list) or len(model.invariants) != n:
            self.fail(f"there must be {n} nets over invariants, one per element")
        for c, net in enumerate(model.invariants):
            self.net(net, invariant_count(model.prior, c), 1, f"invariants net {c}")

    def embedding(self, network: Network, n: int, magnetic: np.ndarray) -> None:
        if not network.embedding:
            self.fail("there are no embedding nets")
        width = None
        for kind, nets in (("embedding", network.embedding), ("silent embedding", network.silent)):
            for (t, c), net in nets.items():
                name = f"{kind} net ({t}, {c})"
                if not (0 <= t < 2 * n and 0 <= c < n):
                    self.fail(f"{name} is for types that do not exist")
                if not net or not isinstance(net[-1].weight, np.ndarray) or net[-1].weight.ndim != 2:
                    self.fail(f"{name} has no last layer")
                width = net[-1].weight.shape[1] if width is None else width
                self.net(net, 1, width, name)
        for t, c in network.embedding:
            if t >= n and not magnetic[t - n]:
                self.fail(f"embedding net ({t}, {c}) is for the virtual atom of a non-magnetic element")
        both = sorted(set(network.embedding) & set(network.silent))
        if both:
            self.fail(f"the pair {both[0]} has a net both in embedding and in silent")


def check_model(model: DeepSpinModel, place: str = "model") -> None:
    """Raise InputError, at ``place``, unless the model is whole and consistent.

    Checked are shapes (widths of layers follow each other, the fitting nets take M·axis), types (float64 or float32),
    finite values, axis <= M, sel > 0, 0 <= cutoff_smooth < cutoff, std > 0, virtual scales of the magnetic elements.
    """
    check = _Check(place)
    n = len(model.elements)
    if n == 0 or not all(isinstance(symbol, str) and symbol for symbol in model.elements):
        check.fail("elements must be names")
    if len(set(model.elements)) != n:
        check.fail(f"an element is named twice: {', '.join(model.elements)}")
    if not isinstance(model.magnetic, np.ndarray) or model.magnetic.shape != (n,) or model.magnetic.dtype != bool:
        check.fail(f"magnetic must be {n} times true or false")
    check.array(model.virtual_scale, (n,), "virtual_scale")
    check.array(model.shift, (n,), "shift")
    if (model.virtual_scale[~model.magnetic] != 0.0).any():
        check.fail("the virtual scale of a non-magnetic element must be 0")
    if not isinstance(model.time_reversal, (bool, np.bool_)):
        check.fail(f"time_reversal must be true or false, got {model.time_reversal!r}")
    if model.network is None and model.prior is None:
        check.fail("there is neither a network nor a prior")
    elements = getattr(model.prior, "elements", model.elements)
    if tuple(elements) != tuple(model.elements):
        check.fail(f"the prior is for {', '.join(elements)}, the model for {', '.join(model.elements)}")
    if model.network is not None:
        if (model.virtual_scale[model.magnetic] <= 0.0).any():
            check.fail("the virtual scale of a magnetic element must be positive")
        check.network(model.network, n, model.magnetic)
    if model.invariants is not None:
        check.invariants(model, n)
    if model.seen is not None:
        check.array(model.seen.min_distance, (n, n), "seen/min_distance", infinite=True)
        check.array(model.seen.spin_length, (n, 2), "seen/spin_length")
