"""Terms of the energy on the GPU: device loops around the same scalar laws, one thread per atom.

Imported only with ``device = "cuda"``.
"""

from importlib import import_module
from typing import Any

from spinmd.errors import InputError

# kinds of the host -> module of this package and what makes the device's version of a prepared term
KINDS = {
    "spinmd.potentials.eam:EAM": ("eam", "DeviceEAM"),
    "spinmd.potentials.exchange:Exchange": ("exchange", "exchange_term"),
    "spinmd.potentials.pair:LennardJones": ("pairs", "DevicePairs"),
    "spinmd.potentials.pair:Morse": ("pairs", "DevicePairs"),
    "spinmd.potentials.biquadratic:Biquadratic": ("pairs", "pair_term"),
    "spinmd.potentials.dmi:DMI": ("pairs", "pair_term"),
    "spinmd.potentials.dipole:Dipole": ("pairs", "DevicePairs"),
    "spinmd.potentials.tensor:TensorExchange": ("lattice", "tensor_term"),
    "spinmd.potentials.anisotropy:UniaxialAnisotropy": ("onsite", "DeviceUniaxial"),
    "spinmd.potentials.anisotropy:CubicAnisotropy": ("onsite", "DeviceCubic"),
    "spinmd.potentials.zeeman:Zeeman": ("zeeman", "DeviceZeeman"),
    "spinmd.potentials.deepspin.potential:DeepSpin": ("deepspin", "DeviceDeepSpin"),
}


MIXED = (
    "spinmd.potentials.eam:EAM",
    "spinmd.potentials.exchange:Exchange",
)  # arithmetic of pairs in float32, if asked for


def _kind(term: Any) -> str:
    return f"{type(term).__module__}:{type(term).__qualname__}"


def check_device_term(term: Any) -> None:
    """InputError for a potential that has no version for the GPU."""
    if not hasattr(type(term), "on_device") and _kind(term) not in KINDS:
        raise InputError(
            f"{term.name} has no version for the GPU (that of a plug-in is its method on_device); compute on the CPU with "
            "--device cpu",
            "kind",
        )


def has_mixed(term: Any) -> bool:
    """Whether a potential computes otherwise in mixed precision; a plug-in is asked for ``mixed``."""
    if hasattr(type(term), "on_device"):
        return bool(getattr(term, "mixed", False))
    return _kind(term) in MIXED and not getattr(term.parameters, "static", False)


def device_term(term: Any, state: Any) -> Any:
    """The device's version of a prepared potential; a plug-in brings its own with a method ``on_device(state)``.

    InputError for a kind that has none.
    """
    check_device_term(term)
    if hasattr(type(term), "on_device"):
        return term.on_device(state)
    module, name = KINDS[_kind(term)]
    return getattr(import_module(f"spinmd.potentials.cuda.{module}"), name)(term, state)
