"""What moves positions and spins: one file per elementary flow, imported as ``spinmd.integrators``."""

if __name__ != "spinmd.integrators":
    raise ImportError(
        f"this package is imported as spinmd.integrators, not as {__name__}: "
        "under two names its classes and compiled kernels would exist twice; write import spinmd.integrators"
    )
