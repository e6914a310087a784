"""Learning potentials from labelled data: testing a model, parity figures, data sets of a known Hamiltonian.

Nothing here needs torch; training itself is in ``spinmd.potentials.deepspin``.
"""
