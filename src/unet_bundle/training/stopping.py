"""Ctrl-C and SIGTERM: a run ends where its state is whole, not in the middle of a step."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from types import FrameType
from typing import Any, NoReturn

from monai.data.utils import worker_init_fn

from unet_bundle.runtime import EXIT_TERMINATED

logger = logging.getLogger(__name__)


class StopSignals:
    """Notices SIGINT (Ctrl-C) and SIGTERM (schedulers, torchrun, containers) while a run is under way.

    A host's own handling of a signal stays, and nothing is noticed outside of the main thread. A second Ctrl-C
    interrupts at once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._usual: dict[signal.Signals, Any] = {}

    def watch(self) -> None:
        """Notice signals from now on."""
        self.received = None
        if threading.current_thread() is not threading.main_thread():
            return
        for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) is default:
                self._usual[number] = signal.signal(number, self._receive)

    def unwatch(self) -> None:
        """Leave signals to whom they went before."""
        for number, usual in self._usual.items():
            with contextlib.suppress(ValueError):  # a host may end the run from another thread
                signal.signal(number, usual)
        self._usual.clear()

    def stop(self) -> NoReturn:
        """End the process as the signal asks for, through everything that has to be closed.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: with the status 143, after SIGTERM (or in a process that others made stop).
        """
        if self.received is signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(EXIT_TERMINATED)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is None:
            logger.info("%s: the run stops after this step.", signal.Signals(number).name)
        self.received = signal.Signals(number)


def start_worker(worker_id: int) -> None:
    """Begin a process of the data loader: signals for all of a terminal or job are the main process's to heed.

    A worker that ended by one would take the main process along, in the middle of its step. The main process itself can
    still end it.
    """
    worker_init_fn(worker_id)  # for hosts that draw without seeds
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux, where schedulers send SIGTERM to every process of a job
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_heed_only, args=(os.getppid(),), daemon=True).start()


def _heed_only(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
