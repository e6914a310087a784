"""The few exceptions that spinmd raises on purpose, each with the exit code of the command line.

Anything else that escapes is a bug. A message is one sentence that names the place and the remedy.
"""


class SpinmdError(Exception):
    """Base of all deliberate errors."""

    exit_code = 1


class InputError(SpinmdError):
    """The user's input is wrong: a deck, a file, an argument.

    ``place`` is where it is wrong, in the user's terms: ``"integrator.timestep"``, ``"Fe.eam.fs line 12"``.
    """

    exit_code = 2

    def __init__(self, message: str, place: str = ""):
        self.message = message
        self.place = place
        super().__init__(f"{place}: {message}" if place else message)


class DivergedError(SpinmdError):
    """The run diverged (NaN, lost atoms, runaway); the last good state has been saved.

    atom    original index of the atom where it showed, -1 where that is not known;  term  name of the term of the energy
    step    of the run's clock, -1 where that is not known;  place  what in the deck is wrong, where that is clear
    advice  whether a remedy may be added to the message (False: it has its own)
    """

    exit_code = 3

    def __init__(
        self, message: str, *, atom: int = -1, term: str = "", step: int = -1, place: str = "", advice: bool = True
    ):
        self.atom, self.term, self.step, self.place, self.advice = atom, term, step, place, advice
        super().__init__(message)


class DiskError(SpinmdError):
    """The disk refused while a run was going on (full, gone, no permission); what had been saved before is untouched."""

    exit_code = 3


class PointsFailedError(SpinmdError):
    """Some points of a sweep failed; the others are done, and the table of results is written."""

    exit_code = 3


class StoppedError(SpinmdError):
    """The run was stopped by a signal after a checkpoint was written."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number
