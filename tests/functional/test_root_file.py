"""Files of root's: what is kept when one is replaced, and which paths root does not follow."""

import os
import stat
import struct
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError


@pytest.fixture
def folder():
    """A folder below folders that only root can change."""
    made = Path("/etc/made_by_tests")
    made.mkdir(mode=0o755)
    yield made
    for path in sorted(made.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    made.rmdir()


#: Access control list: as the mode says, and uid 1 may read (acl(5), linux/posix_acl_xattr.h).
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, who)
    for tag, permissions, who in (
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 1),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
)


def test_every_byte_survives(modules, folder):
    path = folder / "file"
    path.write_bytes(b"caf\xe9\r\nno end")
    text = modules.root_file.read(str(path))
    modules.root_file.write(str(path), text + "!")
    assert path.read_bytes() == b"caf\xe9\r\nno end!"
    assert modules.root_file.read(str(folder / "none")) is None


def test_owner_mode_acl_and_attributes_are_kept(modules, folder):
    path = folder / "file"
    path.write_text("old\n")
    os.chown(path, 0, 1)
    path.chmod(0o640)
    os.setxattr(path, "user.note", b"kept")
    os.setxattr(path, "system.posix_acl_access", ACL)
    before = path.stat()
    modules.root_file.write(str(path), "new\n")
    info = path.stat()
    assert path.read_text() == "new\n"
    assert info.st_ino != before.st_ino, "not replaced in one step"
    assert (info.st_gid, info.st_mode) == (1, before.st_mode)
    assert os.getxattr(path, "user.note") == b"kept"
    assert os.getxattr(path, "system.posix_acl_access") == ACL
    assert os.listdir(folder) == ["file"]


def test_none_removes(modules, folder):
    path = folder / "file"
    path.write_text("old\n")
    for _ in range(2):
        modules.root_file.write(str(path), None)
        assert os.listdir(folder) == []


@pytest.mark.parametrize(
    "target", ["real/file", "/etc/made_by_tests/real/file", "real/../real/file"]
)
def test_a_link_of_roots_is_followed_and_stays(modules, folder, target):
    (folder / "real").mkdir()
    (folder / "real" / "file").write_text("old\n")
    (folder / "link").symlink_to(target)
    modules.root_file.write(str(folder / "link"), "new\n")
    assert (folder / "link").is_symlink()
    assert (folder / "real" / "file").read_text() == "new\n"


def test_a_link_through_somebodys_folder_is_not_followed(modules, folder, account):
    """Where it ends is root's; but its owner decides where it ends."""
    home = Path(account.pw_dir)
    (folder / "file").write_text("old\n")
    (home / "swapped").symlink_to(folder / "file")
    (folder / "link").symlink_to(home / "swapped")
    for path in (folder / "link", home / "swapped"):
        with pytest.raises(CommandExecutionError, match=f"{home}: belongs to somebody else"):
            modules.root_file.write(str(path), "new\n")
    assert (folder / "file").read_text() == "old\n"


def test_links_in_a_circle(modules, folder):
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")
    with pytest.raises(CommandExecutionError, match="too many symbolic links"):
        modules.root_file.write(str(folder / "one"), "text")


def test_a_folder_that_others_can_write_to_is_refused(modules, folder):
    folder.chmod(0o775)
    with pytest.raises(CommandExecutionError, match=r"others can write to it.*chmod go-w"):
        modules.root_file.write(str(folder / "file"), "text")
    assert os.listdir(folder) == []


def test_a_relative_path_is_refused(modules):
    with pytest.raises(SaltInvocationError, match="expected an absolute path"):
        modules.root_file.write("file", "text")


@pytest.mark.parametrize(("mode", "above"), [(0o644, 0o755), (0o600, 0o700)])
def test_a_missing_folder_whatever_the_umask(modules, folder, mode, above):
    before = os.umask(0o077)
    try:
        modules.root_file.write(str(folder / "made" / "file"), "text\n", mode)
    finally:
        os.umask(before)
    made = folder / "made"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (made, made / "file")] == [above, mode]
