"""What reads a trajectory and gives physics: one file per observable, imported as ``spinmd.analysis``.

    from spinmd import Trajectory, analysis

    with Trajectory("fe.h5") as run:
        result = analysis.moment_distributions(run)
    print(result.text())
    result.write("distributions.h5")
    analysis.plot(result, "distributions.png")

Every function is imported on first use; docs/analysis.md lists them. No function has the name of a module, since importing
the module would hide it.
"""

if __name__ != "spinmd.analysis":
    raise ImportError(
        f"this package is imported as spinmd.analysis, not as {__name__}: "
        "under two names its classes and compiled kernels would exist twice; write import spinmd.analysis"
    )

from importlib import import_module

_HOMES = {
    "Result": "results",
    "Quantity": "results",
    "read_result": "results",
    "side_by_side": "results",
    "averaged": "results",
    "Window": "reading",
    "plot": "catalogue",
    "ANALYSES": "catalogue",
}


def __getattr__(name: str):
    """Names of ``_HOMES``, and the function of every analysis of the catalogue."""
    if name in _HOMES:
        return getattr(import_module(f"spinmd.analysis.{_HOMES[name]}"), name)
    if not name.startswith("_"):
        for entry in import_module("spinmd.analysis.catalogue").ANALYSES.values():
            if entry.function == name:
                return entry.load()
    raise AttributeError(f"module 'spinmd.analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    from spinmd.analysis.catalogue import ANALYSES

    return sorted({*globals(), *_HOMES, *(entry.function for entry in ANALYSES.values())})
