"""Real hosts to test on: `with Lab() as lab: lab.hosts["jump01"].run("id")`."""

from tests.lab.client import Login
from tests.lab.host import Host
from tests.lab.lab import Lab

__all__ = ["Host", "Lab", "Login"]
