"""Spectra of long series by Welch's method: overlapping segments with a window, transformed one by one, in bounded memory.

    S(ω) = 1/(2π) ∫ dt e^{iωt} ⟨a*(0) a(t)⟩   ≈   mean over segments of  Δt |Σ_t w_t a_t e^{iωt}|² / (2π Σ_t w_t²)

so that a ∝ e^{−iω₀t} has its line at +ω₀, and Σ_k S(ω_k) Δω is the mean of |a|², weighted with w², to rounding. Frames arrive in
any number at a time; segments, and with them all results, are the same.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from spinmd.errors import InputError
from spinmd.units import HBAR

WINDOWS = ("hann", "none")
SEGMENTS = 4
FEWEST = 16  # frames of a segment
CENTRAL = 1.5  # spacings of energy around zero in which a static line hides all others
ALIASED = 0.02  # of the highest value of a spectrum, at the highest energy
HBAR_MEV = 1.0e3 * HBAR  # meV ps
MEV_PER_THZ = 2.0 * math.pi * HBAR_MEV


@dataclass(frozen=True)
class Welch:
    """Segments of ``length`` frames, ``hop`` apart, ``count`` of them, with ``weights`` (length,); frames are ``dt`` ps apart."""

    length: int
    hop: int
    count: int
    weights: np.ndarray
    dt: float
    window: str = "hann"
    notes: list[str] = field(default_factory=list)

    @property
    def energy(self) -> np.ndarray:
        """(length,) ħω in meV, ascending, of both signs."""
        return 2.0 * math.pi * HBAR_MEV * np.fft.fftshift(np.fft.fftfreq(self.length, self.dt))

    @property
    def step(self) -> float:
        """meV between energies."""
        return 2.0 * math.pi * HBAR_MEV / (self.length * self.dt)

    @property
    def resolution(self) -> float:
        """meV: half width at half maximum of a sharp line."""
        return (0.7203 if self.window == "hann" else 0.4429) * self.step

    @property
    def independent(self) -> float:
        """How many independent segments the overlapping ones are worth."""
        if self.count < 2 or self.hop >= self.length:
            return float(self.count)
        w = self.weights
        shared = (float(w[self.hop :] @ w[: -self.hop]) / float(w @ w)) ** 2
        return self.count / (1.0 + 2.0 * shared * (self.count - 1) / self.count)

    @property
    def correlation(self) -> np.ndarray:
        """(length,) autocorrelation of the window, 1 at zero: what a finite segment multiplies correlations with."""
        size = 1 << (2 * self.length - 1).bit_length()
        return np.fft.irfft(np.abs(np.fft.rfft(self.weights, size)) ** 2, size)[: self.length] / float(
            self.weights @ self.weights
        )

    def transform(self, segment: np.ndarray) -> np.ndarray:
        """(length, ...) Σ_t w_t a_t e^{iωt} √(Δt/(2πħ Σw²)): its |.|² is S per meV, in the order of ``energy``."""
        from scipy.fft import ifft

        weighted = segment * self.weights.reshape(-1, *[1] * (segment.ndim - 1))
        norm = math.sqrt(self.dt / (2.0 * math.pi * HBAR_MEV * float(self.weights @ self.weights)))
        return np.fft.fftshift(ifft(weighted, axis=0, norm="forward", overwrite_x=True), axes=0) * norm

    def aliasing(self, energy: np.ndarray, spectrum: np.ndarray) -> list[str]:
        """A note if a spectrum (n,) over energies reaches the highest that the frames hold: what lies beyond is folded back."""
        top = float(np.abs(self.energy).max())
        edge, inside = np.abs(energy) > 0.95 * top, np.abs(energy) > CENTRAL * self.step
        if not edge.any() or spectrum[edge].mean() < ALIASED * spectrum[inside].max():
            return []
        return [
            f"the spectrum reaches {top:.4g} meV, the highest energy of frames {1.0e3 * self.dt:.4g} fs apart: what lies beyond is "
            "folded back to wrong energies; store frames more often (output.trajectory in the deck)"
        ]

    def settings(self) -> dict:
        """For the record."""
        return {"window": self.window, "segments": self.count, "segment_frames": self.length}


def welch(frames: int, dt: float, segments: int = SEGMENTS, window: str = "hann", longest: int | None = None) -> Welch:
    """Plan of ``segments`` segments over so many frames: half overlapping under a Hann window, side by side without ("none").

    longest  frames of a segment that the memory holds; then there are more segments, and a note

    InputError for too few frames, and for an unknown window.
    """
    if window not in WINDOWS:
        raise InputError(f"expected {' or '.join(WINDOWS)}, got {window!r}", "--window")
    if segments < 1:
        raise InputError(f"expected at least 1, got {segments}", "--segments")
    notes = []

    def length_of(count: int) -> int:
        return frames // count if window == "none" else 2 * (frames // (count + 1)) if count > 1 else frames

    length = length_of(segments)
    if length < FEWEST:
        raise InputError(
            f"{frames} frames in {segments} segments leave {length} for each, at least {FEWEST} are needed; store more frames "
            "(output.trajectory in the deck), widen --from and --to, or take fewer --segments",
            "--segments",
        )
    if longest is not None and length > longest:
        while length > longest:
            segments += max(1, segments // 8)
            length = length_of(segments)
        notes.append(
            f"segments have {length} frames, as many as the memory holds; fewer wave vectors or atoms would allow longer ones"
        )
    hop = length if window == "none" else max(1, length // 2)
    count = 1 + (frames - length) // hop
    weights = np.ones(length) if window == "none" else np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2
    return Welch(length, hop, count, weights, dt, window, notes)


class Slices:
    """Collects frames and gives out segments: ``for segment in slices.add(block)``; a segment is a view, use it at once."""

    def __init__(self, length: int, hop: int, shape: tuple[int, ...], dtype=np.float64):
        self.length, self.hop = length, hop
        self._kept = np.empty((length, *shape), dtype=dtype)
        self._filled = 0

    def add(self, block: np.ndarray) -> Iterator[np.ndarray]:
        """Frames (f, ...) that follow those before."""
        at = 0
        while at < len(block):
            taken = min(len(block) - at, self.length - self._filled)
            self._kept[self._filled : self._filled + taken] = block[at : at + taken]
            self._filled, at = self._filled + taken, at + taken
            if self._filled == self.length:
                yield self._kept
                left = self.length - self.hop
                if left > 0:
                    self._kept[:left] = self._kept[self.hop :].copy()
                self._filled = max(left, 0)

    @property
    def rest(self) -> np.ndarray:
        """Frames that have not filled a segment yet, with those that the last one shares."""
        return self._kept[: self._filled]


class MeanSpectrum:
    """Mean and standard error over segments, added one by one in the order of time."""

    def __init__(self, plan: Welch, shape: tuple[int, ...]):
        self._plan, self._count = plan, 0
        self._mean, self._spread = np.zeros(shape), np.zeros(shape)

    def add(self, values: np.ndarray, part=...) -> None:
        """One segment's values, or a ``part`` of them; call ``next`` after the last part."""
        change = values - self._mean[part]
        self._mean[part] += change / (self._count + 1)
        self._spread[part] += change * (values - self._mean[part])

    def next(self) -> None:
        """The segment is complete."""
        self._count += 1

    @property
    def mean(self) -> np.ndarray:
        return self._mean

    @property
    def error(self) -> np.ndarray | None:
        """None with fewer than two segments."""
        if self._count < 2:
            return None
        return np.sqrt(np.maximum(self._spread, 0.0) / (self._count - 1) / self._plan.independent)
