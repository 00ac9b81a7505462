"""
Read and replace files of root's, such as those below ``/etc``, byte for byte.

A file is replaced in one step, by a rename: whoever opens it finds the old text or the new
one, also when the host loses its power in between.
"""

import contextlib
import difflib
import os
import stat
import tempfile

from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "root_file"

#: How many symbolic links a path may hold, as for the kernel (path_resolution(7)).
_MOST_LINKS = 40


def __virtual__():
    return __virtualname__


def read(path):
    """
    Return the text of a file, or ``None`` where there is none. CommandExecutionError where it
    cannot be read.

    path
        Any path; links are followed, whoever laid them. See :py:func:`target`.

    Bytes that are not UTF-8 stand as lone surrogates, which :py:func:`write` makes the same bytes.

    CLI Example:

    .. code-block:: bash

        salt-call --local root_file.read /etc/pam.d/sshd
    """
    try:
        with open(
            path, encoding="utf-8", errors="surrogateescape", newline="", opener=_open
        ) as source:
            return source.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandExecutionError(f"{path}: {error.strerror}") from error


def write(path, text, mode=0o644):
    """
    Replace a file atomically, or remove it where ``text`` is ``None``. Return ``True``.

    Owner, mode, ACL and label of an existing file are kept. Symbolic links are followed where
    root owns every folder on the way, and nobody else can write to one; anything else is a
    CommandExecutionError that names the folder, and nothing is written. So is what is no regular
    file, a folder that cannot be made, and a disk that is full.

    path
        Absolute, else SaltInvocationError. The file's own folder is made where it is missing,
        private when the file is; those above it must be there.

    text
        All of the file, written as it is: no line feed is added. A file that is to be removed and
        is not there is no error.

    mode
        Permissions of a new file, a number. Default: ``0o644``

    CLI Example:

    .. code-block:: bash

        salt-call --local root_file.write /etc/ssh/banner 'Hello'
    """
    target = _resolve(path)
    # A configuration file that is turned off is often a link to /dev/null.
    if os.path.lexists(target) and not os.path.isfile(target):
        raise CommandExecutionError(f"{path}: {target} is no regular file; put one in its place")
    try:
        _remove(target) if text is None else _lay_out(target, text, mode)
    except OSError as error:
        raise CommandExecutionError(f"{path}: {error.strerror}") from error
    return True


def target(path):
    """
    Return the path of the file to which a path leads, links followed, as :py:func:`write` would
    replace it; it need not be there.

    path
        Absolute, else SaltInvocationError.

    A CommandExecutionError names the folder in which somebody else than root could lay a link: to
    read there what will be shown, in a diff or an error, may be to show a secret of another file.

    CLI Example:

    .. code-block:: bash

        salt-call --local root_file.target /etc/ssh/banner
    """
    return _resolve(path)


def diff(path, old, new):
    """
    Return how a file changes, as a unified diff; ``None`` stands for no file.

    Bytes that are not UTF-8 stand as ``\\xfc``: Salt could not send them back.

    Only lines that change are in it: those around them may hold passwords, and what a state
    returns is kept on the master.

    path
        Stands in the head of the diff; nothing is read there.

    old, new
        Texts, such as :py:func:`read` returns.

    CLI Example:

    .. code-block:: bash

        salt-call --local root_file.diff /etc/ssh/banner 'Hello' 'Good day'
    """
    lines = difflib.unified_diff(
        (old or "").splitlines(keepends=True),
        (new or "").splitlines(keepends=True),
        path if old is not None else "/dev/null",
        path if new is not None else "/dev/null",
        n=0,
    )
    changed = "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
    return changed.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _open(path, flags):
    """Like open(2), but nobody is waited for at the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _resolve(path):
    """The file to which a path leads, through folders and links that only root can change."""
    if not os.path.isabs(path):
        raise SaltInvocationError(f"{path}: expected an absolute path")
    here, steps, links = "/", path.split("/")[::-1], 0
    while steps:
        _refuse_others(here)
        step = steps.pop()
        if step in ("", "."):
            continue
        if step == "..":
            here = os.path.dirname(here)
            continue
        there = os.path.join(here, step)
        try:
            target = os.readlink(there)
        except OSError:  # no link, or not there yet
            here = there
            continue
        links += 1
        if links > _MOST_LINKS:
            raise CommandExecutionError(f"{path}: too many symbolic links")
        here = "/" if target.startswith("/") else here
        steps += target.split("/")[::-1]
    return here


def _refuse_others(folder):
    """Refuse a folder in which anybody but root could swap a name."""
    with contextlib.suppress(FileNotFoundError):
        info = os.lstat(folder)
        if info.st_uid != 0 or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise CommandExecutionError(
                f"{folder}: belongs to somebody else than root, or others can write to it;"
                f" run: chown root {folder}; chmod go-w {folder}"
            )


def _remove(target):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
        _flush(os.path.dirname(target))


def _lay_out(target, text, mode):
    folder = os.path.dirname(target)
    if not os.path.exists(folder):
        os.mkdir(folder, 0o700)
        # Whatever umask the operator's shell has.
        os.chmod(folder, 0o755 if mode & stat.S_IROTH else 0o700)
    _replace(target, text, mode)


def _replace(target, text, mode):
    folder, name = os.path.split(target)
    fd, temp = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape", newline="") as out:
            os.fchmod(fd, mode)
            _copy_metadata(target, fd)
            out.write(text)
            out.flush()
            os.fsync(fd)
        os.replace(temp, target)
    except BaseException:
        os.unlink(temp)
        raise
    _flush(folder)


def _copy_metadata(source, fd):
    """Owner, mode and extended attributes, in which ACLs and SELinux labels are kept."""
    with contextlib.suppress(FileNotFoundError):
        info = os.stat(source)
        os.fchown(fd, info.st_uid, info.st_gid)
        os.fchmod(fd, stat.S_IMODE(info.st_mode))
        for name in os.listxattr(source):
            os.setxattr(fd, name, os.getxattr(source, name))


def _flush(folder):
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
