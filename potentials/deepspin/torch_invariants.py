"""The network over the prior's many-body invariants in torch, for training.

Positions and spins are data, so the invariants z of a frame are computed once; only the net of each element changes. With
g = ∂E/∂z its gradient, ∂E/∂x of the sums x is linear in g, and the derivatives by positions and spins are linear in ∂E/∂x:

    ∂E/∂d_p = Σ_f [u (Σ_k G_fk φ'_k) V_f + (Σ_k G_fk φ_k) ∂V_f/∂d],     G = ∂E/∂x of the centre, for the neighbour's element

f counts the factors and components of all groups (``prior.GROUPS``), V_f = Y_f(u) σ_f(ŝ_i, ŝ_j). Notation of ``prior``.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from spinmd.potentials.deepspin.model import Net
from spinmd.potentials.deepspin.prior import COMPONENTS, GROUPS, Prior
from spinmd.potentials.deepspin.prior_design import angular_functions, find_pairs, pair_functions_of
from spinmd.potentials.deepspin.torch_network import scaled_output, torch_net

LEAST_VARIATION = 1e-2  # of an invariant's natural size; 99 % of those of strongly displaced fcc iron vary more


@dataclass
class PreparedInvariants:
    """One frame. For each element: atoms (n,), z (n, n_z) and the sums x of each group (n, size, components).

    centre, second  (P,) atoms of each pair;  slot  (P,) centre · elements + element of the neighbour
    radial (P, K, 2) φ and φ';  u (P, 3);  value (P, F) V;  slopes (P, F, 9) ∂V by d, S_j and S_i at fixed φ;  arm (P, 3)
    onsite (N, 3) ∂n_i/∂S_i;  whitened: z is what the nets see
    """

    natoms: int
    atoms: list[torch.Tensor]
    z: list[torch.Tensor]
    x: list[dict[str, torch.Tensor]]
    centre: torch.Tensor
    second: torch.Tensor
    slot: torch.Tensor
    radial: torch.Tensor
    u: torch.Tensor
    value: torch.Tensor
    slopes: torch.Tensor
    arm: torch.Tensor
    onsite: torch.Tensor
    whitened: bool = False


class TorchInvariants(nn.Module):
    """Nets over the invariants, one per element (inputs of length ``invariant_count``), with trainable weights."""

    def __init__(self, prior: Prior, nets: list[Net], dtype=torch.float32):
        super().__init__()
        self.prior, self.dtype = prior, dtype
        self.n = len(prior.elements)
        self.functions = prior.settings["many_body_functions"]
        self.output_scale = 1.0  # the nets' outputs are this many eV (``output_scale.output_scale``)
        self.nets = nn.ModuleList([torch_net(net, dtype) for net in nets])
        for a in range(self.n):
            sizes = {g: prior.features(a, g)[1] * COMPONENTS[g] for g in prior.groups}
            begin = dict(zip(sizes, np.cumsum([0, *sizes.values()])[:-1], strict=True))
            nothing = sum(sizes.values())
            columns = []
            for b in range(self.n):
                for g in prior.groups:
                    offsets = prior.features(a, g)[0]
                    for s in range(len(GROUPS[g])):
                        for m in range(COMPONENTS[g]):
                            k = np.arange(self.functions)
                            here = begin[g] + (offsets[b, s] + k) * COMPONENTS[g] + m
                            columns.append(here if offsets[b, s] >= 0 else np.full(self.functions, nothing))
            self.register_buffer(f"columns_{a}", torch.tensor(np.concatenate(columns)), persistent=False)
            for g in prior.groups[1:]:
                size = prior.features(a, g)[1]
                place = np.zeros((size, size), dtype=np.int64)
                p, q = np.triu_indices(size)
                place[p, q] = place[q, p] = np.arange(len(p))
                self.register_buffer(f"place_{a}_{g}", torch.tensor(place.ravel()), persistent=False)

    def prepare(self, box, coord, spin, types) -> PreparedInvariants:
        """The tensors of one frame: box (3, 3), coord (N, 3) Å, spin (N, 3) µB, types (N,)."""
        prior, n, natoms = self.prior, self.n, len(types)
        first, second, d = find_pairs(coord, box, prior.cutoff)
        r = np.linalg.norm(d, axis=1)
        u = d / r[:, None]
        inverse = np.where(prior.magnetic, 1.0 / np.where(prior.magnetic, prior.reference_moment, 1.0), 0.0)[types]
        scaled = spin * inverse[:, None]
        si, sj = scaled[first], scaled[second]
        phi, dphi = pair_functions_of(prior, r, types[first], types[second], self.functions)
        c, nj, one = (si * sj).sum(1), (sj * sj).sum(1), np.ones(len(r))
        nothing = np.zeros((len(r), 3))
        factors = {
            "1": (one, nothing, nothing),
            "c": (c, si * inverse[second][:, None], sj * inverse[first][:, None]),
            "n": (nj, 2.0 * sj * inverse[second][:, None], nothing),
        }
        values, slopes, x = [], [], [{} for _ in range(n)]
        for g in prior.groups:
            parts = []
            if g == "S0":
                values.append(sj)
                step = np.zeros((len(r), 3, 9))
                step[:, np.arange(3), 3 + np.arange(3)] = inverse[second][:, None]
                slopes.append(step)
                parts.append(sj)
            else:
                angular, dangular = angular_functions(u, r, g)
                for name in GROUPS[g]:
                    f, by_j, by_i = factors[name]
                    parts.append(angular * f[:, None])
                    values.append(parts[-1])
                    slopes.append(
                        np.concatenate(
                            [
                                dangular * f[:, None, None],
                                angular[:, :, None] * by_j[:, None],
                                angular[:, :, None] * by_i[:, None],
                            ],
                            axis=2,
                        )
                    )
            for a in range(n):
                offsets, size = prior.features(a, g)
                sums = np.zeros((natoms, size, COMPONENTS[g]))
                for b in range(n):
                    mine = np.flatnonzero((types[first] == a) & (types[second] == b))
                    for s, part in enumerate(parts):
                        if offsets[b, s] >= 0:
                            np.add.at(
                                sums[:, offsets[b, s] : offsets[b, s] + self.functions], first[mine],
                                phi[mine][:, :, None] * part[mine][:, None, :],
                            )  # fmt: skip
                if g == "L0" and prior.magnetic[a]:
                    sums[:, 0, 0] = (scaled * scaled).sum(1)
                x[a][g] = sums[types == a]
        f = lambda array: torch.tensor(np.ascontiguousarray(array), dtype=self.dtype)  # noqa: E731
        whole = lambda array: torch.tensor(np.ascontiguousarray(array), dtype=torch.int64)  # noqa: E731
        return PreparedInvariants(
            natoms,
            [whole(np.flatnonzero(types == a)) for a in range(n)],
            [f(invariants(x[a], prior.groups)) for a in range(n)],
            [{g: f(sums) for g, sums in x[a].items()} for a in range(n)],
            whole(first),
            whole(second),
            whole(first * n + types[second]),
            f(np.stack([phi, dphi], axis=2)),
            f(u),
            f(np.concatenate(values, axis=1)),
            f(np.concatenate(slopes, axis=1)),
            f(d),
            f(2.0 * scaled * inverse[:, None]),
        )

    def _natural_squares(self, frame: PreparedInvariants, a: int) -> torch.Tensor:
        """(n, n_z) squares of z as they would be if neighbours did not cancel each other: (Σ_j |term_j of x_p|²)(... of x_q)."""
        squares = torch.zeros(frame.natoms * self.n, frame.value.shape[1], self.functions, dtype=torch.float64)
        terms = frame.value.double()[:, :, None] * frame.radial[:, None, :, 0].double()
        squares = squares.index_add(0, frame.slot, terms * terms).reshape(frame.natoms, -1)[frame.atoms[a]]
        sizes = {g: x.shape[1:] for g, x in frame.x[a].items()}
        flat = torch.zeros(len(squares), sum(n * m for n, m in sizes.values()) + 1, dtype=torch.float64)
        flat = flat.index_add(1, getattr(self, f"columns_{a}"), squares)
        parts, at = [], 0
        for g, (size, components) in sizes.items():
            own = flat[:, at : at + size * components].reshape(-1, size, components).sum(2)
            at += size * components
            if g == "L0":
                if self.prior.magnetic[a]:
                    own[:, 0] = frame.x[a][g][:, 0, 0].double() ** 2
                parts.append(own)
            else:
                p, q = np.triu_indices(size)
                parts.append(own[:, p] * own[:, q])
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def whiten(self, frames, components: int, floor: float) -> None:
        """Let the nets see the first principal components of the scaled invariants over ``frames``, with unit variance (those below
        ``floor`` times the largest standard deviation: as if they had that). Linear: ``nets_of`` folds it into the first layer.

        Invariants that vary by less than LEAST_VARIATION of their natural size are scaled as if they varied by that: divided by
        their own deviation they would be steep functions of the positions (in a nearly perfect crystal, of 1e8 eV/Å).
        """
        for a in range(self.n):
            z = torch.cat([frame.z[a] for frame in frames]).to(torch.float64)
            layer, kept = self.nets[a][0], min(components, z.shape[1])
            centre, mix = torch.zeros(z.shape[1], dtype=torch.float64), torch.eye(z.shape[1], kept, dtype=torch.float64)
            if len(z) > 1:
                centre, natural = (
                    z.mean(0),
                    torch.cat([self._natural_squares(frame, a) for frame in frames]).mean(0).sqrt(),
                )
                # what hardly varies in the data must not become steep: bond vectors that nearly cancel, equal lengths of spins
                deviation = torch.maximum(z.std(0), LEAST_VARIATION * natural)
                deviation = torch.where(deviation > 1e-12, deviation, torch.inf)
                _, s, axes = torch.linalg.svd((z - centre) / deviation / len(z) ** 0.5, full_matrices=False)
                kept = min(kept, len(s))
                mix = (axes[:kept] / torch.clamp(s[:kept], min=float(s[0]) * floor + 1e-300)[:, None] / deviation).T
            self.register_buffer(f"centre_{a}", centre.to(self.dtype))
            self.register_buffer(f"mix_{a}", mix.to(self.dtype).contiguous())
            if layer.weight.shape[0] != kept:
                layer.weight = nn.Parameter(layer.weight.detach()[:kept].clone())
        for frame in frames:
            self.whitened(frame)

    def whitened(self, frame: PreparedInvariants) -> None:
        """Replace z of a frame by what the nets see, once."""
        if not frame.whitened:
            pairs = [(getattr(self, f"centre_{a}"), getattr(self, f"mix_{a}")) for a in range(self.n)]
            frame.z = [(z - centre) @ mix for z, (centre, mix) in zip(frame.z, pairs, strict=True)]
            frame.whitened = True

    def forward(self, frame: PreparedInvariants, virial: bool = False):
        """Energy (), forces (N, 3), fields (N, 3) and virial (3, 3) or None, differentiable by the weights."""
        energy, columns = 0.0, frame.value.shape[1] * self.functions
        G = torch.zeros(frame.natoms, self.n * columns, dtype=self.dtype)
        fields = torch.zeros(frame.natoms, 3, dtype=self.dtype)
        for a, atoms in enumerate(frame.atoms):
            if not len(atoms):
                continue
            z = frame.z[a].detach().requires_grad_()
            e = self.nets[a](z).sum() * self.output_scale
            (g,) = torch.autograd.grad(e, z, create_graph=self.training)
            energy = energy + e
            g = g @ getattr(self, f"mix_{a}").T
            size = frame.x[a]["L0"].shape[1]
            pulls, at = [g[:, :size]], size
            for name in self.prior.groups[1:]:
                x = frame.x[a][name]
                place, width = getattr(self, f"place_{a}_{name}"), x.shape[1]
                count = width * (width + 1) // 2
                square = g[:, at : at + count][:, place].reshape(-1, width, width)
                square = square + torch.diag_embed(torch.diagonal(square, dim1=1, dim2=2))
                pulls.append((square @ x).reshape(len(atoms), -1))
                at += count
            pulls.append(torch.zeros(len(atoms), 1, dtype=self.dtype))
            if self.prior.magnetic[a]:
                fields = fields.index_add(0, atoms, -g[:, :1] * frame.onsite[atoms])
            G = G.index_copy(0, atoms, torch.cat(pulls, dim=1)[:, getattr(self, f"columns_{a}")])
        G = G.reshape(frame.natoms * self.n, -1, self.functions)[frame.slot]  # (P, F, K)
        t = G @ frame.radial  # (P, F, 2)
        steps = (t[:, None, :, 0] @ frame.slopes)[:, 0]  # (P, 9)
        pull = steps[:, :3] + frame.u * (t[:, :, 1] * frame.value).sum(1, keepdim=True)
        forces = torch.zeros(frame.natoms, 3, dtype=self.dtype)
        forces = forces.index_add(0, frame.centre, pull).index_add(0, frame.second, pull, alpha=-1.0)
        fields = fields.index_add(0, frame.second, steps[:, 3:6], alpha=-1.0)
        fields = fields.index_add(0, frame.centre, steps[:, 6:], alpha=-1.0)
        return energy, forces, fields, -(pull.T @ frame.arm) if virial else None

    def nets_of(self) -> list[Net]:
        """The present nets as functions of z itself."""
        result = []
        for a, module in enumerate(self.nets):
            layers = scaled_output([layer.layer() for layer in module], self.output_scale)
            mix = getattr(self, f"mix_{a}", None)
            if mix is not None:
                centre, mix = getattr(self, f"centre_{a}").double().numpy(), mix.double().numpy()
                layers[0].weight = mix @ layers[0].weight
                layers[0].bias = layers[0].bias - centre @ layers[0].weight
            result.append(layers)
        return result


def invariants(x: dict[str, np.ndarray], groups) -> np.ndarray:
    """(n, n_z) z from the sums x of each group, (n, size, components)."""
    parts = [x["L0"][:, :, 0]]
    for name in groups[1:]:
        p, q = np.triu_indices(x[name].shape[1])
        parts.append(np.einsum("npc,nqc->npq", x[name], x[name])[:, p, q])
    return np.concatenate(parts, axis=1)
