"""The learning curve of a training as CSV. No torch."""

import os
from pathlib import Path

COLUMNS = ("step", "rate", "loss", "energy_mev_per_atom", "force_mev_per_ang", "field_mev_per_mub", "score", "seconds")


def write_log(path: Path, log: list[dict[str, float]]) -> None:
    """The learning curve as CSV, replaced as a whole."""
    temporary = path.with_name(path.name + ".tmp")
    lines = [",".join(COLUMNS), *(",".join(f"{row[name]:.6g}" for name in COLUMNS) for row in log)]
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(temporary, path)
