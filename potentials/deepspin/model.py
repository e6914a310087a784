"""What a trained DeepSPIN model is: architecture, weights, statistics. Plain arrays; no evaluation, no files, no torch.

    E = Σ_i [ prior_i + invariant net_i(z_i) + net_i(D_i) + shift_i ]        i: real atoms; each of the first three may be absent

Every atom of a magnetic element carries a virtual atom at R_i + η_t S_i of type t + n, n the number of elements. A real
atom i of element c sees neighbours j (real atoms, and virtual ones, its own included) at d = R_j − R_i, r = |d|:

    w(r) = 1 for r < cutoff_smooth, 0 beyond cutoff, else u³(−6u² + 15u − 10) + 1, u = (r − cutoff_smooth)/(cutoff − cutoff_smooth)
    ρ = r + protection
    R_j = ([w/ρ, w d/ρ²] − mean_c) / std_c             (4 numbers)
    G_j = embedding[(type_j, c)](R_j[0])               (M numbers)
    A   = Σ_slots R_jᵀ G_j / Σ_t 2 sel_t               (4 × M)
    D   = (Aᵀ A)[:, :axis]                             (M × axis, row-major into the fitting net)

The sum runs over 2 Σ sel slots: sel_t for the real and sel_t for the virtual atoms of each element t; empty slots have
R = (−mean_c/std_c), so that a slot that is left at the cutoff changes nothing. Virtual atoms of non-magnetic elements do not
exist, their slots are empty, and so are those of pairs that DeePMD's ``pair_exclude_types`` keeps apart. The net of such a pair
(``silent``) is only ever seen by empty slots: the sum for A of centre c holds Σ_t sel_t Rᵀ G at R = −mean_c/std_c over the
silent pairs (t, c). Energies in eV, lengths in Å, spins in µB. DeePMD-kit 3.2 has the same function, weight for weight.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

ACTIVATIONS = ("tanh", "linear", "sigmoid", "softplus", "gelu", "relu", "silu")


@dataclass
class Layer:
    """y = x' + step · activation(x @ weight + bias).

    x' is x where the layer keeps its width, (x, x) where it doubles it, and absent otherwise or without ``resnet``.

    weight (n_in, n_out);  bias (n_out,) or None;  step (n_out,) or None (1)
    """

    weight: np.ndarray
    bias: np.ndarray | None = None
    step: np.ndarray | None = None
    activation: str = "tanh"
    resnet: bool = True


Net = list[Layer]


@dataclass
class Network:
    """The DeepSPIN network. n elements; types 0..n−1 are real atoms, n..2n−1 their virtual atoms.

    cutoff, cutoff_smooth, protection  Å (protection as used: 0.01 where DeePMD's env_protection is 0)
    sel        (n,) slots per element, for the real and again for the virtual atoms
    axis       second width of the descriptor
    embedding  {(neighbour type 0..2n−1, centre element 0..n−1): Net from 1 to M}; pairs that do not interact are absent
    silent     the nets of such pairs: placeholders of non-magnetic elements, excluded pairs; a pair in neither contributes nothing
    fitting    one Net from M·axis to 1 per element
    mean, std  (n, 4) statistics of the environment matrix of each centre element; mean[:, 1:] = 0, std[:, 1:] alike
    precision  "float64" or "float32": the numbers that the net was trained in
    """

    cutoff: float
    cutoff_smooth: float
    protection: float
    sel: np.ndarray
    axis: int
    embedding: dict[tuple[int, int], Net]
    fitting: list[Net]
    mean: np.ndarray
    std: np.ndarray
    precision: str = "float64"
    silent: dict[tuple[int, int], Net] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """M, the number of channels of the embedding nets."""
        return next(iter(self.embedding.values()))[-1].weight.shape[1]


@dataclass
class SeenRange:
    """What the training data covered, for warnings.

    min_distance  (n, n) Å, the shortest distance per pair of elements (inf where no pair was seen)
    spin_length   (n, 2) µB, shortest and longest |S| per element (0, 0 for non-magnetic elements)
    """

    min_distance: np.ndarray
    spin_length: np.ndarray


@dataclass
class DeepSpinModel:
    """A model: elements, and a network, a prior or both.

    elements       symbols, in the order of all per-element arrays
    magnetic       (n,) bool: elements that carry spins
    virtual_scale  (n,) η in Å/µB, 0 for non-magnetic elements
    shift          (n,) eV, energy added per atom of each element
    network        None for a prior alone;  prior  None for a network alone (``potentials.deepspin.prior``)
    invariants     one Net per element from the invariants z of the prior's many-body sums to 1
                   (``prior.invariant_count``), or None
    time_reversal  True: the energy is the mean of the network over S and −S (the prior is even by itself)
    seen           range of the training data, or None
    provenance     who made it from what: plain strings, numbers, lists and dicts
    """

    elements: tuple[str, ...]
    magnetic: np.ndarray
    virtual_scale: np.ndarray
    shift: np.ndarray
    network: Network | None = None
    prior: Any = None
    invariants: list[Net] | None = None
    time_reversal: bool = False
    seen: SeenRange | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def cutoff(self) -> float:
        """Å, the larger of the cutoffs of network and prior."""
        return max(part.cutoff for part in (self.network, self.prior) if part is not None)
