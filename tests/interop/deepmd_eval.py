"""DeepPot.eval of one configuration; run by the Python of DeePMD-kit's environment: MODEL IN.npz OUT.npz."""

import sys

import numpy as np
from deepmd.infer import DeepPot

model, source, target = sys.argv[1:]
data = np.load(source)
energy, force, virial, atom_energy, _, force_mag, _ = DeepPot(model).eval(
    data["positions"].reshape(1, -1),
    data["cell"].reshape(1, 9),
    data["types"].tolist(),
    atomic=True,
    spin=data["spins"].reshape(1, -1),
)
np.savez(
    target,
    energy=energy[0, 0],
    forces=force[0],
    virial=virial.reshape(3, 3),
    atom_energy=atom_energy.reshape(-1),
    force_mag=force_mag[0],
)
