"""The lab that all integration tests share, and its jump hosts, one of each Debian release."""

import pytest

from tests.lab import Lab

JUMP_HOSTS = ["jump01", "jump02"]


@pytest.fixture(scope="session")
def lab():
    with Lab() as lab:
        yield lab


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
