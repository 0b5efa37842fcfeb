"""Signals that ask a command to end: the command ends at once, keeps its state, and returns the matching status."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))

_SAME_SECONDS = 1.0
"""Seconds in which a second signal is ignored: programs such as `timeout` signal the process and its group."""

_REMINDER_SECONDS = 0.2


class Interrupted(BaseException):
    """Raised when a signal has asked the command to end.

    The class is no `Exception`, `KeyboardInterrupt` or `SystemExit`, because user code catches those.
    """


class StopSignals:
    """Block in which a signal raises `Interrupted` in the main thread, from `arm` to `disarm`.

    The first signal counts. If user code catches `Interrupted` and continues, the error is raised again. A second
    signal, at least a second later, ends the process at once. A signal that was ignored before stays ignored, because
    `nohup` relies on this. Outside the main thread, the block does nothing, because Python allows no handlers there.

    Attributes:
        received: the first signal; None if there was none.
        message: the line that tells the user the effect of an interruption.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.message = "interrupted; nothing was done"
        self._armed = False
        self._first = 0.0
        self._reminder = threading.Thread(target=self._remind, daemon=True)
        self._is_reminder = False
        self._over = threading.Event()
        self._process, self._thread = os.getpid(), threading.get_ident()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # None stands for a handler that Python did not set
                    self._before[number] = before
                    signal.signal(number, self._handle)
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._ignore
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.received is not None and self._reminder.is_alive():
            self._over.set()
            self._reminder.join()
        for number, before in self._before.items():
            signal.signal(number, before)
        sys.unraisablehook = self._unraisable

    def arm(self) -> None:
        """Raise `Interrupted` at every signal from now on, and for a signal that was received before."""
        self._armed = True
        if self.received is not None:
            raise Interrupted

    def disarm(self) -> None:
        """Only record signals from now on."""
        self._armed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker that was forked while the handlers were set
            self._handle_in_child(number, frame)
        elif self.received is None:
            self.received, self._first = number, time.monotonic()
            self._reminder.start()
            self._raise()
        elif self._is_reminder:
            self._is_reminder = False
            self._raise()
        elif time.monotonic() - self._first > _SAME_SECONDS:
            try:
                os.write(2, f"{self.message}\n".encode())
            finally:
                os._exit(128 + self.received)

    def _raise(self) -> None:
        """Raise `Interrupted`, except while other code cleans up after it."""
        error = sys.exception() if self._armed else Interrupted()
        while error is not None and not isinstance(error, Interrupted):
            error = error.__context__
        if error is None:
            raise Interrupted

    def _remind(self) -> None:
        """Make the main thread call `_handle` again and again."""
        while not self._over.wait(_REMINDER_SECONDS):
            self._is_reminder = True
            signal.pthread_kill(self._thread, self.received or signal.SIGINT)

    def _ignore(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Hide an `Interrupted` that Python cannot pass on, for example from a ``__del__``."""
        if unraisable.exc_type is not Interrupted:
            self._unraisable(unraisable)

    def _handle_in_child(self, number: int, frame: FrameType | None) -> None:
        """Do what would happen without the handlers of this package."""
        if number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        sys.exit(128 + number)  # not reached if the default handler ends the process
