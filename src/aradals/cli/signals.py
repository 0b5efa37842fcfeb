"""Signals that ask a command to end: it ends at once, keeps its state, and says so by its exit status."""

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
"""Programs such as `timeout` send one signal twice, to the process and to its group."""


class Interrupted(BaseException):
    """A signal has asked the command to end.

    It is no `Exception`, no `KeyboardInterrupt` and no `SystemExit`: other people's code catches those.
    """


class StopSignals:
    """Within the block, a signal raises `Interrupted` in the main thread, from `arm` to `disarm`.

    The first signal counts. A second one that comes more than a second later ends the process on the spot: the code
    that is running has then caught `Interrupted`, or hangs while it cleans up. A signal that is ignored stays ignored,
    as `nohup` wants it. Outside the main thread, where Python has no handlers, nothing happens.

    Attributes:
        received: the first signal; None before.
        message: the line that tells the user what an interruption means now.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.message = "interrupted; nothing was done"
        self._armed = False
        self._first = 0.0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # None: a handler that is not Python's
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def arm(self) -> None:
        """Raise `Interrupted` at a signal from here on, and for one that has come already."""
        self._armed = True
        if self.received is not None:
            raise Interrupted

    def disarm(self) -> None:
        """Only note signals from here on."""
        self._armed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker, forked while the handlers were in place
            self._handle_in_child(number, frame)
        elif self.received is None:
            self.received, self._first = number, time.monotonic()
            if self._armed:
                raise Interrupted
        elif time.monotonic() - self._first > _SAME_SECONDS:
            try:
                os.write(2, f"{self.message}\n".encode())
            finally:
                os._exit(128 + self.received)

    def _handle_in_child(self, number: int, frame: FrameType | None) -> None:
        """What would happen without our handlers."""
        if number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        sys.exit(128 + number)  # not reached where the default ends the process
