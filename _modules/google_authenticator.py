"""
The secret file of ``pam_google_authenticator``: read it as the PAM module does, change what is
ours in it, leave what is the module's.

A secret file belongs to two parties. The secret, the option values (``WINDOW_SIZE``,
``STEP_SIZE``, the two numbers of ``RATE_LIMIT``, whether ``DISALLOW_REUSE`` is there) and which
scratch codes were *issued* are the administrator's. What the PAM module notes at every login is
its own: the time stamps behind ``RATE_LIMIT``, the steps behind ``DISALLOW_REUSE``,
``TIME_SKEW``, ``RESETTING_TIME_SKEW``, ``LAST0`` to ``LAST9``, and which scratch codes are spent.
Writing the whole file anew, as a template does, brings spent codes back.

Two option lines are of this module's making; the PAM module skips and keeps what it does not know:

``" SSHD_MFA_ISSUED HASH…``
    Which scratch codes the administrator has issued for this secret, so that a spent one (in
    here, but no longer in the file) is not issued again. Each is the start of an HMAC of the code,
    with the secret as its key.
``" SSHD_MFA_ADOPTED [pending]``
    The file was taken over from ``~/.google_authenticator``; ``pending`` until that one is gone.

No function returns, logs or raises a secret or a scratch code: what shows one writes to the
terminal or to a file of mode 0600.

What is said here about the PAM module comes from its source (release 1.08, as in Debian 12 and 13)
and is checked against it by ``tests/functional/test_secret_file_judge.py``.
"""

import base64
import contextlib
import ctypes
import errno
import functools
import getpass
import hmac
import logging
import os
import pwd
import re
import secrets
import stat
import struct
import time
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from salt.exceptions import CommandExecutionError, SaltInvocationError

log = logging.getLogger(__name__)

__virtualname__ = "google_authenticator"
__func_alias__ = {"list_": "list"}

CENTRAL = "/var/lib/sshd_mfa/totp"
HANDOVER = "/var/lib/sshd_mfa/handover"
HOME_FILE = ".google_authenticator"
ISSUED = "SSHD_MFA_ISSUED"
ADOPTED = "SSHD_MFA_ADOPTED"

_MAX_SIZE = 64 * 1024  # open_secret_file() refuses more, and an empty file
_MIN_SECRET_BITS = 128  # RFC 4226, section 4, R6
_SCRATCH_CODES = range(10_000_000, 100_000_000)
_SPACE = " \t\n\v\f\r"  # isspace(3) in the C locale; Python's \s knows more


def __virtual__():
    return __virtualname__


# ---- The core: text in, values out -----------------------------------------------------------
# Files are bytes; here they are str by way of latin-1, which loses nothing.


@dataclass(frozen=True, repr=False)  # no repr: a secret must not get into a traceback or a log
class _SecretFile:
    """What the PAM module makes of a secret file."""

    key: bytes | None  # the decoded secret; None when the module cannot decode it
    totp: bool
    hotp: bool
    window: int | None  # None: the module refuses the value
    step: int | None  # seconds; None: the module refuses the value
    rate_limit: dict | None  # {"attempts", "seconds"}; None: no limit
    stamps: tuple | None  # of recent attempts, seconds since 1970; None: the module refuses them
    disallow_reuse: bool
    blocked: tuple | None  # steps whose codes are spent; None: the module refuses them
    time_skew: int  # in steps
    scratch_codes: tuple  # unspent, in the order of the file
    issued: tuple | None  # hashes; None: the file has no such record
    adopted: str | None  # None, "pending" or ""
    beyond_mending: tuple = ()  # words: what a merge cannot put right
    refuses_all: tuple = ()  # words: why no code at all is accepted
    refuses_time: tuple = ()  # words: why no time-based code is accepted

    @property
    def problems(self):
        return self.refuses_all + self.refuses_time


_NUMBER = re.compile(rf"[{_SPACE}]*([+-]?)([0-9]+)")


def _strtoul(text, start=0):
    """
    strtoul(3) and the cast to int behind it, as the PAM module uses them: ``(value, end)``, or
    ``(None, start)`` where there is no number or one outside an unsigned long.
    """
    found = _NUMBER.match(text, start)
    value = _integer(found) if found else None
    if value is None or abs(value) >= 2**64:
        return None, start
    return _int32(value), found.end()


def _strtol(text):
    """strtol(3) without a look at errno: no number is 0, one too large is cut off."""
    found = _NUMBER.match(text)
    return max(-(2**63), min(2**63 - 1, _integer(found))) if found else 0


def _integer(found):
    digits = found[2].lstrip("0") or "0"
    value = int(digits) if len(digits) <= 20 else 2**64  # int() raises at more than 4300 digits
    return -value if found[1] == "-" else value


def _int32(value):
    return (value + 2**31) % 2**32 - 2**31


# get_cfg_value(): lines end at CR or LF, and the key is followed by white space or nothing
_OPTION = re.compile(r'(?<![^\r\n])" (?P<key>[^ \t\r\n]*)[ \t]*(?P<value>[^\r\n]*)[\r\n]*')


def _options(text):
    """The values of all options; the first line of each counts."""
    values = {}
    for line in _OPTION.finditer(text):
        values.setdefault(line["key"], line["value"])
    return values


def _option_line(text, key):
    return next((line for line in _OPTION.finditer(text) if line["key"] == key), None)


def _key(secret):
    """
    Decode a secret the way base32_decode() does: blanks and dashes are skipped, lower case is
    taken, 0, 1 and 8 are read as O, L and B, left-over bits are dropped. None when it refuses,
    ``=`` included.
    """
    digits = re.sub(r"[ \t\r\n-]", "", secret)
    if not re.fullmatch(r"[A-Za-z0-8]+", digits):
        return None
    digits = digits.upper().translate(str.maketrans("018", "OLB"))
    return base64.b32decode(digits + "A" * (-len(digits) % 8))[: len(digits) * 5 // 8] or None


def _number(value, default, most):
    """WINDOW_SIZE or STEP_SIZE: the value, or None where the module refuses it."""
    if value is None:
        return default
    number, end = _strtoul(value)
    if number is None or value[end : end + 1] not in ("", " ", "\t") or not 1 <= number <= most:
        return None
    return number


def _limits(value):
    """RATE_LIMIT's value: ``(attempts, seconds, where the stamps begin)``, or None if refused."""
    attempts, end = _strtoul(value)
    if attempts is None or not 1 <= attempts <= 100 or value[end : end + 1] not in (" ", "\t"):
        return None
    seconds, end = _strtoul(value, end)
    if seconds is None or not 1 <= seconds <= 3600:
        return None
    return attempts, seconds, end


def _stamps(value, start):
    """The time stamps behind RATE_LIMIT, or None if refused, as a trailing space is."""
    stamps = []
    while start < len(value):
        stamp, end = _strtoul(value, start)
        if value[start] not in " \t" or stamp is None:
            return None
        stamps.append(stamp % 2**32)
        start = end
    return tuple(stamps)


def _blocked_steps(value):
    """The steps behind DISALLOW_REUSE, or None if refused."""
    steps = []
    position = 0
    while value[position:].strip(" \t"):
        step, end = _strtoul(value, position)
        if step is None or value[end : end + 1] not in ("", " ", "\t"):
            return None
        steps.append(step)
        position = end
    return tuple(steps)


# One way only to match each line: a user's file must not make this take exponential time
_SKIPPED = re.compile(r'(?:[\r\n]|"[^\n]*(?:\n|\Z))*')


def _scratch_code_spans(text):
    """
    ``([(code, start, end)], where the next one goes)``. As in check_scratch_codes(): option lines
    and empty ones are skipped, and the first line that is neither ends the list.
    """
    spans = []
    position = text.find("\n") if "\n" in text else len(text)
    while True:
        position = _SKIPPED.match(text, position).end()
        code, end = _strtoul(text, position)
        if (
            code is None
            or code not in _SCRATCH_CODES
            or text[end : end + 1] not in ("", "\r", "\n")
        ):
            return spans, position
        spans.append((code, position, end))
        position = end


def _parse(text):
    """Read a secret file; what the PAM module refuses stands in ``problems``, without values."""
    key = _key(text.split("\n", 1)[0])
    option = _options(text).get
    limits = _limits(option("RATE_LIMIT", ""))
    issued = option(ISSUED)
    file = _SecretFile(
        key=key,
        totp='" TOTP_AUTH' in text,  # is_totp() looks anywhere
        hotp=_strtol(option("HOTP_COUNTER", "")) > 0,
        window=_number(option("WINDOW_SIZE"), 3, 100),
        step=_number(option("STEP_SIZE"), 30, 60),
        rate_limit={"attempts": limits[0], "seconds": limits[1]} if limits else None,
        stamps=_stamps(option("RATE_LIMIT"), limits[2]) if limits else (),
        disallow_reuse=option("DISALLOW_REUSE") is not None,
        blocked=_blocked_steps(option("DISALLOW_REUSE", "")),
        time_skew=_int32(_strtol(option("TIME_SKEW", ""))),
        scratch_codes=tuple(code for code, _, _ in _scratch_code_spans(text)[0]),
        issued=None if issued is None else tuple(issued.split()),
        adopted=option(ADOPTED),
    )
    damage = _damage(text, key)
    return replace(
        file,
        beyond_mending=(*damage, *((_HOTP,) if file.hotp else ())),
        refuses_all=(*damage, *_refused_at_all(file, option("RATE_LIMIT"))),
        refuses_time=tuple(_refused_times(file)),
    )


_HOTP = "HOTP_COUNTER makes it counter-based; it beats TOTP_AUTH"


def _damage(text, key):
    if not 1 <= len(text) <= _MAX_SIZE:
        return ("the file must have 1 to 65536 bytes",)
    if "\0" in text:
        return ("there is a NUL byte in the file",)
    if key is None:
        return ("the first line is not a secret in base32 without padding (=)",)
    return ()


def _refused_at_all(file, limit):
    if limit is not None and not file.rate_limit:
        yield "RATE_LIMIT needs 1 to 100 attempts and 1 to 3600 seconds"
    elif file.stamps is None:
        yield "RATE_LIMIT must end with numbers, without a space behind the last"


def _refused_times(file):
    if file.hotp:
        yield _HOTP
    elif not file.totp:
        yield "TOTP_AUTH is missing"
    if file.window is None:
        yield "WINDOW_SIZE must be 1 to 100"
    if file.step is None:
        yield "STEP_SIZE must be 1 to 60 seconds"
    if file.blocked is None:
        yield "DISALLOW_REUSE must be followed by numbers only"


# ---- The core: what the PAM module would say to a code ---------------------------------------


def _totp(key, step_number):
    """The six digits of a time step (RFC 6238 with HMAC-SHA-1, as compute_code())."""
    digest = hmac.digest(key, struct.pack(">Q", step_number % 2**64), "sha1")
    offset = digest[-1] & 0xF
    return f"{int.from_bytes(digest[offset : offset + 4], 'big') % 2**31 % 1_000_000:06}"


def _matching_step(file, code, now):
    """
    The step that the module would take a code of six digits for, or None. An even window leans
    to the future. Every step is computed, whatever matched: the time taken tells nothing.
    """
    matches = None
    center = now // file.step + file.time_skew
    for step_number in range(center - (file.window - 1) // 2, center + file.window // 2 + 1):
        step_number = _int32(step_number)
        same = hmac.compare_digest(_totp(file.key, step_number), code)
        if same and matches is None:
            matches = step_number
    return matches


def _rate_limited(file, now):
    """For how many more seconds the module refuses whatever is presented; 0: it does not."""
    if not file.rate_limit:
        return 0
    attempts, seconds = file.rate_limit["attempts"], file.rate_limit["seconds"]
    recent = sorted(stamp for stamp in file.stamps if now - seconds <= stamp <= now)
    if len(recent) < attempts:  # the attempt itself counts, too
        return 0
    return recent[-attempts] + seconds + 1 - now


def _judge(file, code, now):
    """
    What the module says to a code: "right", "spent", "wrong" or "refused" (the file is at fault).
    The rate limit is apart from that: see ``_rate_limited``.
    """
    if file.refuses_all:
        return "refused"
    if re.fullmatch(r"[1-9][0-9]{7}", code):
        hits = [hmac.compare_digest(str(unspent), code) for unspent in file.scratch_codes]
        if any(hits):
            return "right"
        return "spent" if _mark(file.key, code) in (file.issued or ()) else "wrong"
    if not re.fullmatch(r"[0-9]{6}", code):
        return "wrong"
    if file.refuses_time:
        return "refused"
    step_number = _matching_step(file, code, now)
    if step_number is None:
        return "wrong"
    return "spent" if file.disallow_reuse and step_number in file.blocked else "right"


# ---- The core: merge what is ours ------------------------------------------------------------


def _mark(key, code):
    """How a scratch code is remembered as issued. A mark means nothing under another secret."""
    return hmac.digest(key, f"scratch code {code}".encode(), "sha256").hex()[:10]


def _put(text, key, value=""):
    """Set an option: in its first line, or in a new one below the secret."""
    new = f'" {key} {value}'.rstrip()
    line = _option_line(text, key)
    if line:
        return text[: line.start()] + new + text[line.end("value") :]
    secret, _, rest = text.partition("\n")
    return f"{secret}\n{new}\n{rest}"


def _without(text, key):
    return _OPTION.sub(lambda line: "" if line["key"] == key else line[0], text)


def _readable_numbers(text):
    return [number for number in re.findall(r"[0-9]+", text) if len(number) < 19]


def _put_rate_limit(text, file, wanted):
    value = _options(text).get("RATE_LIMIT", "")
    if not wanted:
        return _without(text, "RATE_LIMIT")
    if file.rate_limit and file.stamps is not None:
        stamps = value[_limits(value)[2] :]  # byte for byte
    else:  # mend it, keeping what can be read
        stamps = "".join(f" {number}" for number in _readable_numbers(value)[2:])
    return _put(text, "RATE_LIMIT", f"{wanted['attempts']} {wanted['seconds']}{stamps}")


def _put_settings(text, file, settings):
    """The option values in ``settings``; what is not named there stays."""
    if settings.get("window", file.window) != file.window:
        text = _put(text, "WINDOW_SIZE", settings["window"])
    if settings.get("step", file.step) != file.step:
        text = _put(text, "STEP_SIZE", settings["step"])
    limit = settings.get("rate_limit", file.rate_limit) or None
    refused = file.refuses_all and (limit or "rate_limit" in settings)
    if limit != file.rate_limit or refused:
        text = _put_rate_limit(text, file, limit)
    reuse = settings.get("disallow_reuse", file.disallow_reuse)
    if file.disallow_reuse and not reuse:
        text = _without(text, "DISALLOW_REUSE")
    elif reuse and (not file.disallow_reuse or file.blocked is None):
        blocked = _readable_numbers(_options(text).get("DISALLOW_REUSE", ""))
        text = _put(text, "DISALLOW_REUSE", " ".join(blocked))
    return text if file.totp else _put(text, "TOTP_AUTH")


def _drop_scratch_codes(text, codes):
    """Take codes out of the file, as the module takes out a used one."""
    if not codes:
        return text
    for code, start, end in reversed(_scratch_code_spans(text)[0]):
        if code in codes:
            rest = text[end:].lstrip("\r\n")
            text = text[:start] + rest
    return text


def _add_scratch_codes(text, codes):
    if not codes:
        return text
    place = _scratch_code_spans(text)[1]
    above, below = text[:place], text[place:]
    if not above.endswith(("\n", "\r")):
        above += "\n"
    return above + "".join(f"{code}\n" for code in codes) + below


def _put_scratch_codes(text, file, wanted):
    """
    Issue what was not issued yet, withdraw what is no longer wanted. A code that was issued and is
    not in the file is spent, and stays so; so does, in a file that has no record of what was
    issued, every code that is not in it. Codes that were made on the host are left alone.
    """
    marks = {code: _mark(file.key, code) for code in {*wanted, *file.scratch_codes}}
    issued = file.issued
    if issued is None:
        issued = tuple(marks[code] for code in wanted)
    else:
        known = {*issued, *(marks[code] for code in file.scratch_codes)}
        text = _add_scratch_codes(text, [code for code in wanted if marks[code] not in known])
    withdrawn = {c for c in file.scratch_codes if marks[c] in issued and c not in wanted}
    text = _drop_scratch_codes(text, withdrawn)
    gone = {marks[code] for code in withdrawn}
    record = [mark for mark in issued if mark not in gone]
    record += [marks[code] for code in wanted if marks[code] not in record]
    if file.issued is not None and set(record) == set(file.issued):
        return text
    return _put(text, ISSUED, " ".join(record))


def _render(secret, scratch_codes=(), settings=None):
    """A new secret file, without any live state."""
    text = _put(f"{secret}\n", "TOTP_AUTH")
    text = _put(text, ISSUED, " ".join(_mark(_key(secret), code) for code in scratch_codes))
    return _add_scratch_codes(_put_settings(text, _parse(text), settings or {}), scratch_codes)


def _merge(text, secret=None, scratch_codes=None, settings=None):
    """
    The secret file with our part of it as wanted and the PAM module's part byte for byte as it is;
    the same text when there is nothing to do. ``None`` leaves as it is. A new secret
    begins a new file: live state of the old one means nothing under it.
    """
    file = None if text is None else _parse(text)
    if secret and (file is None or _key(secret) != file.key):
        new = _render(secret, scratch_codes or (), settings)
        return new if file is None or file.adopted is None else _put(new, ADOPTED, file.adopted)
    if file is None:
        raise CommandExecutionError("there is no secret to write")
    if file.beyond_mending:
        raise CommandExecutionError("; ".join(file.beyond_mending))
    text = _put_settings(text, file, settings or {})
    if scratch_codes is not None:
        text = _put_scratch_codes(text, file, scratch_codes)
    return text


def _join(text, other):
    """
    ``text`` with everything counted as spent that is so in ``other``: two files that went separate
    ways from the same beginning.
    """
    ours, theirs = _parse(text), _parse(other)
    if ours.key != theirs.key:
        return text
    text = _drop_scratch_codes(text, set(ours.scratch_codes) - set(theirs.scratch_codes))
    for key, mine, more in (
        ("DISALLOW_REUSE", ours.blocked, theirs.blocked),
        ("RATE_LIMIT", ours.stamps, theirs.stamps),
        (ISSUED, ours.issued, theirs.issued),
    ):
        missing = [str(entry) for entry in more or () if entry not in (mine or ())]
        value = _options(text).get(key)
        if missing and value is not None:
            text = _put(text, key, " ".join([value, *missing]).strip())
    return text


def _changes(before, after):
    """What a merge did, in words and without a secret; {} when it did nothing."""
    if before == after:
        return {}
    new = _parse(after)
    codes = set(new.scratch_codes)
    old = None if before is None else _parse(before)
    if old is None or old.key != new.key:
        changes = {"secret": "set" if old is None else "replaced"}
        return {**changes, "scratch codes": f"{len(codes)} issued"} if codes else changes
    changes = {
        name: {"old": getattr(old, name), "new": getattr(new, name)}
        for name in ("window", "step", "rate_limit", "disallow_reuse")
        if getattr(old, name) != getattr(new, name)
    }
    unspent = set(old.scratch_codes)
    recorded = set(new.issued or ()) - set(old.issued or ())
    counts = {
        "issued": len(codes - unspent),
        "withdrawn": len(unspent - codes),
        "counted as spent": len(recorded - {_mark(new.key, code) for code in codes}),
    }
    if any(counts.values()):
        changes["scratch codes"] = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    mended = [words for words in old.problems if words not in new.problems]
    if mended:
        changes["mended"] = "; ".join(mended)
    return changes or {"scratch codes": "noted which are issued"}


# ---- The core: new secrets, and how they are handed over -------------------------------------


def _generate_secret():
    """160 bits, as RFC 4226 recommends for HMAC-SHA-1."""
    return base64.b32encode(secrets.token_bytes(20)).decode()


def _generate_scratch_codes(count):
    codes = set()
    while len(codes) < count:
        codes.add(_SCRATCH_CODES.start + secrets.randbelow(len(_SCRATCH_CODES)))
    return sorted(codes, key=lambda _: secrets.randbits(32))


def _uri(secret, user, issuer, step=30):
    """
    The otpauth URI that authenticator apps read. ``issuer`` stands in front of the account, too:
    older apps only look there.
    """
    label = f"{quote(issuer, safe='')}:{quote(user, safe='')}"
    period = "" if step == 30 else f"&period={step}"
    return f"otpauth://totp/{label}?secret={secret}&issuer={quote(issuer, safe='')}{period}"


# ---- What the caller gives -------------------------------------------------------------------


def _checked_secret(secret):
    """A secret from the pillar, or an error that says what to do, without the value."""
    if not isinstance(secret, str):
        raise SaltInvocationError("secret: must be text; put it in quotes")
    if "*" in secret:  # pillar.get in SLS files of the renderer py, from Salt 3008 on
        raise SaltInvocationError(
            "secret: has stars in it, which is how Salt 3008 masks pillar values: "
            "name the pillar key to the state instead of handing over what pillar.get returned"
        )
    if "=" in secret:
        raise SaltInvocationError("secret: leave out the padding (=)")
    secret = secret.upper()
    if not re.fullmatch(r"[A-Z2-7]+", secret):
        raise SaltInvocationError("secret: only A-Z and 2-7 (base32), without spaces")
    if len(secret) * 5 < _MIN_SECRET_BITS:
        raise SaltInvocationError(
            f"secret: has {len(secret) * 5} bits, fewer than {_MIN_SECRET_BITS}: "
            "give at least 26 characters"
        )
    return secret


def _checked_scratch_codes(codes):
    if not isinstance(codes, (list, tuple)):
        raise SaltInvocationError("scratch_codes: must be a list")
    for position, code in enumerate(codes):
        if isinstance(code, bool) or not re.fullmatch(r"[1-9][0-9]{7}", str(code)):
            raise SaltInvocationError(
                f"scratch_codes:{position}: must be a number from 10000000 to 99999999"
            )
    codes = [int(code) for code in codes]
    if len(set(codes)) < len(codes):
        raise SaltInvocationError("scratch_codes: has one code twice")
    return codes


def _between(name, value, most):
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise SaltInvocationError(f"{name}: must be a whole number from 1 to {most}")


_DEFAULTS = {
    "store": "central",
    "issuer": "bastion",
    "window": 3,
    "step": 30,
    "rate_limit": {"attempts": 3, "seconds": 30},
    "disallow_reuse": True,
    "scratch_codes": 5,
}
_FILE_SETTINGS = ("window", "step", "rate_limit", "disallow_reuse")
_OTHER_SETTINGS = ("store", "adopt", "issuer", "scratch_codes")


def _checked_settings(settings):
    """The pillar's ``totp`` part, every key of it optional."""
    settings = dict(settings or {})
    unknown = set(settings) - {*_FILE_SETTINGS, *_OTHER_SETTINGS}
    if unknown:
        raise SaltInvocationError(f"settings: no such key: {', '.join(sorted(map(str, unknown)))}")
    if settings.get("store", "central") not in ("central", "home"):
        raise SaltInvocationError("store: must be central or home")
    if "window" in settings:
        _between("window", settings["window"], 100)
    if "step" in settings:
        _between("step", settings["step"], 60)
    for name in ("adopt", "disallow_reuse"):
        if not isinstance(settings.get(name, True), bool):
            raise SaltInvocationError(f"{name}: must be true or false")
    limit = settings.get("rate_limit")
    if limit:
        if not isinstance(limit, dict) or set(limit) != {"attempts", "seconds"}:
            raise SaltInvocationError("rate_limit: needs attempts and seconds, or false")
        _between("rate_limit:attempts", limit["attempts"], 100)
        _between("rate_limit:seconds", limit["seconds"], 3600)
    return settings


# ---- The shell: files ------------------------------------------------------------------------
# Someone hostile may own a home and change everything in it at any time. So no path below a
# home is ever followed: folders are opened step by step, and what is opened is asked for its
# owner. New versions are put in place by exchanging two names, so that a login which wrote in
# between is noticed and not lost.

_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2  # linux/fs.h
_AT_ONCE = 500  # files staged before they are flushed to disk together
_ROUNDS = 10
_PATIENCE = 50  # hundredths of a second that a login may take to write what it has begun to write
_STALE = 60  # seconds after which a temporary file of the PAM module is left over from a crash


@dataclass(frozen=True)
class _Place:
    """Where a secret file is: a name in an open folder, and who must own it."""

    folder: int
    name: str
    uid: int
    gid: int
    path: str
    at_home: bool = False


@dataclass(frozen=True, repr=False)
class _Found:
    text: str
    info: os.stat_result


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _open_folder(path, uid=0):
    """Open a folder that belongs to ``uid`` or root, below folders that only root can change."""
    above = Path(os.path.realpath(Path(path).parent))
    for step in (above, *above.parents):
        _check_roots_own(step, step.lstat())
    parent = os.open(above, _FOLDER)
    try:
        folder = os.open(Path(path).name, _FOLDER, dir_fd=parent)
    except NotADirectoryError:
        raise CommandExecutionError(f"{path}: is not a folder, or is a link") from None
    finally:
        os.close(parent)
    info = os.fstat(folder)
    try:
        if not uid or info.st_uid != uid:
            _check_roots_own(path, info)
    except CommandExecutionError:
        os.close(folder)
        raise
    return folder


def _check_roots_own(path, info):
    if info.st_uid != 0 or info.st_mode & 0o022:
        raise CommandExecutionError(
            f"{path}: others than root can change it; run: chown root {path}; chmod go-w {path}"
        )


def _read(place):
    """What is in the place, or None. Raises CommandExecutionError for what is no plain file."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(place.name, flags, dir_fd=place.folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandExecutionError(f"{place.path}: {error.strerror}; is it a link?") from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise CommandExecutionError(f"{place.path}: is not a regular file")
        if info.st_nlink != 1:
            raise CommandExecutionError(f"{place.path}: has a second name (a hard link)")
        if place.at_home and info.st_uid != place.uid:
            raise CommandExecutionError(f"{place.path}: belongs to somebody else")
        return _Found(os.read(fd, _MAX_SIZE + 1).decode("latin-1"), info)
    finally:
        os.close(fd)


def _misplaced(place, found):
    """What the PAM module refuses about owner and mode; 0400, which it sets itself, is right."""
    mode = stat.S_IMODE(found.info.st_mode)
    wrong = {}
    if mode & 0o3777 & ~0o600 or not mode & 0o400:
        wrong["mode"] = {"old": f"{mode:04o}", "new": "0600"}
    if found.info.st_uid != place.uid:
        wrong["owner"] = {"old": found.info.st_uid, "new": place.uid}
    return wrong


def _stage(place, data):
    """Write a new version beside the file, not flushed yet; returns its name and its inode."""
    # named as the PAM module names its own, so that what a crash leaves is swept with those
    name = f"{place.name}~{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=place.folder)
    try:
        with os.fdopen(fd, "wb") as staged:
            staged.write(data)
            staged.flush()
            os.fchown(fd, place.uid, place.gid)
            os.fchmod(fd, 0o600)
            return name, os.fstat(fd).st_ino
    except BaseException:
        _unlink(place, name)
        raise


def _unlink(place, name):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place.folder)


_LIBC = ctypes.CDLL(None, use_errno=True)


def _libc(function, *arguments):
    if getattr(_LIBC, function)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _flush(folders):
    """One flush a file system: an fsync for each of 10,000 files would take minutes."""
    for folder in {os.fstat(folder).st_dev: folder for folder in folders}.values():
        _libc("syncfs", folder)


def _rename(place, one, other, how):
    """renameat2(2) within the folder. False where the file system cannot do it that way."""
    names = os.fsencode(one), os.fsencode(other)
    try:
        _libc("renameat2", place.folder, names[0], place.folder, names[1], how)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        return False
    return True


class _OtherWriterError(Exception):
    """Somebody wrote the file in between. Theirs is in place; ``texts`` are to be joined to it."""

    def __init__(self, *texts):
        super().__init__()
        self.texts = texts


def _put_in_place(place, staged, inode, found):
    """Give the staged version the file's name, if the file still is what was found."""
    try:
        if found is None:
            _create(place, staged)
        elif not _same(_read(place), found):
            raise _OtherWriterError
        elif not _rename(place, staged, place.name, _RENAME_EXCHANGE):
            # NFS: a login in the last microseconds would be lost
            os.rename(staged, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
        else:
            _check_displaced(place, staged, inode, found)
    finally:
        _unlink(place, staged)


def _check_displaced(place, staged, inode, found):
    """
    Look at what our version has taken the place of; a login may have put it there just then.

    Nobody shall log in by our older state, so it goes back at once. But a login that looked at
    ours before may still rename its own file over it, so both are kept to be joined.
    """
    displaced = _read(replace(place, name=staged))
    if _same(displaced, found):
        return
    _rename(place, staged, place.name, _RENAME_EXCHANGE)
    back = _read(replace(place, name=staged))
    texts = [each.text for each in (displaced, back) if each and each.info.st_ino != inode]
    raise _OtherWriterError(*texts)


def _create(place, staged):
    try:
        if not _rename(place, staged, place.name, _RENAME_NOREPLACE):
            os.link(staged, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
    except FileExistsError:
        raise _OtherWriterError from None


def _same(one, other):
    return one is not None and (one.text, one.info.st_ino) == (other.text, other.info.st_ino)


def _inodes(folder):
    with os.scandir(folder) as entries:
        return {entry.name: entry.inode() for entry in entries}


def _settled(folder, names):
    """
    The inodes in a folder, once no login is about to write one of the files. A login that looked
    at the old file just before we changed it renames its temporary file over ours; but that one is
    there before it looks. One that stays is left over, or somebody wants to keep us waiting.
    """
    for _ in range(_PATIENCE):
        inodes = _inodes(folder)
        if not any("~" in entry and entry.partition("~")[0] in names for entry in inodes):
            break
        time.sleep(0.01)
    return inodes


def _overwritten(written):
    """Which of ``{name: (place, inode)}`` others have written; None: ours never got in place."""
    gone = set()
    for folder in {place.folder for place, _ in written.values()}:
        ours = {place.name: name for name, (place, _) in written.items() if place.folder == folder}
        inodes = _settled(folder, ours)
        gone |= {name for entry, name in ours.items() if inodes.get(entry) != written[name][1]}
    return gone


def _take_away(place):
    """Remove a file, also if a login writes it once more; the texts that were there."""
    texts = []
    for _ in range(_ROUNDS):
        moved = replace(place, name=f"{place.name}~{secrets.token_hex(8)}")
        try:
            os.rename(place.name, moved.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
        except FileNotFoundError:
            break
        with contextlib.suppress(CommandExecutionError):  # no plain file: nothing to keep
            texts.append(_read(moved).text)
        _unlink(place, moved.name)
        _settled(place.folder, {place.name})
    os.fsync(place.folder)
    return texts


def _remove_stale(folder, name):
    with contextlib.suppress(FileNotFoundError):
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(info.st_mode) and info.st_mtime < time.time() - _STALE:
            os.unlink(name, dir_fd=folder)
            log.info("removed %s, left over from a login that was cut off", name)


# ---- The shell: one run over many people -----------------------------------------------------


class _Edit:
    """A change to one person's secret file: what was found there, and what is to become of it."""

    def __init__(self, place, change=None):
        self.place = place
        self.change = change  # text in, text out
        self.others = []  # texts that lost a race, to be joined
        self.found = self.text = None  # text: what is to be written; None: nothing

    def plan(self):
        """Read and change. Done again when somebody else wrote in between."""
        self.found = _read(self.place)
        text = self.change(self._joined() if self.found else None)
        self.text = None if self.found and text == self.found.text else text

    def _joined(self):
        text = self.found.text
        for other in self.others:
            text = _join(text, other)
        return text


class _Wanted(_Edit):
    """One person's secret file as the pillar wants it."""

    def __init__(self, place, wanted, settings, at_home=None):
        super().__init__(place)
        self.secret, self.scratch_codes = _checked(wanted)
        self.settings = settings
        self.adopt = wanted.get("adopt", settings["adopt"])
        self.at_home = at_home  # gives the place of an older ~/.google_authenticator
        self.changes, self.comment = {}, ""

    def plan(self):
        self.found = _read(self.place) if self.place.folder is not None else None
        self.changes, self.text = {}, None
        base = self._joined() if self.found else self._adopted()
        if base is None and not self.secret:
            self.comment = self.comment or "has no secret yet"
            return
        try:
            after = _merge(base, self.secret, self.scratch_codes, self.settings)
        except CommandExecutionError as error:
            raise CommandExecutionError(
                f"{self.place.path}: {error}; remove it with google_authenticator.reset"
            ) from None
        if self.found:
            self.changes = _changes(self.found.text, after)
            self.changes.update(_misplaced(self.place, self.found))
        elif base is None:
            self.changes = _changes(None, after)
        else:
            self.changes = {"secret": f"adopted from ~/{HOME_FILE}"}
        self.text = after if self.changes else None

    def _adopted(self):
        """
        The text of a valid ``~/.google_authenticator``, if it is to be taken over. When the pillar
        gives that very secret, too: what is spent there stays spent.
        """
        try:
            place = self.at_home and self.at_home()
            found = _read(place) if place and place.folder is not None else None
        except CommandExecutionError as error:
            self.comment = f"not adopted: {error}"
            return None
        if not found:
            return None
        file = _parse(found.text)
        if self.secret and file.key != _key(self.secret):
            return None
        if file.problems:
            self.comment = f"{place.path} is not adopted: {'; '.join(file.problems)}"
            return None
        if self.adopt:
            return _put(found.text, ADOPTED, "pending")
        return found.text if self.secret else None


def _checked(wanted):
    secret, codes = wanted.get("secret"), wanted.get("scratch_codes")
    return (
        None if secret is None else _checked_secret(secret),
        None if codes is None else _checked_scratch_codes(codes),
    )


def _write(edits):
    """
    Write what is planned: stage all, flush once, put each in its place. Who logged in meanwhile
    is read and merged anew. ``{name: error}`` of those who could not be written.
    """
    errors = {}
    waiting = {name: edit for name, edit in edits.items() if edit.text is not None}
    for attempt in range(10 * _ROUNDS):
        # to give up with texts that are not joined would bring spent codes back
        joining = any(edit.others for edit in waiting.values())
        if not waiting or (attempt >= _ROUNDS and not joining):
            break
        lost = _write_once(waiting, errors)
        for name in lost:
            with _noted(errors, name):
                edits[name].plan()
        waiting = {n: edits[n] for n in lost if n not in errors and edits[n].text is not None}
    return errors | dict.fromkeys(waiting, "somebody else kept writing the file; apply again")


def _write_once(edits, errors):
    """The names of those whose file somebody else wrote in between."""
    staged, written = {}, {}
    for name, edit in edits.items():
        with _noted(errors, name):
            staged[name] = _stage(edit.place, edit.text.encode("latin-1"))
    folders = {edits[name].place.folder for name in staged}
    try:
        _flush(folders)
    except OSError as error:
        for name, (temporary, _) in staged.items():
            _unlink(edits[name].place, temporary)
        raise CommandExecutionError(f"new secret files cannot be kept: {error.strerror}") from None
    for name, (temporary, inode) in staged.items():
        edit = edits[name]
        try:
            with _noted(errors, name):
                _put_in_place(edit.place, temporary, inode, edit.found)
                if edit.found:
                    written[name] = (edit.place, inode)
        except _OtherWriterError as other:
            edit.others += other.texts
            written[name] = (edit.place, None)
    for folder in folders:
        os.fsync(folder)
    return _overwritten(written)


@contextlib.contextmanager
def _noted(errors, name):
    """One person's full disk or bad entry must not end the run for the others."""
    try:
        yield
    except OSError as error:
        errors[name] = f"the secret file cannot be read or written: {error.strerror}"
    except (CommandExecutionError, SaltInvocationError) as error:
        errors[name] = str(error)


class _Store:
    """Where secret files are: one folder of root's, or everybody's home."""

    def __init__(self, store, folder, people, opened):
        if store not in ("central", "home"):
            raise SaltInvocationError("store: must be central or home")
        self.central = store == "central"
        self.path = folder
        self.people = people
        self.opened = opened  # an ExitStack, which closes what is opened here
        # Asking for one account reads half of /etc/passwd: for many, read it once.
        self.accounts = {e.pw_name: e for e in pwd.getpwall()} if len(people) > 20 else {}
        self.folder = self._open(folder) if self.central else None

    @contextlib.contextmanager
    def chunk(self):
        """Close the homes that are opened in here."""
        outer = self.opened
        try:
            with contextlib.ExitStack() as self.opened:
                yield
        finally:
            self.opened = outer

    def create(self):
        """Make the central folder, if it is missing."""
        if self.central and self.folder is None:
            for step in (Path(self.path).parent, Path(self.path)):
                step.mkdir(mode=0o700, exist_ok=True)
            self.folder = self._open(self.path)

    def _open(self, path, uid=0):
        try:
            folder = _open_folder(path, uid)
        except FileNotFoundError:
            return None
        self.opened.callback(os.close, folder)
        return folder

    def place(self, name):
        """Where the person's secret file is or shall be; its folder is None if there is none."""
        if not self.central:
            return self.home(name)
        if not re.fullmatch(r"[^/~\0.-][^/~\0]*", name):
            raise SaltInvocationError("this name cannot be a file's name in the store")
        return _Place(self.folder, name, 0, 0, f"{self.path}/{name}")

    def home(self, name):
        """The place of ``~/.google_authenticator``; its folder is None without a home."""
        given = {k: v for k, v in (self.people.get(name) or {}).items() if v is not None}
        account = self.accounts.get(name)
        if account is None and not {"uid", "gid", "home"} <= set(given):
            with contextlib.suppress(KeyError):
                account = pwd.getpwnam(name)
        if account:
            known = {"uid": account.pw_uid, "gid": account.pw_gid, "home": account.pw_dir}
            given = {**known, **given}
        uid, gid, home = (given.get(key) for key in ("uid", "gid", "home"))
        folder = self._open(home, uid) if home and uid is not None else None
        return _Place(folder, HOME_FILE, uid, gid, f"{home or '~'}/{HOME_FILE}", at_home=True)

    def names(self):
        """Who has a file in the central folder."""
        return sorted(e for e in _inodes(self.folder) if "~" not in e) if self.folder else []

    def sweep(self):
        """
        Remove temporary files that a power cut left, older than a minute. Releases of the PAM
        module older than 1.08 open theirs with O_EXCL under a fixed name: a stale one refuses
        every login.
        """
        for name in _inodes(self.folder) if self.folder is not None else ():
            if "~" in name:
                _remove_stale(self.folder, name)


@contextlib.contextmanager
def _store(store, folder, people):
    store, folder = _applied("store", store), folder or _policy().get("totp_dir", CENTRAL)
    with contextlib.ExitStack() as opened:
        yield _Store(store, folder, people, opened)


def _policy():
    """What the formula applied last; nothing where this module is used alone."""
    return __salt__["sshd_mfa.applied"]() if "sshd_mfa.applied" in __salt__ else {}


def _applied(key, given=None):
    """What is given, or what the last applied policy says of it, or the formula's default."""
    if given is not None:
        return given
    return _policy().get("policy", {}).get("totp", {}).get(key, _DEFAULTS.get(key))


def _chunks(people):
    names = list(people)
    for start in range(0, len(names), _AT_ONCE):
        yield {name: people[name] or {} for name in names[start : start + _AT_ONCE]}


def _result(result, changes=None, comment=""):
    return {"result": result, "changes": changes or {}, "comment": comment}


def _results(edits, errors, changes):
    """What bulk functions return; ``changes`` gives those of an edit."""
    done = {name: _result(True, changes(edit), edit.comment) for name, edit in edits.items()}
    return {**done, **{name: _result(False, comment=words) for name, words in errors.items()}}


# ---- Functions -------------------------------------------------------------------------------


def managed(users, settings=None, test=False, folder=CENTRAL):
    """
    See to it that everybody's secret file has our part as given, in one pass. The PAM module's
    part is left as it is; an error in one person's file or entry harms nobody else.

    This is for states, which call it in the process: on a command line secrets would be there for
    all to see.

    users
        ``{name: {"secret": …, "scratch_codes": […]}}``. Without a secret (None) the one that is
        there stays, and nobody gets one; without scratch codes those that are there stay.
        ``uid``, ``gid`` and ``home`` may be given, too; what is missing is looked up. ``adopt``
        beats that of the settings: a file that comes into a home when the time of adoption is
        over may be a thief's.

    settings
        The pillar's ``totp``: ``store`` (``central``, the default, or ``home``), ``adopt`` (take
        over a valid ``~/.google_authenticator``, default true), ``window`` (codes), ``step``
        (seconds), ``rate_limit`` (``{"attempts", "seconds"}`` or false) and ``disallow_reuse``.
        An option that is not named is left as it is.

    test
        Say what would be changed, and change nothing.

    folder
        The central store's folder, made with mode 0700 when it is missing.

    Returns ``{name: {"result": bool, "changes": {…}, "comment": str}}``, in words and without
    secrets. An adopted file stays in the home, too, until :py:func:`complete_adoption`.

    CLI Example:

    .. code-block:: bash

        salt-call google_authenticator.managed '{"sean": {}}' settings='{"window": 3}' test=True
    """
    settings = {"store": "central", "adopt": True, **_checked_settings(settings)}
    results = {}
    with _store(settings["store"], folder, users) as store:
        if not test:
            store.create()
            store.sweep()
        for chunk in _chunks(users):
            with store.chunk():
                results.update(_managed(store, chunk, settings, test))
    return results


def _managed(store, people, settings, test):
    edits, errors = {}, {}
    for name, wanted in people.items():
        with _noted(errors, name):
            home = functools.partial(store.home, name) if store.central else None
            edits[name] = edit = _Wanted(store.place(name), wanted, settings, home)
            if not test and edit.place.folder is None:
                raise CommandExecutionError(f"{edit.place.path}: the folder is missing")
            if not test and not store.central:
                _remove_stale(edit.place.folder, f"{HOME_FILE}~")
            edit.plan()
    if not test:
        errors.update(_write({name: e for name, e in edits.items() if name not in errors}))
    return _results(edits, errors, lambda edit: edit.changes)


def complete_adoption(users=None, folder=CENTRAL):
    """
    Remove the ``~/.google_authenticator`` of those whose secret was taken over into the central
    store, so that a stolen session cannot read it there. To be called once the PAM stack asks
    the central store: before that, the old stack still needs the file. Codes that were spent
    at home in between are spent in the store, too.

    users
        Names; default: everybody in the store whose adoption is not complete.

    folder
        The central store's folder.

    Returns ``{name: {"result": bool, "changes": {…}, "comment": str}}`` of those concerned.

    CLI Example:

    .. code-block:: bash

        salt 'jump*' google_authenticator.complete_adoption
    """
    users = [users] if isinstance(users, str) else users
    results = {}
    with _store("central", folder, dict.fromkeys(users or ())) as store:
        for chunk in _chunks(dict.fromkeys(store.names() if users is None else users)):
            with store.chunk():
                results.update(_complete_adoption(store, chunk))
    return results


def _complete_adoption(store, people):
    pending, errors = {}, {}
    for name in people:
        with _noted(errors, name):
            place = store.place(name)
            found = _read(place) if place.folder is not None else None
            if found and f"{ADOPTED} pending" in found.text:
                pending[name] = _Adoption(place, store.home(name))
                pending[name].plan()
    # What is spent at home is spent in the store before it is gone at home; a login in between
    # may spend one more.
    errors.update(_write(pending))
    spent = {name: edit for name, edit in pending.items() if name not in errors}
    for name, edit in spent.items():
        with _noted(errors, name):
            edit.remove_home()
            edit.plan()
    errors.update(_write({name: edit for name, edit in spent.items() if name not in errors}))
    return _results(pending, errors, lambda edit: {f"~/{HOME_FILE}": "removed"})


class _Adoption(_Edit):
    """The end of an adoption: the file at home goes."""

    comment = ""

    def __init__(self, place, home):
        super().__init__(place, self._without_home)
        self.home = home
        self.at_home = []  # texts
        self.removed = False

    def plan(self):
        if not self.removed and self.home.folder is not None:
            with contextlib.suppress(CommandExecutionError):  # no plain file: nothing to keep
                found = _read(self.home)
                self.at_home = [found.text] if found else []
        super().plan()

    def remove_home(self):
        self.at_home += _take_away(self.home) if self.home.folder is not None else []
        self.removed = True

    def _without_home(self, text):
        if text is None:  # reset in between
            return None
        for older in self.at_home:
            text = _join(text, older)
        return _put(text, ADOPTED) if self.removed else text


def hand_back(users=None, folder=CENTRAL):
    """
    Give adopted secrets back: what the central store has goes to ``~/.google_authenticator`` again,
    with its live state (a spent code stays spent), and leaves the store. A file that lies there
    meanwhile is replaced: a stolen session may have put it there.

    users
        Names; default: everybody whose secret was adopted. Others are left alone.

    folder
        The central store's folder.

    Returns ``{name: {"result": bool, "changes": {…}, "comment": str}}`` of those concerned.

    CLI Example:

    .. code-block:: bash

        salt 'jump*' google_authenticator.hand_back sean
    """
    users = [users] if isinstance(users, str) else users
    results, errors = {}, {}
    with _store("central", folder, dict.fromkeys(users or ())) as store:
        for chunk in _chunks(dict.fromkeys(store.names() if users is None else users)):
            for name in chunk:
                with store.chunk(), _noted(errors, name):
                    if _handed_back(store.place(name), store.home(name)):
                        results[name] = _result(True, {"secret": f"back in ~/{HOME_FILE}"})
    return {**results, **{name: _result(False, comment=words) for name, words in errors.items()}}


def _handed_back(place, home):
    """Whether there was something to hand back."""
    found = _read(place) if place.folder is not None else None
    if not found or ADOPTED not in _options(found.text):
        return False
    if home.folder is None:
        raise CommandExecutionError(f"{home.path}: there is no such home")
    text = found.text
    if _options(text)[ADOPTED] == "pending":  # the one at home was in use all the time
        with contextlib.suppress(CommandExecutionError):
            older = _read(home)
            text = _join(text, older.text) if older else text
    _replace_at_home(home, text)
    for newer in _take_away(place):
        if newer != found.text:
            _replace_at_home(home, _join(newer, text))
    return True


def _replace_at_home(home, text):
    staged, _ = _stage(home, _without(_without(text, ADOPTED), ISSUED).encode("latin-1"))
    try:
        _flush([home.folder])
        os.rename(staged, home.name, src_dir_fd=home.folder, dst_dir_fd=home.folder)
        os.fsync(home.folder)
    finally:
        _unlink(home, staged)


def list_(users=None, store=None, folder=None):
    """
    What is in the secret files, without what is secret in them.

    users
        Names; default: everybody in the central store, or every account with such a file.

    store
        ``central`` or ``home``. Default: that of the last applied policy, else ``central``

    folder
        The central store's folder. Default: that of the last applied policy, else
        ``/var/lib/sshd_mfa/totp``

    Returns for each: ``path``, ``mode`` (octal), ``kind`` (``totp``, ``hotp`` or ``scratch codes
    only``), the options ``window`` (codes), ``step`` (seconds), ``rate_limit`` and
    ``disallow_reuse``, the number of ``scratch_codes`` left, of ``spent_steps`` and of ``attempts``
    that are remembered, ``time_skew`` (steps), whether it is ``adopted``, and ``problems``: why
    the PAM module refuses codes.

    CLI Example:

    .. code-block:: bash

        salt 'jump*' google_authenticator.list
    """
    users = [users] if isinstance(users, str) else users
    listed = {}
    with _store(store, folder, dict.fromkeys(users or ())) as secret_files:
        if users is None:
            # Homes of the system's accounts are folders of the system.
            accounts = [e.pw_name for e in pwd.getpwall() if e.pw_uid >= 1000 or e.pw_uid == 0]
            users = secret_files.names() if secret_files.central else accounts
        for name in users:
            with secret_files.chunk(), contextlib.suppress(FileNotFoundError):
                listed[name] = _described(secret_files, name)
    return {name: about for name, about in listed.items() if about}


def _described(secret_files, name):
    try:
        place = secret_files.place(name)
        found = _read(place) if place.folder is not None else None
    except CommandExecutionError as error:
        return {"problems": [str(error)]}
    if not found:
        return None
    file = _parse(found.text)
    misplaced = [f"the {what} is wrong" for what in _misplaced(place, found)]
    return {
        "path": place.path,
        "mode": f"{stat.S_IMODE(found.info.st_mode):04o}",
        "kind": "hotp" if file.hotp else "totp" if file.totp else "scratch codes only",
        "window": file.window,
        "step": file.step,
        "rate_limit": file.rate_limit,
        "disallow_reuse": file.disallow_reuse,
        "scratch_codes": len(file.scratch_codes),
        "spent_steps": len(file.blocked or ()),
        "attempts": len(file.stamps or ()),
        "time_skew": file.time_skew,
        "adopted": file.adopted is not None,
        "problems": misplaced + list(file.problems),
    }


def verify(user, store=None, folder=None):
    """
    Ask for a code on the terminal and say what the PAM module would say to it now. Nothing is
    spent, and nothing written.

    user
        Whose code it is.

    store, folder
        As in :py:func:`list <saltext.sshd_mfa.modules.google_authenticator.list_>`.

    Returns "right", "right, but already spent" or "wrong"; behind it, whether the rate limit
    refuses logins right now. Without a terminal (over ``salt``) it raises an error: unspent
    codes are secrets, and arguments and answers are logged.

    CLI Example:

    .. code-block:: bash

        salt-call google_authenticator.verify sean
    """
    file = _readable(user, store, folder)
    code = _ask(f"Code of {user}: ", f"google_authenticator.verify {user}")
    now = int(time.time())
    answer = _judge(file, code, now)
    if answer == "refused":
        raise CommandExecutionError(f"{user}: {'; '.join(file.problems)}")
    answer = {"spent": "right, but already spent"}.get(answer, answer)
    wait = _rate_limited(file, now)
    return f"{answer}; the rate limit refuses logins for {wait} s more" if wait else answer


def uri(user, issuer=None, store=None, folder=None):
    """
    Show the otpauth URI from which an authenticator app takes the secret: on the terminal, or
    without one in a file of mode 0600.

    user
        Whose secret.

    issuer
        Under which name the app lists the account. Default: that of the last applied policy,
        else ``bastion``

    store, folder
        As in :py:func:`list <saltext.sshd_mfa.modules.google_authenticator.list_>`.

    Returns where it was shown.

    CLI Example:

    .. code-block:: bash

        salt-call google_authenticator.uri sean issuer=bastion
    """
    return _hand_over(user, f"{_uri_of(user, issuer, store, folder)}\n")


def qr(user, issuer=None, store=None, folder=None):
    """
    Show the otpauth URI as a QR code, as :py:func:`uri` does.

    user, issuer, store, folder
        As in :py:func:`uri`.

    Returns where it was shown.

    CLI Example:

    .. code-block:: bash

        salt-call google_authenticator.qr sean
    """
    return _hand_over(user, __salt__["qr_code.terminal"](_uri_of(user, issuer, store, folder)))


def reset(user, store=None, folder=None):
    """
    Remove a person's secret. Until another one is provisioned or generated they cannot log in
    where a code is asked for. If the pillar has the secret, the next apply writes it again and
    issues its scratch codes anew: take it out of the pillar or change it there first. Open
    sessions stay open.

    user
        Whose secret.

    store, folder
        As in :py:func:`list <saltext.sshd_mfa.modules.google_authenticator.list_>`.

    Returns what was done, in words.

    CLI Example:

    .. code-block:: bash

        salt 'jump*' google_authenticator.reset sean
    """
    with _one(user, store, folder) as place:
        if not _take_away(place):
            return f"{user} had no secret"
    return (
        f"{user} has no secret any more and cannot log in where a code is asked for, until the "
        f"pillar gives one or google_authenticator.generate makes one"
    )


def new_scratch_codes(user, count=None, store=None, folder=None):
    """
    Replace a person's scratch codes by new ones; the secret stays. They are shown on the terminal,
    or without one in a file of mode 0600. Codes from the pillar that go with this do not come back.

    user
        Whose scratch codes.

    count
        How many. Default: as the last applied policy says, else 5

    store, folder
        As in :py:func:`list <saltext.sshd_mfa.modules.google_authenticator.list_>`.

    Returns where they were shown.

    CLI Example:

    .. code-block:: bash

        salt-call google_authenticator.new_scratch_codes sean
    """
    codes = _generate_scratch_codes(_checked_count(_applied("scratch_codes", count)))

    def change(text):
        file = None if text is None else _parse(text)
        if not file or file.beyond_mending:
            raise CommandExecutionError(file.beyond_mending[0] if file else "has no secret")
        return _add_scratch_codes(_drop_scratch_codes(text, set(file.scratch_codes)), codes)

    _change_one(user, change, store, folder)
    return _hand_over(user, _lines(codes))


def generate(user, scratch_codes=None, settings=None, replace_secret=False, folder=None):
    """
    Make a new secret and scratch codes for a person, and show them with their QR code: on the
    terminal, or without one in a file of mode 0600. If the pillar has a secret for them, the
    next apply writes that one again.

    user
        For whom.

    scratch_codes
        How many. Default: as the last applied policy says, else 5

    settings
        As in :py:func:`managed`; ``issuer`` is the name under which the app lists the account.
        Default: the last applied policy's, else central store, window 3, rate limit 3 in 30
        seconds, no reuse

    replace_secret
        Whether a secret that is there may be replaced. Default: false

    folder
        The central store's folder.

    Returns where they were shown.

    CLI Example:

    .. code-block:: bash

        salt-call google_authenticator.generate sean settings='{"issuer": "bastion.example"}'
    """
    settings = {
        **_DEFAULTS,
        **_policy().get("policy", {}).get("totp", {}),
        **_checked_settings(settings),
    }
    codes = _generate_scratch_codes(_checked_count(_applied("scratch_codes", scratch_codes)))
    secret = _generate_secret()

    def change(text):
        if text is not None and not replace_secret:
            raise CommandExecutionError("has a secret; replace_secret=True replaces it")
        # not marked as issued: those marks are for the pillar's
        return _add_scratch_codes(_merge(text, secret, None, settings), codes)

    _change_one(user, change, settings["store"], folder, create=True)
    address = _uri(secret, user, settings["issuer"], settings["step"])
    picture = __salt__["qr_code.terminal"](address)
    return _hand_over(user, f"{picture}{address}\n{_lines(codes)}")


# ---- The shell: one person, and what may be seen on the terminal only ------------------------


@contextlib.contextmanager
def _one(user, store, folder, create=False):
    with _store(store, folder, {user: {}}) as secret_files:
        if create:
            secret_files.create()
        place = secret_files.place(user)
        if place.folder is None:
            raise CommandExecutionError(f"{user}: there is no {Path(place.path).parent}")
        yield place


def _change_one(user, change, store, folder, create=False):
    errors = {}
    with _one(user, store, folder, create) as place, _noted(errors, user):
        edit = _Edit(place, change)
        edit.plan()
        errors.update(_write({user: edit}))
    if errors:
        raise CommandExecutionError(f"{user}: {errors[user]}")


def _readable(user, store, folder):
    """What a person's file says, if it is one that the PAM module takes codes by."""
    with _one(user, store, folder) as place:
        found = _read(place)
    if not found:
        raise CommandExecutionError(f"{user} has no secret: {place.path} is missing")
    file = _parse(found.text)
    if file.refuses_all or file.hotp:
        raise CommandExecutionError(f"{place.path}: {'; '.join(file.problems)}")
    return file


def _uri_of(user, issuer, store, folder):
    file = _readable(user, store, folder)
    secret = base64.b32encode(file.key).decode().rstrip("=")
    return _uri(secret, user, _applied("issuer", issuer), file.step or 30)


def _checked_count(count):
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 100:
        raise SaltInvocationError("scratch codes: how many must be a whole number up to 100")
    return count


def _lines(codes):
    return "\n".join(["Scratch codes, each lets in once:", *map(str, codes), ""])


def _ask(prompt, function):
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        raise CommandExecutionError(
            f"there is no terminal to ask on; log in to the host and run: salt-call {function}"
        ) from None
    return "".join(getpass.getpass(prompt).split())


def _hand_over(user, text):
    """Show a secret on the terminal, or put it into a file that only root can read."""
    try:
        terminal = os.open("/dev/tty", os.O_WRONLY | os.O_NOCTTY)
    except OSError:
        return _write_handover(user, text)
    with os.fdopen(terminal, "w", encoding="utf-8") as out:
        out.write(text)
    return "shown on the terminal"


def _write_handover(user, text):
    with _store("central", HANDOVER, {}) as handover:
        handover.create()
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(4)}"
        place = replace(handover.place(user), name=f"{user}-{name}")
        staged, _ = _stage(place, text.encode())
        os.rename(staged, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
    return f"written to {HANDOVER}/{place.name}, for root only; remove it once it is handed over"
