"""The hosts that integration tests speak of.

`LAB_RUN=mfa0 pytest tests/integration/test_x.py` works on the lab that `./lab up` left running,
instead of booting one.
"""

import os

import pytest

from tests.lab import Lab
from tests.lab.lab import running

JUMP_HOSTS = ["jump01", "jump02"]


@pytest.fixture(scope="session")
def lab():
    """All hosts; what a test leaves on them, the next one finds."""
    if os.environ.get("LAB_RUN"):
        yield running()
        return
    with Lab() as booted:
        yield booted


@pytest.fixture(params=JUMP_HOSTS)
def jump(lab, request):
    """A jump host, in the state in which the test before left it."""
    return lab.hosts[request.param]


@pytest.fixture
def host(lab, jump):
    """A jump host that was never touched."""
    return lab.fresh(jump.name)


@pytest.fixture(scope="module", params=JUMP_HOSTS)
def shared(lab, request):
    """A jump host that was never touched before this module's first test."""
    return lab.fresh(request.param)
