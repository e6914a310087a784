"""The contract of terms on the device, and where they add what they compute."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from spinmd.cuda.arrays import DeviceArray
from spinmd.protocols import Need


@dataclass
class DeviceOutput:
    """Where a term adds: energies (N,) eV of its own share per atom, forces and fields (N, 3), virials (N, 9) eV per atom."""

    energies: DeviceArray
    forces: DeviceArray
    fields: DeviceArray
    virials: DeviceArray


class DeviceTerm(Protocol):
    """A term of the energy on the device, made from the host's potential of the deck."""

    magnetic: bool
    kind: ClassVar[str]

    def add(self, state: Any, pairs: Any, out: DeviceOutput, need: Need) -> None:
        """Launch what adds energies, forces, fields and virials, as far as needed."""

    # optional: watch(state, pairs), called when the host looks at a run or asks for energies, may copy over and warn

    def freeze(self, state: Any, pairs: Any) -> Any:
        """DeviceSpinTerm at the present positions, or None for a live term."""
