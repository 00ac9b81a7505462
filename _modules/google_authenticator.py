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
import hashlib
import hmac
import os
import pwd
import re
import secrets
import stat
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "google_authenticator"
__func_alias__ = {"list_": "list"}

CENTRAL = "/var/lib/sshd_mfa/totp"
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
    stamps: tuple  # of recent attempts, seconds since 1970
    disallow_reuse: bool
    blocked: tuple  # steps whose codes are spent
    time_skew: int  # in steps
    scratch_codes: tuple  # unspent, in the order of the file
    issued: tuple | None  # hashes; None: the file has no such record
    adopted: str | None  # None, "pending" or ""
    beyond_mending: tuple  # words: what a merge cannot put right
    refuses_all: tuple  # words: why no code at all is accepted
    refuses_time: tuple  # words: why no time-based code is accepted

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


def _option_lines(key):
    # get_cfg_value(): lines end at CR or LF, and the key is followed by white space or nothing
    return re.compile(rf'(?<![^\r\n])" {key}(?![^ \t\r\n])[ \t]*(?P<value>[^\r\n]*)[\r\n]*')


_OPTIONS = {
    key: _option_lines(key)
    for key in (
        *("RATE_LIMIT", "WINDOW_SIZE", "STEP_SIZE", "DISALLOW_REUSE", "TIME_SKEW", "HOTP_COUNTER"),
        *("TOTP_AUTH", ISSUED, ADOPTED),
    )
}


def _option(text, key):
    """The value of an option, or None. The first line that has it counts."""
    found = _OPTIONS[key].search(text)
    return found["value"] if found else None


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


def _number(text, key, default, most):
    """WINDOW_SIZE or STEP_SIZE: the value, or None where the module refuses it."""
    value = _option(text, key)
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
    broken = []
    if not 1 <= len(text) <= _MAX_SIZE:
        broken.append("the file must have 1 to 65536 bytes")
    elif "\0" in text:
        broken.append("there is a NUL byte in the file")
    elif key is None:
        broken.append("the first line is not a secret in base32 without padding (=)")
    refuses_all, refuses_time = [*broken], []

    limit = _option(text, "RATE_LIMIT")
    limits = limit and _limits(limit)
    stamps = limits and _stamps(limit, limits[2])
    if limit is not None and not limits:
        refuses_all.append("RATE_LIMIT needs 1 to 100 attempts and 1 to 3600 seconds")
    elif limits and stamps is None:
        refuses_all.append("RATE_LIMIT must end with numbers, without a space behind the last")

    hotp = _strtol(_option(text, "HOTP_COUNTER") or "") > 0
    totp = '" TOTP_AUTH' in text  # is_totp() looks anywhere
    if hotp:
        refuses_time.append("HOTP_COUNTER makes it counter-based; it beats TOTP_AUTH")
    elif not totp:
        refuses_time.append("TOTP_AUTH is missing")
    window = _number(text, "WINDOW_SIZE", 3, 100)
    if window is None:
        refuses_time.append("WINDOW_SIZE must be 1 to 100")
    step = _number(text, "STEP_SIZE", 30, 60)
    if step is None:
        refuses_time.append("STEP_SIZE must be 1 to 60 seconds")
    reuse = _option(text, "DISALLOW_REUSE")
    blocked = _blocked_steps(reuse or "")
    if blocked is None:
        refuses_time.append("DISALLOW_REUSE must be followed by numbers only")

    issued = _option(text, ISSUED)
    return _SecretFile(
        key=key,
        totp=totp,
        hotp=hotp,
        window=window,
        step=step,
        rate_limit={"attempts": limits[0], "seconds": limits[1]} if limits else None,
        stamps=stamps or (),
        disallow_reuse=reuse is not None,
        blocked=blocked or (),
        time_skew=_int32(_strtol(_option(text, "TIME_SKEW") or "")),
        scratch_codes=tuple(code for code, _, _ in _scratch_code_spans(text)[0]),
        issued=None if issued is None else tuple(issued.split()),
        adopted=_option(text, ADOPTED),
        beyond_mending=tuple(broken) + (tuple(refuses_time[:1]) if hotp else ()),
        refuses_all=tuple(refuses_all),
        refuses_time=tuple(refuses_time),
    )


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
    return hmac.new(key, f"scratch code {code}".encode(), hashlib.sha256).hexdigest()[:10]


def _put(text, key, value=""):
    """Set an option: in its first line, or in a new one below the secret."""
    line = f'" {key} {value}'.rstrip()
    found = _OPTIONS[key].search(text)
    if found:
        return text[: found.start()] + line + text[found.end("value") :]
    secret, _, rest = text.partition("\n")
    return f"{secret}\n{line}\n{rest}"


def _without(text, key):
    return _OPTIONS[key].sub("", text)


def _readable_numbers(text):
    return [number for number in re.findall(r"[0-9]+", text) if len(number) < 19]


def _put_rate_limit(text, wanted):
    if not wanted:
        return _without(text, "RATE_LIMIT")
    ours = f"{wanted['attempts']} {wanted['seconds']}"
    value = _option(text, "RATE_LIMIT")
    if value is None:
        return _put(text, "RATE_LIMIT", ours)
    limits = _limits(value)
    if not limits or _stamps(value, limits[2]) is None:  # mend it, keeping what can be read
        return _put(text, "RATE_LIMIT", " ".join([ours, *_readable_numbers(value)[2:]]))
    if limits[:2] == (wanted["attempts"], wanted["seconds"]):
        return text
    return _put(text, "RATE_LIMIT", ours + value[limits[2] :])


def _put_disallow_reuse(text, wanted):
    value = _option(text, "DISALLOW_REUSE")
    if not wanted:
        return _without(text, "DISALLOW_REUSE")
    if value is None or _blocked_steps(value) is None:
        return _put(text, "DISALLOW_REUSE", " ".join(_readable_numbers(value or "")))
    return text


def _put_settings(text, settings):
    """The option values in ``settings``; what is not named there stays."""
    if "rate_limit" in settings:
        text = _put_rate_limit(text, settings["rate_limit"])
    if "window" in settings and _number(text, "WINDOW_SIZE", 3, 100) != settings["window"]:
        text = _put(text, "WINDOW_SIZE", settings["window"])
    if "step" in settings and _number(text, "STEP_SIZE", 30, 60) != settings["step"]:
        text = _put(text, "STEP_SIZE", settings["step"])
    if "disallow_reuse" in settings:
        text = _put_disallow_reuse(text, settings["disallow_reuse"])
    return text if '" TOTP_AUTH' in text else _put(text, "TOTP_AUTH")


def _drop_scratch_codes(text, codes):
    """Take codes out of the file, as the module takes out a used one."""
    for code, start, end in reversed(_scratch_code_spans(text)[0]):
        if code in codes:
            rest = text[end:].lstrip("\r\n")
            text = text[:start] + rest
    return text


def _add_scratch_codes(text, codes):
    place = _scratch_code_spans(text)[1]
    above, below = text[:place], text[place:]
    if codes and not above.endswith(("\n", "\r")):
        above += "\n"
    return above + "".join(f"{code}\n" for code in codes) + below


def _put_scratch_codes(text, key, wanted):
    """
    Issue what was not issued yet, withdraw what is no longer wanted. A code that was issued and is
    not in the file is spent, and stays so; so does, in a file that has no record of what was
    issued, every code that is not in it. Codes that were made on the host are left alone.
    """
    file = _parse(text)
    marks = {code: _mark(key, code) for code in {*wanted, *file.scratch_codes}}
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
    return _add_scratch_codes(_put_settings(text, settings or {}), scratch_codes)


def _merge(text, secret=None, scratch_codes=None, settings=None):
    """
    The secret file with our part of it as wanted and the PAM module's part byte for byte as it is;
    the same text when there is nothing to do. ``None`` leaves as it is. A new secret
    begins a new file: live state of the old one means nothing under it.
    """
    file = None if text is None else _parse(text)
    if secret and (file is None or _key(secret) != file.key):
        return _render(secret, scratch_codes or (), settings)
    if file is None:
        raise CommandExecutionError("there is no secret to write")
    if file.beyond_mending:
        raise CommandExecutionError("; ".join(file.beyond_mending))
    text = _put_settings(text, settings or {})
    if scratch_codes is not None:
        text = _put_scratch_codes(text, file.key, scratch_codes)
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
        (ISSUED, ours.issued or (), theirs.issued or ()),
    ):
        missing = [str(entry) for entry in more if entry not in mine]
        if missing:
            text = _put(text, key, " ".join([_option(text, key) or "", *missing]).strip())
    return text


def _plural(count, noun):
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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
        raise SaltInvocationError("totp:secret: must be text; put it in quotes")
    if "*" in secret:  # pillar.get in SLS files of the renderer py, from Salt 3008 on
        raise SaltInvocationError(
            "totp:secret: has stars in it, which is how Salt 3008 masks pillar values: "
            "name the pillar key to the state instead of handing over what pillar.get returned"
        )
    if "=" in secret:
        raise SaltInvocationError("totp:secret: leave out the padding (=)")
    secret = secret.upper()
    if not re.fullmatch(r"[A-Z2-7]+", secret):
        raise SaltInvocationError("totp:secret: only A-Z and 2-7 (base32), without spaces")
    if len(secret) * 5 < _MIN_SECRET_BITS:
        raise SaltInvocationError(
            f"totp:secret: has {len(secret) * 5} bits, fewer than {_MIN_SECRET_BITS}: "
            "give at least 26 characters"
        )
    return secret


def _checked_scratch_codes(codes):
    if not isinstance(codes, (list, tuple)):
        raise SaltInvocationError("totp:scratch_codes: must be a list")
    for position, code in enumerate(codes):
        if isinstance(code, bool) or not re.fullmatch(r"[1-9][0-9]{7}", str(code)):
            raise SaltInvocationError(
                f"totp:scratch_codes:{position}: must be a number from 10000000 to 99999999"
            )
    codes = [int(code) for code in codes]
    if len(set(codes)) < len(codes):
        raise SaltInvocationError("totp:scratch_codes: has one code twice")
    return codes


def _between(name, value, most):
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise SaltInvocationError(f"{name}: must be a whole number from 1 to {most}")


def _checked_settings(settings):
    settings = dict(settings or {})
    unknown = set(settings) - {"window", "step", "rate_limit", "disallow_reuse"}
    if unknown:
        raise SaltInvocationError(f"settings: no such key: {', '.join(sorted(map(str, unknown)))}")
    if "window" in settings:
        _between("window", settings["window"], 100)
    if "step" in settings:
        _between("step", settings["step"], 60)
    limit = settings.get("rate_limit")
    if limit:
        if not isinstance(limit, dict) or set(limit) != {"attempts", "seconds"}:
            raise SaltInvocationError("rate_limit: needs attempts and seconds, or false")
        _between("rate_limit:attempts", limit["attempts"], 100)
        _between("rate_limit:seconds", limit["seconds"], 3600)
    return settings
