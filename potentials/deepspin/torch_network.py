"""The DeepSPIN network in torch, for training: energies, forces, fields and virials of a batch of prepared frames.

Frames are prepared once (``PreparedFrame``, from ``geometry``); a step evaluates the embedding nets on their nodes only.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from spinmd.potentials.deepspin.geometry import POINTS, Grid, environment, network_pairs
from spinmd.potentials.deepspin.model import Layer, Net, Network

_ACTIVATIONS = {
    "tanh": torch.tanh,
    "linear": lambda x: x,
    "sigmoid": torch.sigmoid,
    "softplus": nn.functional.softplus,
    "gelu": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "silu": nn.functional.silu,
}


class TorchLayer(nn.Module):
    """One ``Layer`` as parameters."""

    def __init__(self, layer: Layer, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(layer.weight, dtype=dtype))
        self.bias = None if layer.bias is None else nn.Parameter(torch.tensor(layer.bias, dtype=dtype))
        self.scale = None if layer.step is None else nn.Parameter(torch.tensor(layer.step, dtype=dtype))
        self.activation, self.resnet = layer.activation, layer.resnet

    def forward(self, x):
        y = x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)
        y = _ACTIVATIONS[self.activation](y)
        if self.scale is not None:
            y = y * self.scale
        n_in, n_out = self.weight.shape
        if self.resnet and n_out == n_in:
            y = y + x
        elif self.resnet and n_out == 2 * n_in:
            y = y + torch.cat([x, x], dim=1)
        return y

    def layer(self) -> Layer:
        def values(parameter):
            return None if parameter is None else parameter.detach().to(torch.float64).numpy().copy()

        return Layer(values(self.weight), values(self.bias), values(self.scale), self.activation, self.resnet)


def torch_net(net: Net, dtype) -> nn.Sequential:
    return nn.Sequential(*(TorchLayer(layer, dtype) for layer in net))


def scaled_output(net: Net, factor: float) -> Net:
    """The net times a factor, which its last layer (linear) takes up."""
    last = net[-1]
    bias = None if last.bias is None else factor * last.bias
    return [*net[:-1], Layer(factor * last.weight, bias, last.step, last.activation, last.resnet)]


@dataclass
class PreparedFrame:
    """One frame as tensors. N atoms, C = N centres (2N with time reversal: the second half sees spins reversed), P pairs.

    B        (C, 4 · nodes)  the linear map of ``geometry``, nodes of all neighbour types side by side
    types    (C,) element of each centre;  weight: 1, or ½ with time reversal
    centre   (P,) centre;  first (P, 6·4) index into H of a centre flattened;  K (P, 3, 24)
    target   (2P,) atoms that feel +g, −g;  moment (P,) η·sign of the virtual pairs, 0 for real ones;  atom (P,)
    arm      (P, 3) vector between the real atoms, for the virial
    """

    natoms: int
    B: torch.Tensor
    types: torch.Tensor
    index: torch.Tensor
    K: torch.Tensor
    centre_atom: torch.Tensor
    atom: torch.Tensor
    moment: torch.Tensor
    arm: torch.Tensor
    weight: float


class TorchNetwork(nn.Module):
    """A ``Network`` with trainable weights.

    network        the starting weights and the architecture
    virtual_scale  (n,) η, Å/µB;  top  largest 1/ρ in the data, 1/Å;  nodes  per embedding net
    """

    def __init__(self, network: Network, virtual_scale, *, time_reversal: bool, nodes: int = 160, dtype=torch.float32):
        super().__init__()
        self.network, self.dtype, self.time_reversal = network, dtype, time_reversal
        self.virtual_scale = np.asarray(virtual_scale, dtype=float)
        self.n = len(network.sel)
        self.output_scale = 1.0  # the fitting nets' outputs are this many eV (``output_scale.output_scale``)
        self.grid = Grid(1.0 / network.protection, nodes)
        self.nets = {**network.embedding, **network.silent}
        self.keys = sorted(self.nets)
        self.embedding = nn.ModuleDict({f"{t}_{c}": torch_net(self.nets[t, c], dtype) for t, c in self.keys})
        self.fitting = nn.ModuleList([torch_net(net, dtype) for net in network.fitting])
        self.slots = 2.0 * float(np.sum(network.sel))
        mean, std = network.mean, network.std
        for c in range(self.n):
            s = (self.grid.nodes - mean[c, 0]) / std[c, 0]
            self.register_buffer(f"nodes_{c}", torch.tensor(s[:, None], dtype=dtype))

    def prepare(self, box, coord, spin, types) -> PreparedFrame:
        """The tensors of one frame: box (3, 3), coord (N, 3) Å, spin (N, 3) µB, types (N,)."""
        net, n, q = self.network, self.n, self.grid.count
        natoms = len(types)
        pairs = network_pairs(box, coord, spin, types, self.virtual_scale, net.cutoff, self.time_reversal)
        copies = (1, -1) if self.time_reversal else (1,)
        size = 2 * n * q
        B = np.zeros((len(copies) * natoms, 4, size))
        parts = []
        acting = np.zeros((2 * n, n), dtype=bool)
        acting[tuple(np.array(list(net.embedding)).T)] = True
        pairs = pairs.of(acting[types[pairs.atom] + n * (pairs.kind != 0), types[pairs.centre]])
        row, slope = environment(pairs.d, net.cutoff_smooth, net.cutoff, net.protection)
        first, weights, slopes = self.grid.weights(row[:, 0])
        zero_first, zero_weights, _ = self.grid.weights(np.zeros(1))
        c = types[pairs.centre]
        mean, std = net.mean[c], net.std[c]
        scaled, dscaled = (row - mean) / std, slope / std[:, :, None]
        neighbour = types[pairs.atom] + n * (pairs.kind != 0)
        column = neighbour * q + first
        for copy, sign in enumerate(copies):
            take = np.flatnonzero((pairs.kind == 0) | (pairs.kind == sign))
            centre = pairs.centre[take] + copy * natoms
            columns = column[take, None] + np.arange(POINTS)
            np.add.at(
                B,
                (centre[:, None, None], np.arange(4)[None, :, None], columns[:, None, :]),
                scaled[take, :, None] * weights[take, None, :],
            )
            # an occupied slot replaces an empty one: subtract what the empty slot gives
            empty = -net.mean[:, 0] / net.std[:, 0]
            np.add.at(
                B,
                (centre[:, None], 0, neighbour[take, None] * q + zero_first[0] + np.arange(POINTS)),
                -empty[c[take], None] * zero_weights,
            )
            parts.append((take, centre))
        for t, centre_type in self.keys:
            mine = np.flatnonzero(np.tile(types, len(copies)) == centre_type)
            empty = -net.mean[centre_type, 0] / net.std[centre_type, 0]
            columns = t * q + zero_first[0] + np.arange(POINTS)
            B[mine[:, None], 0, columns] += net.sel[t % n] * empty * zero_weights
        take = np.concatenate([part[0] for part in parts])
        centre = np.concatenate([part[1] for part in parts])
        # ∂(R_a W_q)/∂d_x
        K = (
            dscaled[take][:, :, :, None] * weights[take][:, None, None, :]
            + scaled[take][:, :, None, None] * slope[take][:, 0][:, None, :, None] * slopes[take][:, None, None, :]
        ).transpose(0, 2, 1, 3)
        index = (centre * 4)[:, None, None] + np.arange(4)[:, None]
        index = index * size + column[take][:, None, None] + np.arange(POINTS)
        eta = self.virtual_scale[types[pairs.atom[take]]] * pairs.kind[take]
        f = lambda array: torch.tensor(np.ascontiguousarray(array), dtype=self.dtype)  # noqa: E731
        whole = lambda array: torch.tensor(np.ascontiguousarray(array), dtype=torch.int64)  # noqa: E731
        return PreparedFrame(
            natoms,
            f(B / self.slots),
            whole(np.tile(types, len(copies))),
            whole(index.reshape(len(take), -1)),
            f(K.reshape(len(take), 3, -1) / self.slots),
            whole(pairs.centre[take]),
            whole(pairs.atom[take]),
            f(eta),
            f(pairs.real[take]),
            1.0 / len(copies),
        )

    def grids(self, c: int) -> torch.Tensor:
        """(2n · nodes, M) values of the embedding nets of centre element c on their nodes."""
        s = getattr(self, f"nodes_{c}")
        nothing = torch.zeros(self.grid.count, self.network.width, dtype=self.dtype)
        return torch.cat([self.embedding[f"{t}_{c}"](s) if (t, c) in self.nets else nothing for t in range(2 * self.n)])

    def descriptor(self, A: torch.Tensor) -> torch.Tensor:
        """(C, M · axis) D of (C, 4, M) A."""
        return (A.transpose(1, 2) @ A[:, :, : self.network.axis]).reshape(len(A), -1)

    def whitened(self, c: int, D: torch.Tensor) -> torch.Tensor:
        """D in the coordinates that the first fitting layer is trained in (see ``whiten``)."""
        centre, mix = getattr(self, f"centre_{c}", None), getattr(self, f"mix_{c}", None)
        return D if mix is None else (D - centre) @ mix

    @torch.no_grad()
    def whiten(self, frames, floor: float = 1e-3) -> None:
        """Let the first fitting layer see the principal components of D over ``frames`` with unit variance.

        D fluctuates by a few per mille about its mean and its components are nearly dependent: without this Adam needs
        a hundred times the steps. Linear, so that ``weights`` can fold it into the layer.
        Components below ``floor`` times the largest
        standard deviation are scaled as if they had that deviation.
        """
        for c in range(self.n):
            grids, rows = self.grids(c), []
            for frame in frames:
                B = frame.B if self.n == 1 else frame.B[frame.types == c]
                if len(B):
                    rows.append(self.descriptor(B @ grids))
            D = torch.cat(rows).to(torch.float64)
            centre = D.mean(0)
            _, deviation, axes = torch.linalg.svd((D - centre) / math.sqrt(len(D)), full_matrices=False)
            mix = axes.T / torch.clamp(deviation, min=float(deviation[0]) * floor)
            full = torch.zeros(D.shape[1], D.shape[1], dtype=torch.float64)
            full[:, : mix.shape[1]] = mix
            self.register_buffer(f"centre_{c}", centre.to(self.dtype))
            self.register_buffer(f"mix_{c}", full.to(self.dtype))

    def forward(self, frame: PreparedFrame, virial: bool = False):
        """Energy (), forces (N, 3), fields (N, 3) and virial (3, 3) or None of one frame, differentiable by the weights."""
        energy, pulls = 0.0, torch.empty_like(frame.B)
        for c in range(self.n):
            if self.n == 1:
                mine, B = None, frame.B
            else:
                mine = torch.nonzero(frame.types == c)[:, 0]
                B = frame.B[mine]
            if not len(B):
                continue
            grids = self.grids(c)
            A = B @ grids  # (C, 4, M)
            e = self.fitting[c](self.whitened(c, self.descriptor(A))).sum() * (frame.weight * self.output_scale)
            (pull,) = torch.autograd.grad(e, A, create_graph=self.training)
            H = pull @ grids.T
            energy = energy + e
            if mine is None:
                pulls = H
            else:
                pulls = pulls.index_copy(0, mine, H)
        g = (frame.K @ pulls.reshape(-1)[frame.index][:, :, None])[:, :, 0]  # (P, 3) ∂E/∂d
        forces = torch.zeros(frame.natoms, 3, dtype=self.dtype)
        forces = forces.index_add(0, frame.centre_atom, g).index_add(0, frame.atom, g, alpha=-1.0)
        fields = torch.zeros(frame.natoms, 3, dtype=self.dtype)
        fields = fields.index_add(0, frame.atom, g * frame.moment[:, None], alpha=-1.0)
        return energy, forces, fields, -(g.T @ frame.arm) if virial else None

    def weights(self) -> Network:
        """The present weights as a ``Network``."""
        net = self.network
        nets = {(t, c): [layer.layer() for layer in self.embedding[f"{t}_{c}"]] for t, c in self.keys}
        embedding = {key: nets[key] for key in net.embedding}
        silent = {key: nets[key] for key in net.silent}
        fitting = []
        for c, module in enumerate(self.fitting):
            layers = scaled_output([layer.layer() for layer in module], self.output_scale)
            mix = getattr(self, f"mix_{c}", None)
            if mix is not None:
                centre, mix = getattr(self, f"centre_{c}").double().numpy(), mix.double().numpy()
                layers[0].weight = mix @ layers[0].weight
                layers[0].bias = layers[0].bias - centre @ layers[0].weight
            fitting.append(layers)
        return Network(
            net.cutoff, net.cutoff_smooth, net.protection, net.sel, net.axis, embedding, fitting, net.mean, net.std,
            net.precision, silent,
        )  # fmt: skip
