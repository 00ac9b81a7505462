"""Files of root's: what is kept when one is replaced, and which paths root does not follow."""

import os
import stat
import struct
import subprocess
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


def test_a_diff_holds_what_salt_can_send(modules):
    diff = modules.root_file.diff("/etc/x", "a \udcfc \u00fc\n", "b\n")
    assert diff.splitlines()[3:] == ["-a \\xfc \u00fc", "+b"]


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


def test_one_folder_is_made_and_no_more(modules, folder):
    path = folder / "none" / "made" / "file"
    with pytest.raises(CommandExecutionError, match=f"{path}: No such file"):
        modules.root_file.write(str(path), "text\n")
    assert os.listdir(folder) == []


def test_what_is_no_file_stays(modules, folder):
    """A link to /dev/null turns a file off; the device is everybody's."""
    (folder / "off").symlink_to("/dev/null")
    (folder / "sub").mkdir()
    for name in ("off", "sub"):
        for text in ("text\n", None):
            with pytest.raises(CommandExecutionError, match="is no regular file"):
                modules.root_file.write(str(folder / name), text)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_what_cannot_be_read_is_an_error_and_nobody_is_waited_for(modules, folder):
    with pytest.raises(CommandExecutionError, match=f"{folder}: Is a directory"):
        modules.root_file.read(str(folder))
    os.mkfifo(folder / "pipe")
    assert modules.root_file.read(str(folder / "pipe")) == ""


def test_a_full_disk_is_an_error_that_names_the_file(modules, folder):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=755", "none", folder], check=True)
    try:
        path = folder / "file"
        path.write_text("old\n")
        with pytest.raises(CommandExecutionError, match=f"{path}: No space left"):
            modules.root_file.write(str(path), "x" * 100_000)
        assert (os.listdir(folder), path.read_text()) == (["file"], "old\n")
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_diff_shows_only_what_changes(modules):
    text = "auth required pam_mysql.so passwd=hidden\n"
    diff = modules.root_file.diff("/etc/pam.d/x", text, text + "auth required pam_unix.so\n")
    assert "+auth required pam_unix.so\n" in diff
    assert "hidden" not in diff
