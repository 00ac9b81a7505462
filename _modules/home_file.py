"""
Read and write a file in somebody's home, against an owner who races every step.

A person can rename, link and swap whatever lies in their own home while root works there.
So nothing in a home is ever named by a path: the folders are opened one below the other,
never through a symbolic link, and what was opened is judged by its descriptor.
"""

import contextlib
import os
import secrets
import stat
from pathlib import Path, PurePosixPath

from salt.exceptions import CommandExecutionError

__virtualname__ = "home_file"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: A FIFO must not hold root up, hence O_NONBLOCK.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def __virtual__():
    return __virtualname__


def read(home, uid, name, limit=1 << 20):
    """
    Return the text of a file in a home, or ``None`` where there is none.

    home
        Absolute path of the home. Root must own every folder above it.

    uid
        Who has to own the home, the folders in it and the file.

    name
        Path of the file below the home, such as ``.ssh/authorized_keys``.

    limit
        Largest size that is read, in bytes. Default: 1 MiB

    Raises CommandExecutionError for what is not a regular file of that person's with one
    name: a link, a FIFO, somebody else's file.

    CLI Example:

    .. code-block:: bash

        salt-call --local home_file.read /home/sean 1000 .ssh/authorized_keys
    """
    try:
        with _folder(home, uid, name) as folder, _opened(folder, name) as fd:
            info = os.fstat(fd)
            wrong = _wrong(info, uid, limit)
            if wrong:
                raise CommandExecutionError(f"{home}/{name}: {wrong}")
            return os.read(fd, info.st_size).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def write(home, uid, gid, name, text, mode=0o600):
    """
    Replace a file in a home atomically; a missing folder in between is made, mode 0700.

    home, uid, name
        As for :py:func:`read`.

    gid
        Group of the file and of a folder that has to be made.

    mode
        Permissions of the file. Default: ``0600`` (octal)

    CLI Example:

    .. code-block:: bash

        salt-call --local home_file.write /home/sean 1000 1000 .hushlogin ''
    """
    with _folder(home, uid, name, make_for=gid) as folder:
        base = PurePosixPath(name).name
        temp = f".{base}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temp, flags, 0o600, dir_fd=folder)
        try:
            with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape", newline="") as out:
                out.write(text)
                out.flush()
                os.fchown(fd, uid, gid)
                os.fchmod(fd, mode)
                os.fsync(fd)
            os.rename(temp, base, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temp, dir_fd=folder)
            raise
        os.fsync(folder)
    return True


def remove(home, uid, name):
    """
    Remove a file from a home. Returns whether there was one.

    CLI Example:

    .. code-block:: bash

        salt-call --local home_file.remove /home/sean 1000 .google_authenticator
    """
    try:
        with _folder(home, uid, name) as folder:
            os.unlink(PurePosixPath(name).name, dir_fd=folder)
            os.fsync(folder)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def _folder(home, uid, name, make_for=None):
    """Descriptor of the folder in which the file is, reached without following a link."""
    above = Path(os.path.realpath(Path(home).parent))
    for step in [above, *above.parents]:
        info = step.lstat()
        if info.st_uid != 0 or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise CommandExecutionError(
                f"{home}: others than root can change {step};"
                f" run: chown root {step}; chmod go-w {step}"
            )
    with contextlib.ExitStack() as opened:
        fd = os.open(above, _DIRECTORY)
        opened.callback(os.close, fd)
        for part in [Path(home).name, *PurePosixPath(name).parts[:-1]]:
            if make_for is not None and part != Path(home).name:
                _make_folder(fd, part, uid, make_for)
            try:
                fd = os.open(part, _DIRECTORY, dir_fd=fd)
            except FileNotFoundError:
                raise
            except OSError as err:
                raise CommandExecutionError(
                    f"{home}: {part} is a link, or no folder that root may enter: {err.strerror}"
                ) from None
            opened.callback(os.close, fd)
            if os.fstat(fd).st_uid != uid:
                raise CommandExecutionError(f"{home}: {part} does not belong to uid {uid}")
        yield fd


def _make_folder(parent, part, uid, gid):
    with contextlib.suppress(FileExistsError):
        os.mkdir(part, 0o700, dir_fd=parent)
        fd = os.open(part, _DIRECTORY, dir_fd=parent)
        try:
            # A folder that was moved here in between stays whose it is; ours is still empty.
            if os.fstat(fd).st_uid == os.geteuid() and not os.listdir(fd):
                os.fchown(fd, uid, gid)
        finally:
            os.close(fd)


@contextlib.contextmanager
def _opened(folder, name):
    try:
        fd = os.open(PurePosixPath(name).name, _FILE, dir_fd=folder)
    except OSError as err:
        if isinstance(err, FileNotFoundError):
            raise
        raise CommandExecutionError(f"{name}: {err.strerror}; is it a link?") from None
    try:
        yield fd
    finally:
        os.close(fd)


def _wrong(info, uid, limit):
    if not stat.S_ISREG(info.st_mode):
        return "not a regular file"
    if info.st_uid != uid:
        return f"belongs to uid {info.st_uid}, not to {uid}"
    if info.st_nlink != 1:
        return "has a second name (a hard link)"
    if info.st_size > limit:
        return f"larger than {limit} bytes"
    return ""
