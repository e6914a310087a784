"""All analyses by their name on the command line: where the function lives, what draws its result.

A function ``NAME(trajectory, ...) -> Result`` looks at one run (``critical_temperature`` at several), ``draw(result,
figure)`` draws what one run or several laid side by side gave. Modules are imported when they are used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from spinmd.analysis.figures import SIZE, figure
from spinmd.analysis.results import Result, read_result
from spinmd.errors import InputError


@dataclass(frozen=True)
class Analysis:
    """module of spinmd.analysis; name of its function there; ``size`` of the figure, inches."""

    module: str
    function: str
    draw: str
    size: tuple[float, float] = SIZE

    def load(self) -> Callable:
        """The function."""
        return getattr(import_module(f"spinmd.analysis.{self.module}"), self.function)

    def load_draw(self) -> Callable:
        """What draws a Result of it: (result, figure)."""
        return getattr(import_module(f"spinmd.analysis.{self.module}"), self.draw)


ANALYSES: dict[str, Analysis] = {
    "autocorrelation": Analysis("autocorrelation", "time_autocorrelation", "draw_autocorrelation"),
    "curie": Analysis("curie", "critical_temperature", "draw_curie", (11.0, 4.0)),
    "distributions": Analysis("distributions", "moment_distributions", "draw_distributions", (9.0, 4.0)),
    "dos": Analysis("dos", "density_of_states", "draw_dos"),
    "energy-flow": Analysis("energy_flow", "flow_of_energy", "draw_energy_flow", (7.0, 7.5)),
    "heat-capacity": Analysis("heat_capacity", "specific_heat", "draw_heat_capacity"),
    "magnetisation": Analysis("magnetisation", "magnetic_order", "draw_magnetisation", (11.0, 4.0)),
    "msd": Analysis("msd", "mean_square_displacement", "draw_msd"),
    "pressure": Analysis("pressure", "pressure_and_cell", "draw_pressure", (9.0, 4.0)),
    "rdf": Analysis("rdf", "radial_distribution", "draw_rdf", (6.4, 5.2)),
    "spin-correlation": Analysis("spin_correlation", "pair_correlation", "draw_spin_correlation", (9.0, 4.0)),
    "spin-waves": Analysis("spin_waves", "linear_spin_waves", "draw_spin_waves", (8.0, 4.6)),
    "sqw": Analysis("sqw", "dynamical_structure_factor", "draw_sqw", (8.0, 5.0)),
    "structure-factor": Analysis("structure_factor", "static_structure_factor", "draw_structure_factor"),
    "temperature": Analysis("temperature", "temperatures", "draw_temperature", (9.0, 4.0)),
    "topology": Analysis("topology", "topological_charge", "draw_topology"),
}


def plot(result: Result | str | Path, path: str | Path) -> None:
    """Draw a Result, or the .h5 file of one, to a PNG, PDF or SVG. InputError for what has no figure."""
    result = result if isinstance(result, Result) else read_result(result)
    if result.what not in ANALYSES:
        near = get_close_matches(result.what, ANALYSES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"there is no figure of the analysis {result.what!r}{hint}", str(path))
    entry = ANALYSES[result.what]
    draw = entry.load_draw()
    with figure(path, entry.size) as drawn:
        draw(result, drawn)
