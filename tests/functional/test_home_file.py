"""Files in a home whose owner is hostile."""

import contextlib
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError

KEYS = ".ssh/authorized_keys"


@pytest.fixture
def home(account):
    return Path(account.pw_dir)


def test_a_file_that_is_not_there(modules, account, home):
    assert modules.home_file.read(str(home), account.pw_uid, KEYS) is None
    assert modules.home_file.remove(str(home), account.pw_uid, KEYS) is False


def test_round_trip(modules, account, home):
    modules.home_file.write(str(home), account.pw_uid, account.pw_gid, KEYS, "one\n")
    modules.home_file.write(str(home), account.pw_uid, account.pw_gid, KEYS, "two\n")
    assert modules.home_file.read(str(home), account.pw_uid, KEYS) == "two\n"
    for path, mode in ((home / ".ssh", 0o700), (home / KEYS, 0o600)):
        info = path.lstat()
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (
            account.pw_uid,
            account.pw_gid,
            mode,
        )
    assert os.listdir(home / ".ssh") == ["authorized_keys"]
    assert modules.home_file.remove(str(home), account.pw_uid, KEYS) is True
    assert not (home / KEYS).exists()


def make_link(home, account, victim):
    (home / ".ssh").mkdir()
    (home / KEYS).symlink_to(victim)


def make_hard_link(home, account, victim):
    (home / ".ssh").mkdir()
    os.link(victim, home / KEYS)


def make_folder_link(home, account, victim):
    (home / ".ssh").symlink_to(victim.parent)


def make_fifo(home, account, victim):
    (home / ".ssh").mkdir()
    os.mkfifo(home / KEYS)


def make_folder(home, account, victim):
    (home / KEYS).mkdir(parents=True)


def make_home_link(home, account, victim):
    home.rename(home.with_name("moved"))
    home.symlink_to(victim.parent)


def make_link_to_own_file(home, account, victim):
    """Owned by the right person, so that only the link itself gives it away."""
    os.chown(victim, account.pw_uid, account.pw_gid)
    make_link(home, account, victim)


def make_link_to_own_folder(home, account, victim):
    for path in (victim, victim.parent):
        os.chown(path, account.pw_uid, account.pw_gid)
    make_folder_link(home, account, victim)


@pytest.mark.parametrize(
    "trap",
    [
        make_link_to_own_file,
        make_link_to_own_folder,
        make_link,
        make_hard_link,
        make_folder_link,
        make_fifo,
        make_folder,
        make_home_link,
    ],
)
def test_traps(modules, account, home, request, trap):
    """Nothing outside the home is read or changed, whatever the person puts there."""
    # On the file system of the homes: a hard link does not reach further.
    folder = Path("/home/outside")
    folder.mkdir()
    request.addfinalizer(lambda: shutil.rmtree(folder))
    victim = folder / "authorized_keys"
    victim.write_text("root's own\n")
    trap(home, account, victim)
    for path in (home / ".ssh", home / KEYS):
        if path.is_symlink() or path.exists():
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    before = victim.stat()
    with pytest.raises(CommandExecutionError):
        modules.home_file.read(str(home), account.pw_uid, KEYS)
    # Replacing the name itself is harmless; following it would not be.
    with contextlib.suppress(CommandExecutionError, OSError):
        modules.home_file.write(str(home), account.pw_uid, account.pw_gid, KEYS, "new\n")
    assert victim.read_text() == "root's own\n"
    # A hard link shares its owner with the file, which the trap above gave away on purpose.
    if trap is not make_hard_link:
        assert victim.stat().st_uid == before.st_uid


def test_a_folder_of_somebody_else(modules, account, home):
    """No link, and still not this person's: moved here from elsewhere, or left by an admin."""
    (home / ".ssh").mkdir()
    (home / KEYS).write_text("somebody's\n")
    os.chown(home / KEYS, account.pw_uid, account.pw_gid)
    with pytest.raises(CommandExecutionError, match="does not belong to uid"):
        modules.home_file.read(str(home), account.pw_uid, KEYS)
    with pytest.raises(CommandExecutionError, match="does not belong to uid"):
        modules.home_file.write(str(home), account.pw_uid, account.pw_gid, KEYS, "new\n")
    assert (home / KEYS).read_text() == "somebody's\n"


def test_a_folder_above_that_others_can_write_to(modules, account, tmp_path):
    (tmp_path / "home").mkdir()
    tmp_path.chmod(0o777)
    with pytest.raises(CommandExecutionError, match="others than root can change"):
        modules.home_file.read(str(tmp_path / "home"), account.pw_uid, KEYS)


def test_a_folder_that_is_swapped_for_a_link_all_the_time(modules, account, home, tmp_path):
    """Races against a person who swaps ~/.ssh: root's file is never touched."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "authorized_keys").write_text("root's own\n")
    stop = threading.Event()

    def swap():
        real, link, aside = home / ".ssh", home / "link", home / "aside"
        while not stop.is_set():
            # Root made a folder of that name in between: begin again.
            with contextlib.suppress(OSError):
                link.symlink_to(outside)
                real.rename(aside)
                link.rename(real)
                real.unlink()
                aside.rename(real)
            for path in (link, aside):
                path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)

    (home / ".ssh").mkdir(mode=0o700)
    os.chown(home / ".ssh", account.pw_uid, account.pw_gid)
    thread = threading.Thread(target=swap)
    thread.start()
    written = 0
    try:
        for _ in range(500):
            try:
                modules.home_file.write(str(home), account.pw_uid, account.pw_gid, KEYS, "mine\n")
                written += 1
            except (CommandExecutionError, OSError):
                pass
    finally:
        stop.set()
        thread.join()
    assert written, "the race was never won, so nothing was tried"
    assert (outside / "authorized_keys").read_text() == "root's own\n"
    assert os.listdir(outside) == ["authorized_keys"]
