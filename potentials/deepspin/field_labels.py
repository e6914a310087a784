"""Are field labels in eV/µB, and of the right sign? Magnitudes cannot tell a factor of two, the other labels can. No torch.

Labels are λ (−∂E/∂S) with λ = 1 if all is well. A fit of the prior to energies, forces and fields together leaves the least
where λ is right: with λ = −1, 1/27.2 and so on in its place, fields contradict energies. It costs a few solutions of normal
equations that are there anyway.
"""

import warnings
from collections.abc import Callable

MISTAKES = {
    -1.0: "their sign is reversed: force_mag.npy holds −∂E/∂S, not ∂E/∂S",
    1.0 / 27.211386: "they look like hartree/µB: multiply them by 27.211",
    27.211386: "they look as if multiplied by 27.211 (hartree to eV) once too often",
    1.0 / 13.605693: "they look like rydberg/µB: multiply them by 13.606",
    13.605693: "they look as if multiplied by 13.606 (rydberg to eV) once too often",
    1.0 / 5.7883818e-5: "they look like tesla: multiply them by 5.7884e-5 eV/(µB T)",
    5.7883818e-5: "they look as if multiplied by 5.7884e-5 eV/(µB T) once too often",
    0.25: "they may be forces on virtual atoms at R + ηS: divide by η (Å/µB) to get eV/µB",
    4.0: "compare them with a finite difference of two energies",
    0.5: "pairs may be counted once instead of twice; field_scale fits a factor near one",
    2.0: "pairs may be counted twice; field_scale fits a factor near one",
}
CLEAR = 0.7  # a misfit below this part of the present one is worth a warning


def check_field_labels(remaining: Callable[[float], float], scale: float) -> float:
    """The factor of the field labels, over ``scale``, that energies and forces speak for: 1, or a mistake's with a warning.

    remaining  Σ of squares that the fit leaves for a given λ
    """
    present = remaining(scale)
    rests = {factor: remaining(factor * scale) for factor in MISTAKES}
    best = min(rests, key=rests.get)
    if not rests[best] < CLEAR * present:
        return 1.0
    warnings.warn(
        f"force_mag: energies and forces agree with the magnetic forces far better (sum of squares {rests[best] / present:.2g} of "
        f"the present one) if these are {best:.4g} times −∂E/∂S in eV/µB; {MISTAKES[best]}",
        stacklevel=3,
    )
    return best
