"""SIGINT and SIGTERM as a wish to stop: the step is finished, a checkpoint is written; a second signal stops at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def caught_signals(second: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM append their number to; after a second signal, and a call of ``second``, all is over."""
    caught: list[int] = []

    def handler(number, frame):
        if caught:
            second()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        caught.append(number)
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):  # print may be in the middle of a line of its own
            os.write(2, f"spinmd: {name}: stopping; a second signal stops at once\n".encode())

    with _handling(handler, signal.SIGINT, signal.SIGTERM):
        yield caught


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[list[int]]:
    """For scripts: the first Ctrl-C only goes into the list, so that no step is cut in two; a second one interrupts.

    Does nothing where Ctrl-C does not mean KeyboardInterrupt, or outside the main thread.
    """
    caught: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield caught
        return

    def handler(number, frame):
        caught.append(number)
        signal.signal(number, signal.default_int_handler)

    with _handling(handler, signal.SIGINT):
        yield caught


@contextlib.contextmanager
def _handling(handler, *numbers: int) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
