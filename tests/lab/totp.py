"""One-time codes, as a person's phone shows them."""

import threading
import time

import pyotp

STEP = 30  # seconds


class Codes:
    """Codes of one secret, each handed out once.

    The server spends a code when it lets somebody in with it, so no two logins may share one. With
    window 3 it takes those of the last step, this one and the next: three logins at once, then one
    every 30 seconds.

    Args:
        secret: base32, as in the pillar.
        window: steps that the server takes, an odd number.
    """

    def __init__(self, secret: str, window: int = 3):
        self._totp = pyotp.TOTP(secret, interval=STEP)
        self._reach = (window - 1) // 2
        self._last = 0
        self._lock = threading.Lock()

    def next(self) -> str:
        """A code of a step that was not handed out before; waits until there is one."""
        with self._lock:
            now = int(time.time()) // STEP
            step = max(self._last + 1, now - self._reach)
            # The oldest step is about to leave the window: not that one.
            if step == now - self._reach and self._left() < 3:
                step += 1
            self._last = step
            while step > int(time.time()) // STEP + self._reach:
                time.sleep(self._left() + 0.1)
            return self._totp.at(step * STEP)

    @staticmethod
    def _left() -> float:
        """Seconds until the next step."""
        return STEP - time.time() % STEP
