"""What gives energy, forces and fields: one file per kind of potential, imported as ``spinmd.potentials``.

Kinds are found through the entry-point group ``spinmd.potentials``, so nothing is imported here.
"""

if __name__ != "spinmd.potentials":
    raise ImportError(
        f"this package is imported as spinmd.potentials, not as {__name__}: "
        "under two names its classes and compiled kernels would exist twice; write import spinmd.potentials"
    )
