"""What the lab says while it works."""

import os
import time

# The lab goes on in another interpreter, and runs pytest in others still: one clock for all.
_START = float(os.environ.setdefault("LAB_START", str(time.monotonic())))


class LabError(Exception):
    """The lab cannot go on; the text says why and what mends it."""


def elapsed() -> float:
    """Seconds since the lab's start."""
    return time.monotonic() - _START


def progress(text: str) -> None:
    """Print one line with the time since the lab's start."""
    print(f"[{elapsed():6.1f} s] {text}", flush=True)
