"""What reads a trajectory and gives physics: one file per observable, imported as ``spinmd.analysis``."""

if __name__ != "spinmd.analysis":
    raise ImportError(
        f"this package is imported as spinmd.analysis, not as {__name__}: "
        "under two names its classes and compiled kernels would exist twice; write import spinmd.analysis"
    )
