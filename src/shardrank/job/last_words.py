"""What is still said where this process is ended from one moment to the next.

Ray's core ends the driver by itself where the daemon of its node signs off, and the kernel where
memory is short: no handler, no thread and no `finally` runs then.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress

_SCRIPT = 'read -r word || printf "%s\\n" "$0" >&2'
"""Of a shell that waits: at the end of its input without a word it says what it was given."""
_WAIT_SECONDS = 5.0


class LastWords:
    """A message that a shell beside this process writes to stderr when this process is gone.

    Where there is no shell, nothing is said.
    """

    def __init__(self, message: str) -> None:
        self._shell: subprocess.Popen[bytes] | None = None
        with suppress(OSError):
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, message],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )

    def take_back(self) -> None:
        """Let nothing be said: this process comes to its own end. May be called twice."""
        shell, self._shell = self._shell, None
        if shell is None:
            return
        with suppress(OSError, subprocess.TimeoutExpired):
            shell.communicate(b"well\n", timeout=_WAIT_SECONDS)
