"""One whole run on the Salt releases before the newest: applied, logged in, applied again."""

import pytest

from tests.integration.support import (
    WINDOW,
    apply_masterless,
    make_masterless,
    person,
    pillar,
    succeeded,
)
from tests.lab import Lab, roots
from tests.lab.host import Spec
from tests.lab.totp import Codes


@pytest.mark.parametrize("version", ["3006", "3007"])
def test_a_whole_run(version):
    with Lab([Spec("jump01", roots.salt("12", version), sees_repository=True)]) as lab:
        host = lab.hosts["jump01"]
        assert f" {version}." in host.run(["salt-call", "--version"]).stdout
        people = {"ann": person(lab, "ann"), "robot": person(lab, "robot", role="robot", totp=None)}
        make_masterless(host, pillar(**people))
        succeeded(apply_masterless(host))
        codes = Codes(people["ann"]["totp"]["secret"], window=WINDOW)
        code = codes.next()
        assert lab.client.login(host.name, "ann", key="ann", code=code).ok
        assert not lab.client.login(host.name, "ann", key="ann", code=code).ok
        assert not lab.client.login(host.name, "ann", key="ann").ok
        assert not lab.client.login(host.name, "ann", code=codes.next()).ok
        assert lab.client.login(host.name, "robot", key="robot").ok
        assert succeeded(apply_masterless(host)).changes == {}
        assert not lab.client.login(host.name, "ann", key="ann", code=code).ok
