"""Parity figures: predictions against labels, one panel per quantity, with the errors in it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spinmd.errors import InputError
from spinmd.potentials.deepspin.accuracy import Predictions, quantities
from spinmd.potentials.deepspin.data import System

# name, title, unit of the axes, factor from meV, unit of the errors
PANELS = (
    ("energy", "energy", "meV/atom", 1.0, "meV/atom"),
    ("force", "force components", "eV/Å", 1e-3, "meV/Å"),
    ("field", "magnetic force components", "eV/µB", 1e-3, "meV/µB"),
    ("field_transverse", "transverse part of the magnetic force", "eV/µB", 1e-3, "meV/µB"),
    ("torque", "torque components", "eV", 1e-3, "meV"),
    ("virial", "virial components", "eV/atom", 1e-3, "meV/atom"),
)
MOST_POINTS = 50_000  # in a panel; more would only make the file larger


def plot_parity(
    systems: Sequence[System], predictions: Sequence[Predictions], path: str | Path, *, title: str = ""
) -> None:
    """Write the figure: energy, force, field, transverse field, torque and (with labels) virial, a colour per system.

    Energies are relative to the mean label of all frames; the panel states the RMSE with and without the mean error of each
    system. Raises InputError if the file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    compared = [
        (quantities(system, system), quantities(system, values))
        for system, values in zip(systems, predictions, strict=True)
    ]
    panels = [panel for panel in PANELS if any(_present(panel[0], labels, own) for labels, own in compared)]
    mean = np.concatenate([labels["energy"] for labels, _ in compared]).mean()
    for labels, own in compared:
        labels["energy"], own["energy"] = labels["energy"] - mean, own["energy"] - mean

    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(12.0, 4.1 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 3, squeeze=False).reshape(-1)
    colours = matplotlib.colormaps["tab10" if len(systems) <= 10 else "turbo"]
    shades = [colours(k if len(systems) <= 10 else k / (len(systems) - 1)) for k in range(len(systems))]
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel, compared, shades)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    if len(systems) <= 12:
        names = short_names([system.name for system in systems])
        marks = [
            matplotlib.lines.Line2D(
                [], [], linestyle="", marker="o", color=shade, label=f"{name} ({system.frames} frames)"
            )
            for name, shade, system in zip(names, shades, systems, strict=True)
        ]
        if len(panels) < len(axes):
            axes[len(panels)].legend(handles=marks, loc="upper left", frameon=False)
        else:
            figure.legend(handles=marks, loc="outside lower center", ncols=min(3, len(marks)), frameon=False)
    if title:
        figure.suptitle(title)
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise InputError(f"the figure cannot be written ({error})", str(path)) from None


def _present(name: str, labels: dict, own: dict) -> bool:
    return name in labels and name in own and len(labels[name]) > 0


def _draw(axis, panel, compared, shades) -> None:
    name, title, unit, factor, error_unit = panel
    low, high, errors, centred = np.inf, -np.inf, [], []
    total = sum(len(labels[name]) for labels, own in compared if _present(name, labels, own))
    every = max(1, -(-total // MOST_POINTS))
    for (labels, own), shade in zip(compared, shades, strict=True):
        if not _present(name, labels, own):
            continue
        x, y = factor * labels[name], factor * own[name]
        errors.append(own[name] - labels[name])
        centred.append(errors[-1] - errors[-1].mean())
        low, high = min(low, x.min(), y.min()), max(high, x.max(), y.max())
        size = 9.0 if len(x) < 2000 else 3.0
        axis.scatter(x[::every], y[::every], s=size, color=shade, alpha=0.6, linewidths=0.0, rasterized=True, zorder=2)
    margin = 0.04 * (high - low) or 1.0
    low, high = low - margin, high + margin
    axis.plot([low, high], [low, high], color="0.4", linewidth=0.8, zorder=1)
    axis.locator_params(nbins=5)
    axis.set(xlim=(low, high), ylim=(low, high), aspect="equal", title=title)
    relative = " − mean" if name == "energy" else ""
    axis.set_xlabel(f"label{relative} ({unit})")
    axis.set_ylabel(f"prediction{relative} ({unit})")
    text = f"RMSE {_rmse(errors):.3g} {error_unit}"
    if name == "energy":
        text += f"\nless offsets {_rmse(centred):.3g} {error_unit}"
    axis.text(0.04, 0.96, text, transform=axis.transAxes, verticalalignment="top", zorder=3)


def _rmse(parts: list[np.ndarray]) -> float:
    return float(np.sqrt(np.mean(np.concatenate(parts) ** 2)))


def short_names(names: Sequence[str]) -> list[str]:
    """The last parts of paths, as many as tell them apart."""
    parts = [Path(name).parts or (name,) for name in names]
    for count in range(1, max(len(part) for part in parts) + 1):
        short = ["/".join(part[-count:]) for part in parts]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)
