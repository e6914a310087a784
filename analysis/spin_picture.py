"""A picture of the spins of one frame: shaded arrows coloured by direction, drawn without a screen.

Parallel projection: a camera looks along −d, with ``right`` and ``up`` spanning the picture. Each arrow is a small mesh, a
cylinder and a cone; facets that look away are left out, the others are drawn from back to front. Colours: the hue is the
azimuth of the moment about an axis, white points along it, black against it, so that every direction has one colour.
"""

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spinmd.analysis.distributions import magnetic_atoms, unit_axis
from spinmd.analysis.figures import figure, label
from spinmd.errors import InputError
from spinmd.trajectory import Trajectory

VIEWS = {"x": (1.0, 0.0, 0.0), "y": (0.0, -1.0, 0.0), "z": (0.0, 0.0, 1.0), "iso": (0.45, -0.8, 0.45)}
COLOURINGS = ("direction", "x", "y", "z")
SHAFT, HEAD, CONE = 0.085, 0.20, 0.42  # radii of shaft and head, length of the head, in lengths of the arrow
LENGTH = 0.85  # of the longest arrow, in distances between neighbouring moments
LIGHT = np.array([-0.35, 0.45, 0.82])  # in the camera's frame: from the upper left, in front
FACETS = ((2_000, 12), (8_000, 8), (25_000, 6))  # up to so many arrows, so many sides
WHITE, BLACK = 0.93, 0.08  # of the poles: seen on white paper, and with shades
MOST_ARROWS = 25_000  # more are drawn as dots
SIZE = 7.0  # inches
LEAST_HEIGHT = 3.1  # inches: of the column beside the picture
SMALLEST = 5.0  # pixels; shorter arrows become dots


def picture_of_spins(
    trajectory: Trajectory, path: str | Path, frame: int = -1, *, view: str | Sequence[float] = "iso",
    colour: str = "direction", axis: Sequence[float] = (0.0, 0.0, 1.0), element: str | None = None,
    region: Sequence[Sequence[float] | None] = (None, None, None), size: float = SIZE,
) -> dict[str, Any]:  # fmt: skip
    """Draw the spins of a frame to a PNG, PDF or SVG; returns what was drawn: atoms, hidden, style, step, time.

    frame    its number, −1 the last
    view     from where the camera looks: "x", "y", "z", "iso", or a vector
    colour   "direction" of each moment about ``axis``, or its component "x", "y", "z"
    region   for x, y, z a range (from, to) of positions in Å that is drawn, or None for all: a layer, for instance
    size     of the longer side of the picture, inches

    Arrows are as long as the moments. Too many or too small arrows are drawn as dots of their colour; arrows behind two others
    are left out. InputError for an unknown frame, view or colour, and where no atom is left to draw.
    """
    camera = _camera(view)
    if colour not in COLOURINGS:
        raise InputError(f"expected one of {', '.join(COLOURINGS)}, got {colour!r}", "--colour")
    if not -len(trajectory) <= frame < len(trajectory):
        raise InputError(
            f"there is no frame {frame}; the file has {len(trajectory)}, counted from 0, or back from -1", "--frame"
        )
    part = trajectory.select(elements=element) if element else trajectory
    part = part.select(indices=magnetic_atoms(part, element))
    shot = part[frame]
    # frames may hold the spins alone: then the ideal sites do
    positions = part.sites if "positions" not in part.quantities else shot.wrapped
    positions, spins = np.asarray(positions, dtype=np.float64), np.asarray(shot.spins, dtype=np.float64)
    cell = np.asarray(shot.cell)
    kept = _inside(positions, region) & spins.any(axis=1)
    if not kept.any():
        raise InputError("no moment lies in this part of the crystal; widen --region", "--region")
    positions, spins = positions[kept], spins[kept]
    seen = positions @ camera.T
    longest = np.linalg.norm(spins, axis=1).max()
    length = LENGTH * _spacing(positions)
    whole = all(limits is None for limits in region)
    low, high = _outline(np.concatenate([seen, _corners(cell @ camera.T)]) if whole else seen, length)
    extent = np.maximum(high - low, length)
    width, height = size * extent / extent.max()
    width, height = max(width, 0.45 * size), max(height, LEAST_HEIGHT)
    pixels = 150.0 * min(width / extent[0], height / extent[1]) * length
    dots = len(seen) > MOST_ARROWS or pixels < SMALLEST
    front = _visible(seen, length if not dots else 0.4 * length)
    colours = spin_colours(spins[front], colour, unit_axis(axis))
    with figure(path, (width + 1.3, height + 0.35)) as drawn:
        drawn.set_layout_engine("none")
        total = np.array([width + 1.3, height + 0.35])
        axes = drawn.add_axes((0.02, 0.02, (width - 0.1) / total[0], (height - 0.05) / total[1]))
        axes.set(aspect="equal", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        axes.axis("off")
        _draw_cell(axes, cell @ camera.T, low, high)
        if dots:
            order = np.argsort(seen[front][:, 2])
            points = 72.0 * min(width / extent[0], height / extent[1]) * length / LENGTH
            axes.scatter(*seen[front][order, :2].T, s=max(points, 0.6) ** 2, c=colours[order], linewidths=0, zorder=2)
        else:
            arrows = spins[front] @ camera.T * (length / longest)
            _draw_arrows(axes, seen[front], arrows, colours)
        _draw_key(drawn, total, colour, unit_axis(axis), longest)
        _draw_tripod(drawn, total, camera)
        drawn.text(0.02, 0.985, f"{trajectory.path.stem}, {shot.time:.4g} ps", va="top", fontsize=10, color="0.25")
    hidden = int(len(seen) - front.sum())
    style = "dots" if dots else "arrows"
    return {
        "atoms": int(front.sum()),
        "hidden": hidden,
        "style": style,
        "step": int(shot.step),
        "time": float(shot.time),
    }


# ---------------------------------------------------------------------- what is where


def _camera(view: str | Sequence[float]) -> np.ndarray:
    """(3, 3): rows are right, up and towards the viewer."""
    if isinstance(view, str) and view not in VIEWS:
        raise InputError(f"expected {', '.join(VIEWS)} or three numbers such as 1,-2,1, got {view!r}", "--view")
    towards = unit_axis(VIEWS[view] if isinstance(view, str) else view, "--view")
    up = np.array([0.0, 0.0, 1.0]) if abs(towards[2]) < 0.999 else np.array([0.0, 1.0, 0.0])
    right = np.cross(up, towards)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(towards, right), towards])


def _inside(positions: np.ndarray, region: Sequence[Sequence[float] | None]) -> np.ndarray:
    kept = np.ones(len(positions), dtype=bool)
    for k, limits in enumerate(region):
        if limits is not None:
            if len(limits) != 2 or not limits[0] < limits[1]:
                raise InputError(f"expected a range such as 0:5.7 for {'xyz'[k]}", "--region")
            kept &= (positions[:, k] >= limits[0]) & (positions[:, k] <= limits[1])
    return kept


def _spacing(positions: np.ndarray) -> float:
    """Typical distance to the nearest neighbour, Å; 1 for a single atom."""
    from scipy.spatial import cKDTree

    if len(positions) < 2:
        return 1.0
    sample = positions[:: max(1, len(positions) // 2000)]
    distances = cKDTree(positions).query(sample, k=2)[0][:, 1]
    return max(float(np.median(distances)), 1.0e-3)


def _outline(points: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    return points[:, :2].min(axis=0) - 0.75 * length, points[:, :2].max(axis=0) + 0.75 * length


def _corners(cell: np.ndarray) -> np.ndarray:
    """(8, 3) of a cell whose rows are its vectors."""
    return np.array(list(np.ndindex(2, 2, 2)), dtype=float) @ cell


def _visible(seen: np.ndarray, length: float) -> np.ndarray:
    """Mask of moments with fewer than two others right before them: in columns as wide as half an arrow, the front three."""
    columns = np.floor((seen[:, :2] - seen[:, :2].min(axis=0)) / (0.5 * length)).astype(np.int64)
    key = columns[:, 0] * (columns[:, 1].max() + 1) + columns[:, 1]
    order = np.lexsort((-seen[:, 2], key))
    starts = np.flatnonzero(np.diff(key[order], prepend=key[order[0]] - 1))
    rank = np.arange(len(key)) - np.repeat(starts, np.diff(starts, append=len(key)))
    visible = np.zeros(len(key), dtype=bool)
    visible[order[rank < 3]] = True
    return visible


# ---------------------------------------------------------------------- colours


def spin_colours(spins: np.ndarray, colour: str = "direction", axis: np.ndarray | None = None) -> np.ndarray:
    """(n, 3) red, green, blue of (n, 3) moments.

    "direction": hue by the azimuth about ``axis`` (z by default, and then red points along x), white along it, black against it.
    "x", "y", "z": from blue (−1) over grey to red (+1).
    """
    unit = spins / np.maximum(np.linalg.norm(spins, axis=1, keepdims=True), 1.0e-300)
    if colour != "direction":
        from matplotlib import colormaps

        return colormaps["coolwarm"](0.5 + 0.5 * unit[:, "xyz".index(colour)])[:, :3]
    axis = np.array([0.0, 0.0, 1.0]) if axis is None else axis
    first, second = _around(axis)
    hue = np.arctan2(unit @ second, unit @ first) / (2.0 * np.pi) % 1.0
    along = unit @ axis
    colours = _hls(hue, 0.5 + 0.42 * along)
    # the azimuth has no meaning at the poles: their colours are grey
    share = (along**4)[:, None]
    return (1.0 - share) * colours + share * np.where(along > 0.0, WHITE, BLACK)[:, None]


def _hls(hue: np.ndarray, lightness: np.ndarray) -> np.ndarray:
    """(n, 3) colours of full saturation; the table has 720 hues, which no eye tells from more."""
    table = np.array([colorsys.hls_to_rgb(k / 720.0, 0.5, 0.9) for k in range(720)])
    pure = table[np.minimum((hue * 720).astype(int), 719)]
    lightness = np.asarray(lightness)[:, None]
    return np.where(lightness < 0.5, pure * 2.0 * lightness, pure + (1.0 - pure) * (2.0 * lightness - 1.0))


# ---------------------------------------------------------------------- drawing


def _draw_arrows(axes: Any, centres: np.ndarray, arrows: np.ndarray, colours: np.ndarray) -> None:
    """Facets of all arrows from back to front; centres, arrows (n, 3) in the camera's frame."""
    from matplotlib.collections import PolyCollection

    sides = next(n for most, n in FACETS if len(centres) <= most)
    length = np.linalg.norm(arrows, axis=1)
    unit = arrows / length[:, None]
    helper = np.where(np.abs(unit[:, 2:3]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    a = np.cross(unit, helper)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b = np.cross(unit, a)
    angles = 2.0 * np.pi * np.arange(sides + 1) / sides
    # (n, sides + 1, 3) a circle of unit radius about each arrow
    ring = a[:, None] * np.cos(angles)[:, None] + b[:, None] * np.sin(angles)[:, None]
    size = length[:, None, None]
    tail, tip = centres - 0.5 * arrows, centres + 0.5 * arrows
    neck = tip - CONE * arrows
    facets, normals, owners = [], [], []

    def add(polygon: np.ndarray, normal: np.ndarray) -> None:
        """polygon (n, k, 3), normal (n, 3)"""
        looking = np.flatnonzero(normal[:, 2] > 0.0)
        facets.append(polygon[looking])
        normals.append(normal[looking])
        owners.append(looking)

    shaft, head = SHAFT * size * ring, HEAD * size * ring
    middle = 0.5 * (ring[:, 1:] + ring[:, :-1])
    slope = (middle * CONE + unit[:, None] * HEAD) / np.hypot(CONE, HEAD)
    for k in range(sides):
        low, high = shaft[:, k], shaft[:, k + 1]
        add(np.stack([tail + low, tail + high, neck + high, neck + low], axis=1), middle[:, k])
        add(np.stack([neck + head[:, k], neck + head[:, k + 1], tip, tip], axis=1), slope[:, k])
    for centre, rim in ((tail, shaft), (neck, head)):  # the flat ends, as fans of quadrilaterals
        disc = centre[:, None] + rim[:, :-1]
        for k in range(0, sides - 1, 2):
            corners = [disc[:, 0], disc[:, k % sides], disc[:, (k + 1) % sides], disc[:, (k + 2) % sides]]
            add(np.stack(corners, axis=1), -unit)
    polygons, normal, owner = np.concatenate(facets), np.concatenate(normals), np.concatenate(owners)
    order = np.argsort(polygons[:, :, 2].mean(axis=1))
    light = LIGHT / np.linalg.norm(LIGHT)
    brightness = 0.62 + 0.42 * np.clip(normal @ light, 0.0, None)
    shaded = np.clip(colours[owner] * brightness[:, None], 0.0, 1.0)[order]
    flat = polygons[order][:, :, :2]
    axes.add_collection(PolyCollection(flat, facecolors=shaded, edgecolors=shaded, linewidths=0.25, zorder=2))


def _draw_cell(axes: Any, cell: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """The twelve edges of the cell, behind the arrows, as far as they lie within the picture."""
    for k in range(3):
        for i, j in np.ndindex(2, 2):
            start = i * cell[(k + 1) % 3] + j * cell[(k + 2) % 3]
            axes.plot(*np.stack([start, start + cell[k]])[:, :2].T, color="0.75", linewidth=0.8, zorder=1)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))


def _draw_key(drawn: Any, total: np.ndarray, colour: str, axis: np.ndarray, longest: float) -> None:
    """What the colours mean: a disc of directions seen from above, or a bar."""
    side = 0.95
    where = (1.0 - 1.15 / total[0], 1.0 - 1.35 / total[1], side / total[0], side / total[1])
    key = drawn.add_axes(where)
    if colour == "direction":
        n = 161
        x, y = np.meshgrid(*[np.linspace(-1.0, 1.0, n)] * 2)
        radius = np.hypot(x, y)
        polar = np.pi * radius
        frame = _around(axis)
        directions = (
            np.sin(polar)[..., None]
            * (x[..., None] * frame[0] + y[..., None] * frame[1])
            / np.maximum(radius, 1e-9)[..., None]
        )
        directions += np.cos(polar)[..., None] * axis
        image = np.ones((n, n, 4))
        image[..., :3] = spin_colours(directions.reshape(-1, 3), "direction", axis).reshape(n, n, 3)
        image[..., 3] = radius <= 1.0
        key.imshow(image, origin="lower", extent=(-1, 1, -1, 1))
        name = next((n for n, v in zip("xyz", np.eye(3), strict=True) if np.allclose(v, axis)), "axis")
        sides = {"x": ("y", "z"), "y": ("x", "−z"), "z": ("x", "y")}.get(name, ("", ""))
        key.text(1.12, 0, sides[0], va="center", fontsize=9)
        key.text(0, 1.1, sides[1], ha="center", fontsize=9)
        drawn.text(
            where[0] + where[2] / 2,
            where[1] - 0.06 / total[1],
            f"centre: +{name}\nrim: −{name}",
            ha="center",
            va="top",
            fontsize=8,
            color="0.3",
        )
        key.axis("off")
    else:
        key.imshow(
            np.linspace(1, -1, 64)[:, None], cmap="coolwarm", vmin=-1, vmax=1, extent=(0, 0.25, -1, 1), aspect="auto"
        )
        key.set(xticks=[], yticks=[-1, 0, 1], xlim=(0, 0.25))
        key.set_position((where[0] + 0.35 / total[0], where[1], 0.18 / total[0], where[3]))
        key.set_title(f"$e_{colour}$", fontsize=10)
        key.grid(False)
    drawn.text(
        1.0 - 0.67 / total[0],
        0.02,
        label(f"longest\n{longest:.3g} µB"),
        ha="center",
        va="bottom",
        fontsize=8,
        color="0.3",
    )


def _around(axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors normal to ``axis`` and each other, right-handed; for z they are x and y."""
    first = np.array([1.0, 0.0, 0.0]) if abs(axis[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    first = first - axis * (first @ axis)
    first /= np.linalg.norm(first)
    return first, np.cross(axis, first)


def _draw_tripod(drawn: Any, total: np.ndarray, camera: np.ndarray) -> None:
    """The directions x, y, z of the crystal in the picture."""
    side = 0.9
    axes = drawn.add_axes((1.0 - 1.12 / total[0], 0.42 / total[1], side / total[0], side / total[1]))
    axes.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal")
    axes.axis("off")
    for name, direction in zip("xyz", camera.T, strict=True):
        x, y = direction[:2]
        if np.hypot(x, y) < 0.05:
            axes.plot(0, 0, "o" if direction[2] > 0 else "x", color="0.3", markersize=5)
            axes.text(-0.3, -0.35, name, fontsize=9, color="0.3")
            continue
        axes.annotate(
            "",
            (x, y),
            (0, 0),
            arrowprops={"arrowstyle": "-|>", "color": "0.3", "linewidth": 1, "shrinkA": 0, "shrinkB": 0},
        )
        axes.text(1.22 * x, 1.22 * y, name, ha="center", va="center", fontsize=9, color="0.3")
