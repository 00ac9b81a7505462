"""
PAM stacks: read them as libpam does, tell what they answer, find what is wrong with them, and
change a rule without touching another byte.

A *rule* is a line of /etc/pam.d that calls a module::

    {"file": "/etc/pam.d/sshd", "line": 4, "type": "auth", "control": "[success=1 default=ignore]",
     "module": "pam_unix.so", "arguments": ["nullok"], "silent": False}

``control`` is the word, or the table in brackets with single blanks. ``arguments`` are what the
module is given: brackets and escapes are resolved. ``silent`` stands for the ``-`` before the
type: no log entry when the module is missing. An *include* is
``{"file", "line", "include": "common-auth", "type": None, "how": "@include"}``, where ``how`` may
be ``include`` or ``substack``, too, which take the rules of one type only. A rule or include that
is commented out has ``"commented": True``. One that libpam cannot use has its ``problem`` in words.

All functions that write nothing take ``files``, texts that are not on disk (yet) by absolute path,
None for a file that is not to be there: so a change can be looked at before it is made.

What is said here about libpam comes from its source (``libpam/pam_handlers.c``, ``pam_line.c``,
``pam_misc.c`` and ``pam_dispatch.c`` of Linux-PAM 1.5.2 and 1.7.0 with Debian's patches, as in
Debian 12 and 13) and is checked against it by ``tests/functional/test_pam_stack_judge.py``. Where
the two read a line differently, nothing is guessed: an error names the line.
"""

import glob
import itertools
import os
import re
from dataclasses import dataclass, replace

from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "pam_stack"

_TYPES = ("auth", "account", "password", "session")
_HOW = ("@include", "include", "substack")

# _pam_token_returns and _pam_token_actions in pam_tokens.h, in libpam's order
_RETURNS = (
    "success open_err symbol_err service_err system_err buf_err perm_denied auth_err"
    " cred_insufficient authinfo_unavail user_unknown maxtries new_authtok_reqd acct_expired"
    " session_err cred_unavail cred_expired cred_err no_module_data conv_err authtok_err"
    " authtok_recover_err authtok_lock_busy authtok_disable_aging try_again ignore abort"
    " authtok_expired module_unknown bad_item"
).split()
_ACTIONS = ("ignore", "ok", "done", "bad", "die", "reset")
_MUST_FAIL = "perm_denied"  # PAM_MUST_FAIL_CODE in pam_dispatch.c


def __virtual__():
    return __virtualname__


# ---- The core: a file as entries -------------------------------------------------------------
# Joined, the texts of the entries are the file again.

_GONE = "\ud800"  # in place of what libpam drops; no decoded file has this lone surrogate
_BLANKS = f" \n\t{_GONE}"  # DELIMITERS in pam_misc.c: a carriage return is none
# _pam_tokenize(): brackets make one word, up to the first "]" that has no backslash before it
_WORD = re.compile(
    rf"[{_BLANKS}]*(?P<raw>\[(?P<inner>(?:\\\]|[^\]])*)(?P<close>\]|\Z)|[^{_BLANKS}]+)"
)
_CONTINUED = re.compile(r"[^#\0]*\\[ \t]*\n?")
_DEEPEST = 15  # files in a file: PAM_SUBSTACK_MAX_LEVEL less one
_LONGEST = 1023  # bytes of a line; up to Linux-PAM 1.6, what is beyond is read as the next line


@dataclass(frozen=True)
class _Word:
    value: str
    start: int
    end: int
    closed: bool  # False: an opening bracket without its closing one


@dataclass(frozen=True)
class _Entry:
    """A blank line, a comment line, or a rule with the lines that continue it."""

    text: str
    words: tuple = ()  # none: a blank line or a comment
    line: int = 0
    origin: int = 0  # its line before any edit; 0: it is new
    commented: bool = False  # the words are a rule that was commented out
    doubt: str = ""  # why two releases of libpam read it differently
    cut: bool = False  # the file ends where it is to be continued

    @property
    def active(self):
        return bool(self.words) and not self.commented

    @property
    def values(self):
        return tuple(word.value for word in self.words)

    @property
    def silent(self):
        return self.values[0].startswith("-")

    @property
    def type(self):
        """The type in lower case, also an unknown one; ``@include`` for Debian's."""
        return self.values[0].removeprefix("-").lower()

    @property
    def how(self):
        """``@include``, ``include``, ``substack``, or None for a rule."""
        if self.type == "@include":
            return self.type
        second = self.values[1].lower() if len(self.words) > 1 else ""
        return second if second in _HOW[1:] else None

    @property
    def target(self):
        """The module's or the included file's name, or None."""
        at = 1 if self.how == "@include" else 2
        return self.values[at] if len(self.words) > at else None

    @property
    def control(self):
        """The control's word in lower case, or its table with single blanks."""
        if len(self.words) < 2:
            return None
        value = self.values[1]
        bracketed = self.text.startswith("[", self.words[1].start)
        return _canonical(f"[{value}]" if bracketed else value)

    @property
    def broken(self):
        """Why libpam lets it fail without a look at any module; "" if it does not."""
        if self.type not in (*_TYPES, "@include"):
            return f"{self.values[0]!r} is none of {', '.join(_TYPES)}"
        if self.how:
            return "" if self.target else "the name of the file to include is missing"
        if len(self.words) < 2:
            return "the control (required, [success=1 default=ignore], …) is missing"
        return "" if self.target else "the module is missing"

    @property
    def problem(self):
        """Why it cannot be what somebody meant to write; "" if it can."""
        return self.broken or ("" if self.how else _table(self.values[1])[1])


def _lines(text):
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _parse(text):
    """The entries of a file."""
    lines = _lines(text)
    entries = []
    number = 1
    while lines:
        entry = _rule(lines) if _says_something(lines[0]) else _comment(lines)
        entries.append(replace(entry, line=number))
        taken = len(_lines(entry.text))
        number += taken
        del lines[:taken]
    return entries


def _says_something(line):
    return line.lstrip(" \t")[:1] not in ("", "\n", "#", "\0")


def _rule(lines):
    """The rule that begins with the first line."""
    last = 0
    while _CONTINUED.fullmatch(lines[last]) and last + 1 < len(lines):
        last += 1
    text = "".join(lines[: last + 1])
    words = _words(text)
    doubt = _doubt(text, words)
    if last and not _says_something(lines[last]):
        # _pam_assemble_line() skips it and reads on, _pam_line_assemble() ends the rule
        doubt = "a comment or an empty line follows a backslash: up to Linux-PAM 1.6 the rule"
        doubt += " goes on below it, from 1.7 it ends there"
    return _Entry(text, words, doubt=doubt, cut=bool(_CONTINUED.fullmatch(lines[last])))


def _comment(lines):
    """A blank line, a comment line, or a rule that was commented out with all of its lines."""
    last = 0
    while _CONTINUED.fullmatch(_uncommented(lines[last])) and _is_comment(lines, last + 1):
        last += 1
    bare = "".join(map(_uncommented, lines[: last + 1]))
    rule = _rule(_lines(bare)) if _says_something(bare) else None
    if rule and rule.text == bare and not rule.cut and _was_a_rule(rule):
        return replace(rule, text="".join(lines[: last + 1]), commented=True)
    return _Entry(lines[0], doubt=_doubt(lines[0], ()))


def _is_comment(lines, at):
    return at < len(lines) and lines[at].startswith("#")


def _was_a_rule(entry):
    """Whether a comment's words are a rule, not prose such as "account required for login"."""
    if entry.problem:
        return False
    if entry.how:
        return len(entry.words) == (2 if entry.how == "@include" else 3)
    return entry.target.endswith(".so") or entry.target.startswith("/")


def _words(text):
    """
    The words that libpam sees, with their places in the text: without comments, also in brackets,
    and with continuation lines joined by one blank.
    """
    seen = re.sub(r"[#\0][^\n]*", _blot, text)
    seen = re.sub(r"\\[ \t]*(?:\n[ \t]*|\Z)", lambda found: " " + _blot(found)[1:], seen)
    words = []
    for found in _WORD.finditer(seen):
        inner, close = found["inner"], found["close"]
        value = found["raw"] if inner is None else inner.replace("\\]", "]").replace(_GONE, "")
        words.append(_Word(value, found.start("raw"), found.end("raw"), close != ""))
    return tuple(words)


def _blot(found):
    return _GONE * len(found[0])


def _doubt(text, words):
    if "\0" in text:
        return "there is a NUL byte in it"
    size = len(text.encode("utf-8", "surrogateescape"))
    if size > _LONGEST:
        return f"it has {size} bytes: up to Linux-PAM 1.6, what is beyond {_LONGEST} is a line"
    if any(re.search(r"\n[ \t]", text[word.start : word.end]) for word in words[3:]):
        return "an argument goes on after a backslash: releases of libpam differ in its blanks"
    return ""


def _uncommented(text):
    return re.sub(r"(?m)^[ \t]*#+ ?", "", text)


def _commented(text):
    return re.sub(r"(?m)^(?=[^\n])", "# ", text)


def _data(entry, path):
    """An entry as this module's callers see it."""
    data = {"file": path, "line": entry.line}
    if entry.how:
        kind = entry.type if entry.how != "@include" else None
        data |= {"include": entry.target, "type": kind, "how": entry.how}
    else:
        data |= {
            "type": entry.type,
            "control": entry.control,
            "module": entry.target,
            "arguments": list(entry.values[3:]),
        }
    data["silent"] = entry.silent
    if entry.commented:
        data["commented"] = True
    if entry.problem:
        data["problem"] = entry.problem
    return data


# ---- The core: a control as a table of what follows from each answer ---------------------------


def _by_word(success, default, **others):
    """The table of a control word, as _pam_parse_conf_file() sets it."""
    table = dict.fromkeys(_RETURNS, default)
    return {**table, "success": success, "new_authtok_reqd": success, **others}


_CONTROLS = {
    "required": _by_word("ok", "bad", ignore="ignore"),
    "requisite": _by_word("ok", "die", ignore="ignore"),
    "optional": _by_word("ok", "ignore"),
    "sufficient": _by_word("done", "ignore"),
}
_ALL_BAD = dict.fromkeys(_RETURNS, "bad")
_SPACE = r"[ \t\n\v\f\r]*"  # isspace(3) in the C locale
# _pam_parse_control() compares beginnings only: "success=okdefault=die" are two settings
_SETTING = re.compile(
    rf"{_SPACE}(?P<value>{'|'.join(_RETURNS)}|default){_SPACE}={_SPACE}"
    rf"(?:(?P<action>{'|'.join(_ACTIONS)})|(?P<jump>[0-9]+))"
)


def _canonical(control):
    """A control as it is shown: a word in lower case, a table with single blanks."""
    word = control.removeprefix("[").removesuffix("]").lower()
    if word in _CONTROLS:
        return word
    if control[:1] == "[" and control[-1:] == "]":
        return f"[{' '.join(control[1:-1].split())}]"
    return control


def _table(control):
    """``({answer: action or number of rules to jump}, what is wrong with it)``"""
    if control.lower() in _CONTROLS:
        return _CONTROLS[control.lower()], ""
    table = {}
    at = 0
    while control[at:].strip(" \t\n\v\f\r"):
        found = _SETTING.match(control, at)
        if not found or (found["jump"] and not int(found["jump"])):
            # libpam logs "pam_parse: expecting …" and takes every answer as bad, success, too
            rest = f" from {control[at:].strip()!r} on" if at else ""
            return _ALL_BAD, f"the control {control!r} is not understood{rest}"
        action = found["action"] or int(found["jump"])
        if found["value"] == "default":  # for what is not set yet
            table = dict.fromkeys(_RETURNS, action) | table
        else:
            table[found["value"]] = action
        at = found.end()
    return {**_ALL_BAD, **table}, ""


# ---- The core: the stack that libpam makes of the files ----------------------------------------


@dataclass(frozen=True)
class _Handler:
    """One member of the list that libpam walks: a rule, or the beginning of a substack."""

    path: str
    entry: _Entry
    level: int  # how many substacks it is in
    table: dict
    fails: str = ""  # why libpam lets it fail without calling a module
    substack: bool = False

    @property
    def place(self):
        return f"{self.path}:{self.entry.line}"


class _GivesUpError(Exception):
    """libpam reads no further, and answers "abort" to whatever it is asked."""


class _Reader:
    """Reads files the way ``_pam_parse_conf_file()`` does; ``stacks`` is what comes of it."""

    def __init__(self, find, debian):
        self.find = find  # (name, whether to include it) -> (path, text or None)
        self.debian = debian
        self.stacks = {kind: {t: [] for t in _TYPES} for kind in ("service", "other")}

    def read(self, service):
        """The rules of a service and those of ``other``, which stand in type by type."""
        found = [
            (name, path, text)
            for name in (service, "other")
            for path, text in [self.find(name, False)]
            if text is not None
        ]
        if not found:
            raise _GivesUpError(f"there is neither a service {service!r} nor one named 'other'")
        for name, path, text in found:
            self.collect(self.stacks["other" if name == "other" else "service"], path, text)
        return self

    def stack(self, rule_type):
        return self.stacks["service"][rule_type] or self.stacks["other"][rule_type]

    def collect(self, stack, path, text, only=None, level=0, above=()):
        """Add the rules of a file, of one type only if it is included so."""
        for entry in _parse(text):
            if entry.doubt:
                raise CommandExecutionError(
                    f"{path}:{entry.line}: {entry.doubt}; write it otherwise"
                )
            if entry.cut:
                raise _GivesUpError(f"{path}:{entry.line}: the file ends after a backslash")
            if entry.active:
                self._add(stack, path, entry, only, level, above)

    def _add(self, stack, path, entry, only, level, above):
        at_include = entry.how == "@include" and self.debian
        # "most sensitive", says libpam: a rule of an unknown type becomes one of auth that fails
        own = entry.type if entry.type in _TYPES else only or "auth"
        rule_type = only if at_include else own
        if only and rule_type != only:
            return
        table = _table(entry.values[1])[0] if len(entry.words) > 1 else _ALL_BAD
        handler = _Handler(path, entry, level, table, entry.broken)
        if entry.how == "@include" and not self.debian:
            handler = replace(handler, fails="only Debian's libpam knows @include")
        elif entry.how:
            handler = self._include(stack, handler, rule_type, above)
        if handler:
            self._append(stack, handler, rule_type)

    def _append(self, stack, handler, rule_type):
        if rule_type is None:  # an @include that failed: _pam_add_handler() takes no type "any"
            raise _GivesUpError(f"{handler.place}: {handler.fails}")
        target = handler.entry.target
        if target is not None and (handler.substack or not handler.entry.how):
            stem, dot, end = target.rpartition("/")[2].rpartition(".")
            if (stem if dot else end) in ("", "?"):  # extract_modulename()
                raise _GivesUpError(f"{handler.place}: {target!r} is no file name")
        stack[rule_type].append(handler)

    def _include(self, stack, handler, rule_type, above):
        """Add what is included; returns the rule that fails in its place if that cannot be."""
        entry = handler.entry
        above = (*above, handler.path)
        if entry.target is None:
            raise CommandExecutionError(
                f"{handler.place}: the name of the file to include is missing, and Debian's libpam"
                " kills the process that reads this; add the name, or remove the line"
            )
        path, text = self.find(entry.target, True)
        if path in above or len(above) > _DEEPEST:
            raise CommandExecutionError(
                f"{handler.place}: {' → '.join((*above, path))}: these include each other, or are"
                f" more than {_DEEPEST} deep; take one of the includes out"
            )
        level = handler.level
        if entry.how == "substack":
            self._append(stack, replace(handler, substack=True), rule_type)
            level += 1
        try:
            if text is None:
                raise _GivesUpError(f"there is no file {path}")
            self.collect(stack, path, text, rule_type, level, above)
        except _GivesUpError as error:
            if entry.how == "@include" and rule_type:
                raise CommandExecutionError(
                    f"{handler.place}: {error}; what libpam then does is left to chance; mend that"
                ) from error
            return replace(handler, table=_ALL_BAD, fails=str(error))
        return None


@dataclass(frozen=True)
class _State:
    """Where ``_pam_dispatch_aux()`` is in its loop."""

    at: int = 0
    level: int = 0  # of the handler before
    impression: str = "undefined"  # or "positive", "negative"
    status: str = _MUST_FAIL
    saved: tuple = (("undefined", _MUST_FAIL),)  # impression and status at the start of each level

    @property
    def result(self):
        if self.status == "success" and self.impression != "positive":
            return _MUST_FAIL
        return self.status


def _step(stack, state, answer):
    """``(the state after a handler, what its answer led to)``: the loop of _pam_dispatch_aux()"""
    here = stack[state.at]
    level, at = here.level, state.at
    impression, status, saved = state.impression, state.status, state.saved
    if state.level < level:
        saved = (*saved[:level], (impression, status))
    action = "substack" if here.substack else here.table[answer]
    if action == "reset":
        impression, status = saved[level]
    elif action in ("ok", "done"):
        if impression == "undefined" or (impression, status) == ("positive", "success"):
            impression, status = "positive", answer
    elif action in ("bad", "die") and impression != "negative":
        impression, status = "negative", _MUST_FAIL if answer == "ignore" else answer
    if action == "die" or (action == "done" and impression == "positive"):
        while at + 1 < len(stack) and stack[at + 1].level >= level:
            at += 1
    elif isinstance(action, int):
        at, left = _jumped(stack, at, action)
        if left:
            impression, status = "negative", _MUST_FAIL
        action = f"bad jump {action}" if left else f"jump {action}"
    return _State(at + 1, level, impression, status, saved), action


def _jumped(stack, at, count):
    """``(where a jump over so many rules ends, how many it could not take)``; substacks are one."""
    level = stack[at].level
    while count and at + 1 < len(stack) and stack[at + 1].level >= level:
        at += 1
        while at + 1 < len(stack) and stack[at + 1].level > level:
            at += 1
        count -= 1
    return at, count


_DENIALS = {"auth": "auth_err", "account": "auth_err", "password": "authtok_err"}
# Modules of auth that say success on most days, whoever comes; with this argument
_WAVES_THROUGH = {
    "pam_access.so": "",
    "pam_faillock.so": "preauth",
    "pam_nologin.so": "successok",
    "pam_shells.so": "",
}
# Modules that can say one thing only
_FIXED_ANSWERS = {
    "pam_permit.so": lambda _: "success",
    "pam_deny.so": lambda rule_type: _DENIALS.get(rule_type, "session_err"),
}


def _name(handler):
    """The module's file name; "" for a substack."""
    return "" if handler.entry.how else (handler.entry.target or "").rpartition("/")[2]


def _answer(handler, rule_type, answers):
    """What a rule's module says; those of _FIXED_ANSWERS need not be told."""
    name = _name(handler)
    if handler.fails or handler.substack:
        return _MUST_FAIL
    for key in (handler.place, handler.entry.target, name):
        if key in answers:
            return answers[key]
    if name in _FIXED_ANSWERS:
        return _FIXED_ANSWERS[name](rule_type)
    raise SaltInvocationError(
        f"{handler.place}: answers says nothing of {name}; give it, or {handler.place}"
    )


def _evaluated(stack, rule_type, answers):
    """``(libpam's result, [(handler, answer, what it led to)])``"""
    asked = []
    state = _State()
    while state.at < len(stack):
        handler = stack[state.at]
        answer = _answer(handler, rule_type, answers)
        state, action = _step(stack, state, answer)
        if not handler.substack:
            asked.append((handler, answer, action))
    return state.result, asked


# ---- The core: lint --------------------------------------------------------------------------

_PASSWORD_MODULES = {"pam_unix.so", "pam_sss.so", "pam_ldap.so", "pam_krb5.so", "pam_winbind.so"}
_CODE_MODULES = {
    "pam_google_authenticator.so",
    "pam_oath.so",
    "pam_yubico.so",
    "pam_u2f.so",
    "pam_duo.so",
}
_GOOGLE = "pam_google_authenticator.so"
# parse_args() in pam_google_authenticator.c, release 1.08
_GOOGLE_WORDS = set(
    "no_strict_owner debug try_first_pass use_first_pass forward_pass noskewadj no_increment_hotp"
    " nullok allow_readonly echo-verification-code echo_verification_code".split()
)
_GOOGLE_VALUES = ("secret", "authtok_prompt", "user", "allowed_perm", "grace_period")
_GOOD = ("success", "new_authtok_reqd")
# Every code there is
_SEVERITIES = {
    "at-include": "error",
    "broken-rule": "error",
    "carriage-return": "error",
    "cut-off": "error",
    "home-with-user": "error",
    "include-loop": "error",
    "include-missing": "error",
    "include-without-name": "error",
    "jump-too-far": "error",
    "lets-everybody-in": "error",
    "module-missing": "error",
    "never-succeeds": "error",
    "nullok-refuses": "error",
    "one-factor": "error",
    "open-bracket": "error",
    "releases-differ": "error",
    "unknown-control": "error",
    "unknown-option": "error",
    "allow-readonly": "warning",
    "grace-period": "warning",
    "include-arguments": "warning",
    "optional-module-missing": "warning",
    "skew": "warning",
    "unreachable": "warning",
    "code-without-password": "info",
    "nullok": "info",
}


def _finding(path, entry, code, message, mend):
    return {
        "file": path,
        "line": entry.line,
        "severity": _SEVERITIES[code],
        "code": code,
        "message": message,
        "mend": mend,
    }


def _lint_entry(path, entry, debian):
    """What is wrong with a line for itself."""

    def finding(code, message, mend):
        return _finding(path, entry, code, message, mend)

    if entry.doubt:
        yield finding("releases-differ", entry.doubt, "write it as one short line")
    if entry.cut and not entry.doubt:
        words = "the file ends after a backslash: libpam refuses every request of the service"
        yield finding("cut-off", words, "take the backslash out, or add what is missing")
    if entry.doubt or not entry.active:
        return
    if "\r" in "".join(entry.values):
        words = "a carriage return is part of its last word for libpam"
        yield finding("carriage-return", words, "end lines with a line feed only")
    if not all(word.closed for word in entry.words):
        words = "an opening bracket has no closing one; a # ends the line in brackets, too"
        yield finding("open-bracket", words, "close it, or write the value without #")
    if entry.how == "@include" and not debian:
        words = "only Debian's libpam knows @include; here it is an auth rule that always fails"
        yield finding("at-include", words, f"write: TYPE include {entry.target}")
    elif entry.how and not entry.target:
        words = "the name of the file is missing: Debian's libpam kills the process that asks"
        yield finding("include-without-name", words, "add the name, or remove the line")
    elif entry.broken:
        kind = entry.type if entry.type in _TYPES else "auth"
        does = "includes rules" if entry.how else "always fails"
        words = f"{entry.broken}: libpam takes it for one of {kind} that {does}"
        yield finding("broken-rule", words, "write: TYPE CONTROL MODULE ARGUMENTS")
    elif entry.problem:
        words = f"{entry.problem}: libpam takes every answer as bad, success, too"
        mend = "use required, requisite, sufficient, optional or [value=action …]"
        yield finding("unknown-control", words, mend)
    extra = entry.values[2 if entry.how == "@include" else 3 :] if entry.how else ()
    if extra:
        words = f"an include has no arguments: {' '.join(extra)} is not read"
        yield finding("include-arguments", words, "give them in the included file")


def _lint_stack(stack, rule_type):
    """What is wrong with the rules of a type together."""
    seen, results = _reached(stack, lambda handler: _kinds(handler, rule_type))
    asked = {state.at for state in seen}
    for index, handler in enumerate(stack):
        yield from _lint_jumps(stack, index)
        harmless = _name(handler) in ("pam_deny.so", "pam_permit.so") or handler.substack
        if index not in asked and not harmless:
            words = "libpam never comes to this rule: those above end the stack, or jump over it"
            yield _of(handler, "unreachable", words, "move it up, or remove it")
    modules = {_name(handler) for handler in stack if not handler.substack}
    if modules - {"pam_deny.so"} and results.isdisjoint(_GOOD):
        words = f"whatever the modules answer, {rule_type} never succeeds"
        mend = "let a module's success count: required, or [success=ok …]"
        yield _of(stack[0], "never-succeeds", words, mend)
    seen, worst = _reached(stack, lambda handler: _failures(handler, rule_type))
    refusing = rule_type == "auth" or modules - {"pam_permit.so"}
    if refusing and not worst.isdisjoint(_GOOD):  # only these succeed where all others refuse
        walked = [stack[at] for at in sorted({state.at for state in seen}) if at < len(stack)]
        last = [handler for handler in walked if _failures(handler, rule_type) == ["success"]][-1]
        words = f"{rule_type} succeeds when every other module refuses: this one says success"
        mend = "make another module required, or let each jump over a requisite pam_deny.so"
        yield _of(last, "lets-everybody-in", words, mend)


def _lint_jumps(stack, index):
    handler = stack[index]
    jumps = {action for action in handler.table.values() if isinstance(action, int)}
    for count in sorted(jumps):
        _, left = _jumped(stack, index, count)
        if left:
            within = "the substack" if handler.level else "the stack"
            words = f"a jump over {count}, but {within} has {count - left} more: libpam refuses"
            words += " when it comes to that"
            mend = f"jump over {count - left} at most" if count > left else "write ok or done"
            yield _of(handler, "jump-too-far", words, mend)


def _lint_factors(stack):
    """A factor whose success ends the stack above another one is enough alone."""
    for index, handler in enumerate(stack):
        end = _leap(stack, index)
        passed = {_name(other) for other in stack[index + 1 : end]}
        if _name(handler) in _PASSWORD_MODULES and passed & _CODE_MODULES:
            words = f"the password alone is enough: {_name(handler)} skips"
            words += f" {', '.join(sorted(passed & _CODE_MODULES))}"
            yield _of(handler, "one-factor", words, "put the second factor above it")
        elif _name(handler) in _CODE_MODULES and passed & _PASSWORD_MODULES:
            words = f"the code is enough without {', '.join(sorted(passed & _PASSWORD_MODULES))}"
            mend = (
                "right if another factor is asked elsewhere: AuthenticationMethods in sshd_config"
            )
            yield _of(handler, "code-without-password", words, mend)
        elif _name(handler) in _CODE_MODULES and _is_ignored(stack, index):
            words = f"a wrong code is let in: {handler.entry.control} goes on when"
            words += f" {_name(handler)} refuses, and the other rules are enough"
            mend = "use required, or [success=ok default=die]"
            yield _of(handler, "one-factor", words, mend)


def _is_ignored(stack, index):
    """Whether a code module, asked beside a password and not in its stead, may as well refuse."""
    if not any(_name(handler) in _PASSWORD_MODULES for handler in stack):
        return False

    def says(handler):
        if _name(handler) in _CODE_MODULES:
            return ["auth_err"]
        good = [answer for answer in _kinds(handler, "auth") if answer in _GOOD]
        return good or _kinds(handler, "auth")

    seen, _ = _reached(stack, says)
    after = [_step(stack, state, "auth_err")[0] for state in seen if state.at == index]
    _, results = _reached(stack, says, after)
    return not results.isdisjoint(_GOOD)


def _leap(stack, index):
    """The index that libpam goes on at when this module, asked first, says success."""
    if stack[index].substack or stack[index].fails:
        return index + 1
    level = stack[index].level
    state = _State(index, level, saved=_State.saved * (level + 1))
    return _step(stack, state, "success")[0].at


def _lint_google_authenticator(stack, handler):
    arguments = handler.entry.values[3:]
    values = dict(argument.partition("=")[::2] for argument in arguments if "=" in argument)
    unknown = [a for a in arguments if a not in _GOOGLE_WORDS and not _is_google_value(a)]
    if unknown:
        words = f"{_GOOGLE} does not know {', '.join(unknown)}: every login fails"
        yield _of(handler, "unknown-option", words, "take it out")
    home = re.match(r"~|\$\{HOME\}", values.get("secret", "~"))
    if "user" in values and home:
        words = "a secret below the user's home (the default) cannot be read with user=:"
        words += " every login fails"
        yield _of(handler, "home-with-user", words, "give secret=/FOLDER/${USER}")
    if values.get("grace_period", "0").strip("0"):
        words = "grace_period lets the next login from the same address in without a code"
        yield _of(handler, "grace-period", words, "take it out")
    if "allow_readonly" in arguments:
        words = "allow_readonly lets in where a used code cannot be noted: it lets in again"
        yield _of(handler, "allow-readonly", words, "take it out")
    if "noskewadj" not in arguments:
        words = "without noskewadj the module learns a clock that is wrong by up to 12.5 hours"
        yield _of(handler, "skew", words, "add noskewadj")
    if "nullok" in arguments:
        yield from _lint_nullok(stack, handler)


def _is_google_value(argument):
    name, _, value = argument.partition("=")
    if name == "grace_period":
        return value.isdigit()
    if name == "allowed_perm":
        return bool(re.fullmatch(r"0*[1-7][0-7]*", value))
    return name in _GOOGLE_VALUES and "=" in argument


def _lint_nullok(stack, handler):
    words = "who has no secret file is not asked for a code"
    yield _of(handler, "nullok", words, "take nullok out once all have enrolled")

    def says(other):
        return ["ignore"] if other == handler else _kinds(other, "auth")

    _, results = _reached(stack, says)
    if results.isdisjoint(_GOOD):
        action = handler.table["ignore"]
        words = f"nullok answers PAM_IGNORE, and {handler.entry.control} makes that {action!r}"
        if action == "ignore":
            words = "nullok answers PAM_IGNORE, and no other module says success"
        words += ": who has no secret file is refused"
        mend = "use [success=done ignore=ignore default=die], and auth required pam_permit.so below"
        yield _of(handler, "nullok-refuses", words, mend)


def _of(handler, *words):
    return _finding(handler.path, handler.entry, *words)


def _reached(stack, says, start=(_State(),)):
    """``(states that can be, results that can be)`` when each rule says any of these"""
    seen, results = set(), set()
    states = list(start)
    while states:
        state = states.pop()
        if state in seen:
            continue
        seen.add(state)
        if state.at == len(stack):
            results.add(state.result)
        else:
            states += [_step(stack, state, answer)[0] for answer in says(stack[state.at])]
    return seen, results


def _kinds(handler, rule_type):
    """Answers of a module that differ in what follows; only one where it has only one."""
    if handler.fails or handler.substack:
        return [_MUST_FAIL]
    if _name(handler) in _FIXED_ANSWERS:
        return [_FIXED_ANSWERS[_name(handler)](rule_type)]
    kinds = {
        (action, answer in _GOOD, answer == "ignore"): answer
        for answer, action in handler.table.items()
    }
    return list(kinds.values())


def _failures(handler, rule_type):
    """The same, of a module that refuses whom it can; some let in everybody on most days."""
    name, arguments = _name(handler), handler.entry.values[3:]
    if rule_type == "auth" and _WAVES_THROUGH.get(name) in ("", *arguments):
        return ["success"]
    answers = [a for a in _kinds(handler, rule_type) if a not in (*_GOOD, "ignore")]
    return answers or _kinds(handler, rule_type)[:1]


# ---- The core: editing -----------------------------------------------------------------------

_CONTROL_CHARACTER = re.compile(r"[\0-\x08\x0b-\x1f\x7f]")
_WHERE = ("before", "after", "at")
_RULE_KEYS = {"type", "control", "module", "arguments", "silent"}
_INCLUDE_KEYS = {"include", "type", "how"}
_SELECTOR_KEYS = {"type", "module", "control", "arguments", "include", "line"}


class _File:
    """
    A file while it is edited. A last line without an end is a trait of the file, not of that line:
    what is added below it and taken away again leaves no trace.
    """

    def __init__(self, path, text, brings):
        self.path = path
        self.brings = brings  # whether an included file (name) has rules of a type
        self.ends = not text or text.endswith("\n")
        entries = _parse(text if self.ends else text + "\n")
        self.entries = [replace(entry, origin=entry.line) for entry in entries]

    @property
    def text(self):
        text = "".join(entry.text for entry in self.entries)
        return text if self.ends else text.removesuffix("\n")

    def put(self, start, end, text, origin=0):
        """Put text in place of the entries from start to end."""
        new = [replace(entry, origin=origin) for entry in _parse(text)]
        for above in self.entries[start - 1 : start] if new and start else ():
            if above.cut or above.doubt:
                why = above.doubt or "it ends with a backslash, and the file ends there, too"
                raise SaltInvocationError(
                    f"{self.path}:{above.line}: nothing can be put below this: {why};"
                    " write it as one line first"
                )
        if new and new[-1].cut:
            shown = _head(new[-1]) if new[-1].words else text.strip()
            raise SaltInvocationError(
                f"{shown!r} ends with a backslash, which takes in what is below it"
            )
        entries = self.entries[:start] + new + self.entries[end:]
        lines = itertools.accumulate((len(_lines(entry.text)) for entry in entries), initial=1)
        self.entries = [replace(e, line=line) for e, line in zip(entries, lines, strict=False)]

    def find(self, selector, rule_type=None, commented=False):
        """The index of the one rule or include that a selector means."""
        selector = _selector(selector, rule_type)
        found = [
            index
            for index, entry in enumerate(self.entries)
            if entry.words and entry.commented == commented and _selects(selector, entry)
        ]
        if len(found) == 1:
            return found[0]
        kind = "commented-out rule" if commented else "rule"
        lines = ", ".join(str(self.entries[index].line) for index in found)
        if found:
            raise SaltInvocationError(
                f"{self.path}: {len(found)} rules are {_shown(selector)}, at lines {lines};"
                " say type, control, arguments or line, too"
            )
        raise SaltInvocationError(
            f"{self.path}: no {kind} is {_shown(selector)}{self._hint(selector)}"
        )

    def _hint(self, selector):
        """Where the module or include of a selector stands after all."""
        name = selector.get("module") or selector.get("include")
        lines = [f"{e.line}: {_head(e)}" for e in self.entries if e.words and e.target == name]
        return f"; there is line {'; line '.join(lines)}" if lines else ""

    def place(self, where, rule_type, stands=None):
        """
        The index at which something for a type belongs; ``stands``, where it stands, if that
        satisfies: anywhere before or after the other rule, above or below all others of its type.
        """
        which, what = next(iter(where.items()))
        if which == "at":
            same = [i for i, entry in enumerate(self.entries) if self._is_of(entry, rule_type)]
            if not same:
                return len(self.entries) if stands is None else stands
            target = same[0] if what == "top" else same[-1] + 1
        else:
            target = self.find(what, rule_type) + (which == "after")
        above = which == "before" or what == "top"
        stays = stands is not None and (stands <= target if above else stands >= target)
        return stands if stays else target

    def _is_of(self, entry, rule_type):
        if not entry.active:
            return False
        if entry.how == "@include":
            return rule_type is None or self.brings(entry.target, rule_type)
        # libpam takes a rule of an unknown type for one of auth
        return rule_type in (None, entry.type if entry.type in _TYPES else "auth")


def _shown(data):
    return " ".join(f"{key}={value}" for key, value in data.items())


def _keys(given):
    """A mapping in an error, by its keys: its values may be passwords, too."""
    return ", ".join(map(str, given)) if isinstance(given, dict) else repr(given)


def _head(entry):
    """A rule in an error: its arguments may be passwords, such as pam_mysql's."""
    end = entry.words[2].end if len(entry.words) > 3 else entry.words[-1].end
    return entry.text[entry.words[0].start : end] + (" …" if len(entry.words) > 3 else "")


def _selector(given, rule_type=None):
    """
    A selector as a dict, from a dict or a text: a module's name, or ``@include NAME``. Where rules
    of one type are meant, rules of others cannot be: their order among each other means nothing.
    """
    if isinstance(given, str):
        words = given.split()
        given = (
            {"include": words[1]} if words[:1] == ["@include"] and words[1:] else {"module": given}
        )
    if not isinstance(given, dict) or not given or set(given) - _SELECTOR_KEYS:
        raise SaltInvocationError(
            f"{given!r} selects no rule; give some of: {', '.join(sorted(_SELECTOR_KEYS))}"
        )
    _texts(given, "type", "module", "control", "include")
    if rule_type and "include" not in given and "type" not in given:
        return {**given, "type": rule_type}
    return given


def _selects(selector, entry):
    if any(
        selector.get(key, getattr(entry, key)) != getattr(entry, key) for key in ("line", "type")
    ):
        return False
    if entry.how or "include" in selector:
        asks_for_a_rule = selector.keys() & {"module", "control", "arguments"}
        same = selector.get("include", entry.target) == entry.target
        return bool(entry.how) and same and not asks_for_a_rule
    module = entry.target or ""
    return (
        selector.get("module", module) in (module, module.rpartition("/")[2])
        and ("control" not in selector or _same_control(selector["control"], entry.control or ""))
        and set(_arguments(selector)) <= set(entry.values[3:])
    )


def _same_control(one, other):
    return _canonical(one) == _canonical(other)


def _line_of(rule):
    """A rule's line, from a dict or a text, with its end; refused if libpam would not take it."""
    text = rule if isinstance(rule, str) else _rendered(rule)
    entries = _parse(text)
    if (
        len(entries) != 1
        or not entries[0].active
        or "\n" in text
        or _CONTROL_CHARACTER.search(text)
    ):
        shown = _head(entries[0]) if entries and entries[0].words else text
        raise SaltInvocationError(f"{shown!r} is not one rule in one line")
    entry = entries[0]
    problem = entry.problem or entry.doubt or ("it ends with a backslash" if entry.cut else "")
    if problem:
        raise SaltInvocationError(f"{_head(entry)!r}: {problem}")
    if isinstance(rule, dict) and "module" in rule:
        meant = (rule["module"], *_arguments(rule))
        if entry.values[2:] != meant:
            raise SaltInvocationError(
                f"{_head(entry)!r}: a PAM stack cannot say these arguments: one holds #, ends with"
                " a backslash, or is empty"
            )
    return text + "\n"


def _rendered(rule):
    if isinstance(rule, dict):
        _texts(rule, *rule.keys() - {"arguments", "silent"})
    if isinstance(rule, dict) and "include" in rule and not set(rule) - _INCLUDE_KEYS:
        how = rule.get("how", "include" if rule.get("type") else "@include")
        return f"{rule.get('type') or ''} {how} {rule['include']}".lstrip()
    if isinstance(rule, dict) and {"type", "module"} <= set(rule) <= _RULE_KEYS:
        _known_type(rule["type"])
        head = (
            f"{'-' if rule.get('silent') else ''}{rule['type']} {rule.get('control', 'required')}"
        )
        return " ".join([head, rule["module"], *map(_quoted, _arguments(rule))])
    raise SaltInvocationError(
        f"{_keys(rule)} is no rule; give its line, or {', '.join(sorted(_RULE_KEYS))}"
    )


def _texts(data, *keys):
    """Refuse what YAML makes of an unquoted yes, of brackets, or of nothing."""
    for key in keys:
        if key in data and not isinstance(data[key], str):
            raise SaltInvocationError(f"{key}: {data[key]!r} is no text; put it in quotes")


def _arguments(data, key="arguments", default=()):
    """Arguments that somebody gave, as texts: YAML makes numbers of some."""
    given = data.get(key, default)
    if not isinstance(given, (list, tuple)):
        raise SaltInvocationError(f"{key}: {given!r} is no list; write [{given}]")
    for argument in given:
        if isinstance(argument, bool) or not isinstance(argument, (str, int)):
            raise SaltInvocationError(f"{key}: {argument!r} is no text; put it in quotes")
    return [str(argument) for argument in given]


def _quoted(text):
    """An argument as it is written: in brackets where there are blanks in it."""
    if text and not re.search(r"[ \t]|^\[", text):
        return text
    return "[" + text.replace("]", "\\]") + "]"


def _where(edit, default=None):
    given = {key: edit[key] for key in _WHERE if edit.get(key) is not None}
    if len(given) > 1 or given.get("at", "top") not in ("top", "bottom"):
        raise SaltInvocationError("give one of before, after (a rule each) and at (top or bottom)")
    return given or default


def _add(file, edit):
    line = _line_of(edit["add"])
    at = file.place(_where(edit, {"at": "bottom"}), _type_of([line]))
    file.put(at, at, line)


def _type_of(lines):
    """The type of the first rule; None where that is an @include, or where there is none."""
    rules = [entry for entry in _parse("".join(lines)) if entry.active]
    return rules[0].type if rules and rules[0].type in _TYPES else None


def _change(file, edit):
    at = file.find(edit["change"])
    entry = file.entries[at]
    if entry.how or entry.target is None:
        raise SaltInvocationError(
            f"{file.path}:{entry.line}: this is no rule to change; remove it, and add one"
        )
    old = list(entry.values[3:])
    gone = _arguments(edit, "remove_arguments")
    new = [word for word in _arguments(edit, default=old) if word not in gone]
    new += [word for word in _arguments(edit, "add_arguments") if word not in new]
    text = entry.text
    if new != old:
        text = _with_arguments(entry, old, new)
    if not _same_control(edit.get("control", entry.control), entry.control):
        control = entry.words[1]
        text = text[: control.start] + edit["control"] + text[control.end :]
    _check_change(file, entry, text, new, edit.get("control", entry.control))
    file.put(at, at + 1, text, entry.origin)


def _with_arguments(entry, old, new):
    """An entry's text with other arguments; those that stay at the front stay as written."""
    kept = 0
    while kept < min(len(old), len(new)) and old[kept] == new[kept]:
        kept += 1
    start, end = entry.words[2 + kept].end, entry.words[-1].end
    written = "".join(f" {_quoted(argument)}" for argument in new[kept:])
    return entry.text[:start] + written + entry.text[end:]


def _check_change(file, entry, text, arguments, control):
    """libpam must read in the new text what was asked for, and nothing else."""
    entries = _parse(text)
    wanted = (entry.type, entry.target, *arguments)
    if len(entries) == 1 and entries[0].active and not entries[0].problem:
        got = (entries[0].type, entries[0].target, *entries[0].values[3:])
        clean = not entries[0].doubt and not _CONTROL_CHARACTER.search(text)
        if got == wanted and clean and _same_control(entries[0].control, control):
            return
    problem = entries[0].problem if entries[0].active else ""
    shown = _head(entries[0]) if entries[0].words else _head(entry)
    raise SaltInvocationError(
        f"{file.path}:{entry.line}: {shown!r} would not be read as meant"
        + (f": {problem}" if problem else "; an argument cannot hold #, or a line break")
    )


def _move(file, edit):
    at = file.find(edit["move"])
    entry = file.entries[at]
    where = _where(edit)
    if not where:
        raise SaltInvocationError("say where to move it: before, after or at")
    file.put(at, at + 1, "")
    new = file.place(where, entry.type if entry.type in _TYPES else None, at)
    file.put(new, new, entry.text, entry.origin)


def _remove(file, edit):
    at = file.find(edit["remove"])
    file.put(at, at + 1, "")


def _comment_out(file, edit):
    at = file.find(edit["comment"])
    file.put(at, at + 1, _commented(file.entries[at].text))


def _uncomment(file, edit):
    at = file.find(edit["uncomment"], commented=True)
    file.put(at, at + 1, _uncommented(file.entries[at].text))


def _block(file, edit):
    """A set of lines between two comment lines, kept, replaced, moved or taken away."""
    name, rules = edit["block"], edit.get("rules", [])
    if not isinstance(rules, (list, tuple)):
        raise SaltInvocationError(f"rules: {rules!r} is no list of lines")
    at, end = _marks(file, name)
    where = _where(edit)
    if at is not None:
        file.put(at, end + 1, "")
    if not rules:
        return
    body = [_line_of(rule) if _is_rule(rule) else f"{rule}\n" for rule in rules]
    if where or at is None:
        at = file.place(where or {"at": "top"}, _type_of(body), at)
    begin = _mark(edit, "begin", f"# BEGIN {name}")
    finish = _mark(edit, "end", f"# END {name}")
    file.put(at, at, "".join([begin, *body, finish]))
    _marks(file, name)  # an error if the lines hold another pair


def _is_rule(rule):
    """Whether it is not a comment or an empty line of a block."""
    if not isinstance(rule, str) or "\n" in rule:
        return True
    return any(entry.active or entry.doubt for entry in _parse(rule))


def _mark(edit, which, prefix):
    line = edit.get(which, prefix)
    if not _is_mark(line, prefix) or "\n" in line:
        raise SaltInvocationError(f"{which}: {line!r} must be one line that begins with {prefix!r}")
    return f"{line}\n"


def _is_mark(line, prefix):
    return bool(re.match(rf"{re.escape(prefix)}(?![\w.-])", line))


def _marks(file, name):
    """``(index of the BEGIN line, of the END line)`` of a block, or ``(None, None)``."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+(?: [\w.-]+)*", name):
        raise SaltInvocationError(
            f"block: {name!r} is no name; use letters, digits, '_', '-' and '.'"
        )
    marks = [
        (index, mark)
        for index, entry in enumerate(file.entries)
        for mark in ("BEGIN", "END")
        if not entry.active and _is_mark(entry.text.strip(), f"# {mark} {name}")
    ]
    if not marks:
        return None, None
    if [mark for _, mark in marks] != ["BEGIN", "END"]:
        lines = [f"{mark} at line {file.entries[index].line}" for index, mark in marks]
        raise SaltInvocationError(
            f"{file.path}:{file.entries[marks[0][0]].line}: the marks of block {name!r} are no"
            f" pair: {', '.join(lines)}; put the missing one back, or delete what is left of it"
        )
    return marks[0][0], marks[1][0]


_EDITS = {
    "add": (_add, set(_WHERE)),
    "change": (_change, {"control", "arguments", "add_arguments", "remove_arguments"}),
    "move": (_move, set(_WHERE)),
    "remove": (_remove, set()),
    "comment": (_comment_out, set()),
    "uncomment": (_uncomment, set()),
    "block": (_block, {"rules", "begin", "end", *_WHERE}),
}


def _edited(file, edits):
    """Do edits to a file."""
    if not isinstance(edits, (list, tuple)):
        raise SaltInvocationError(f"edits: {_keys(edits)} is no list of edits")
    for number, edit in enumerate(edits, 1):
        verbs = [verb for verb in _EDITS if isinstance(edit, dict) and verb in edit]
        if len(verbs) != 1 or set(edit) - {verbs[0], *_EDITS[verbs[0]][1]}:
            raise SaltInvocationError(
                f"edit {number} ({_keys(edit)}) is none; give one of {', '.join(_EDITS)}"
                " and what belongs to it"
            )
        _texts(edit, "control", "begin", "end")
        _EDITS[verbs[0]][0](file, edit)


def _check_jumps(file, before, after):
    """
    A rule that was not edited must jump to where it jumped before, though rules came or went. New
    rules right above its target are what somebody wants: they are asked on the way.
    """
    origins = {entry.line: entry.origin for entry in file.entries}

    def old(handler):
        path, line = handler.path, handler.entry.line
        return (path, origins.get(line, 0) if path == file.path else line)

    for rule_type in _TYPES:
        now = [(old(handler), handler) for handler in after[rule_type]]
        left = {place for place, _ in now}
        was = [((handler.path, handler.entry.line), handler) for handler in before[rule_type]]
        landings = {key: _landing(was, *key, left) for key in _jumps(was)}
        for key in _jumps(now) & set(landings):
            if _landing(now, *key, set(dict(was))) != landings[key]:
                handler = dict(now)[key[0]]
                raise SaltInvocationError(
                    f"{handler.place}: {handler.entry.control} would jump to another rule than it"
                    " does today; change its number in the same list of edits, or put the rule"
                    " elsewhere"
                )


def _jumps(stack):
    """``{(place, control, how far)}`` of a list of (place, handler)"""
    return {
        (place, handler.entry.control, action)
        for place, handler in stack
        if not handler.entry.how
        for action in handler.table.values()
        if isinstance(action, int)
    }


def _landing(stack, place, _, count, known):
    """The place of the first known rule at or below the one that a jump goes to."""
    start = [at for at, _ in stack].index(place)
    at, left = _jumped([handler for _, handler in stack], start, count)
    below = (place for place, _ in stack[at + 1 :] if place in known)
    return "nowhere" if left else next(below, "the end")


# ---- The shell -------------------------------------------------------------------------------

_FOLDER = "/etc/pam.d"
# PAM_CONFIG_DIST_D and, as openSUSE builds it, VENDORDIR
_VENDOR_FOLDERS = ("/usr/lib/pam.d", "/usr/etc/pam.d")


class _Source:
    """Files on disk, with texts laid over some of them."""

    def __init__(self, folder, files):
        self.folder = folder
        if not isinstance(files or {}, dict):
            raise SaltInvocationError("files is no mapping; give PATH: TEXT")
        self.files = files or {}
        self.debian = __grains__["os_family"] == "Debian"
        if not all(isinstance(path, str) and os.path.isabs(path) for path in (folder, *self.files)):
            raise SaltInvocationError("folder and the names in files must be absolute paths")

    def text(self, path):
        if path in self.files:
            return self.files[path]
        return __salt__["root_file.read"](path)

    def find(self, name, included=False):
        """
        ``(path, text)`` of a service or an included file; of the first place if it is nowhere.
        Debian's libpam looks for what is included in /etc/pam.d only.
        """
        folders = [self.folder]
        if self.folder == _FOLDER and not (included and self.debian):
            folders += _VENDOR_FOLDERS
        paths = [os.path.join(folder, name) for folder in folders]  # an absolute name stays
        texts = ((path, self.text(path)) for path in paths)
        return next(((path, text) for path, text in texts if text is not None), (paths[0], None))

    def service(self, service):
        """``(path, text)`` of a service's own file, which must be there."""
        path, text = self.find(_known_name(service))
        if text is None:
            raise CommandExecutionError(f"{path}: there is no such file, so no service {service}")
        return path, text

    def reader(self, service):
        return _Reader(self.find, self.debian).read(_known_name(service))

    def alone(self, path, text):
        """The rules of a file by type, with what it includes."""
        reader = _Reader(self.find, self.debian)
        reader.collect(reader.stacks["service"], path, text)
        return reader.stacks["service"]

    def brings(self, name, rule_type):
        """Whether an included file has rules of a type; yes, if that cannot be told."""
        path, text = self.find(name, True)
        try:
            return bool(self.alone(path, text or "")[rule_type])
        except (CommandExecutionError, _GivesUpError):
            return True


def read(service, folder=_FOLDER, files=None):
    """
    Return the rules and includes of one file, in its order, also those that are commented out.
    Includes are not followed.

    service
        Name of the service, such as ``sshd``.

    folder
        Absolute path of where the files are, and what they include. Default: ``/etc/pam.d``; a
        service that is not there is looked for as libpam does, in ``/usr/lib/pam.d`` and, as
        openSUSE has it, ``/usr/etc/pam.d``. What is included is, too, but not on Debian

    files
        Texts by absolute path that stand for what is on disk; None: there is no such file.

    CLI Example:

    .. code-block:: bash

        salt-call --local pam_stack.read sshd
    """
    path, text = _Source(folder, files).service(service)
    return [_data(entry, path) for entry in _parse(text) if entry.words]


def effective(service, type=None, folder=_FOLDER, files=None):  # noqa: A002 - PAM's word
    """
    Return the rules that libpam goes through, with includes followed.

    Each rule has its own file and line, and its ``depth``: in how many substacks it is. A substack
    itself stands before its rules, as an include: it counts in jumps, together with them, as one.
    Where the service has no rule of a type, libpam takes those of the service ``other``.
    CommandExecutionError where libpam would give up or where two releases differ.

    service
        As for :py:func:`read`.

    type
        ``auth``, ``account``, ``password`` or ``session``. Default: all, in this order

    folder, files
        As for :py:func:`read`.

    CLI Example:

    .. code-block:: bash

        salt-call --local pam_stack.effective sshd auth
    """
    try:
        reader = _Source(folder, files).reader(service)
    except _GivesUpError as error:
        raise CommandExecutionError(f"{error}; libpam then refuses every request") from error
    return [
        _effective_data(handler, rule_type)
        for rule_type in ([_known_type(type)] if type else _TYPES)
        for handler in reader.stack(rule_type)
    ]


def _effective_data(handler, rule_type):
    data = {**_data(handler.entry, handler.path), "type": rule_type, "depth": handler.level}
    return {**data, "problem": handler.fails} if handler.fails else data


def _known_name(service):
    if not isinstance(service, str) or not re.fullmatch(r"(?!\.+\Z)[^/\0\s]+", service):
        raise SaltInvocationError(
            f"{service!r} is no service; give the name of a file in /etc/pam.d"
        )
    return service


def _known_type(rule_type):
    if rule_type not in _TYPES:
        raise SaltInvocationError(f"type: {rule_type!r} is none of {', '.join(_TYPES)}")
    return rule_type


def evaluate(service, type, answers, folder=_FOLDER, files=None):  # noqa: A002 - PAM's word
    """
    Return what libpam says when the modules answer so: ``{"result", "asked"}``.

    ``result`` is ``success`` or an error as pam.conf(5) names it, such as ``auth_err``. ``asked``
    are the rules that libpam comes to, in order: ``file``, ``line``, ``module`` (None where libpam
    lets a broken rule fail without calling one), its ``answer``, and the ``action`` that followed:
    ``ok``, ``done``, ``bad``, ``die``, ``ignore``, ``reset``, ``jump N``, or ``bad jump N``, which
    refuses. ``abort`` with a ``reason`` means that libpam gives up on the files. It is what
    pam_authenticate(3), pam_acct_mgmt(3), pam_chauthtok(3) or pam_open_session(3) return; the
    second walk, of pam_setcred(3), is not told.

    service
        As for :py:func:`read`.

    type
        ``auth``, ``account``, ``password`` or ``session``.

    answers
        What modules say, as pam.conf(5) names it: ``{"pam_unix.so": "auth_err"}``. A key
        ``FILE:LINE`` tells it of that rule. ``pam_permit.so`` and ``pam_deny.so`` are known.
        SaltInvocationError names a module that is asked and is not here.

    folder, files
        As for :py:func:`read`.

    CLI Example:

    .. code-block:: bash

        salt-call --local pam_stack.evaluate sshd auth '{pam_unix.so: auth_err}'
    """
    _known_type(type)
    _check_answers(answers)
    try:
        stack = _Source(folder, files).reader(service).stack(type)
    except _GivesUpError as error:
        return {"result": "abort", "asked": [], "reason": str(error)}
    places = {handler.place for handler in stack}
    astray = [key for key in answers if re.search(r":[0-9]+\Z", key) and key not in places]
    if astray:
        raise SaltInvocationError(
            f"answers: {astray[0]} is no rule of the {type} stack of {service}"
        )
    result, asked = _evaluated(stack, type, answers)
    return {
        "result": result,
        "asked": [
            {
                "file": handler.path,
                "line": handler.entry.line,
                "module": None if handler.fails else handler.entry.target,
                "answer": answer,
                "action": action,
            }
            for handler, answer, action in asked
        ],
    }


def _check_answers(answers):
    if not isinstance(answers, dict):
        raise SaltInvocationError(f"answers: {answers!r} is no mapping; give MODULE: ANSWER")
    for key, value in answers.items():
        if not isinstance(key, str) or value not in _RETURNS:
            raise SaltInvocationError(
                f"answers: '{key}: {value}' is no answer; give one of {', '.join(_RETURNS)}"
            )


def lint(service, folder=_FOLDER, files=None):
    """
    Return what is wrong with a service's stack, and with ``other``, which stands in for it: a list
    of ``{"file", "line", "severity", "code", "message", "mend"}``.

    ``severity`` is ``error`` (somebody is let in or refused who should not be), ``warning`` or
    ``info``. ``code`` names the kind: the guide has the table of them, with what libpam says to
    each. Modules are looked for where ``pam_permit.so`` is; nothing is asked of them.

    service, folder, files
        As for :py:func:`read`.

    CLI Example:

    .. code-block:: bash

        salt-call --local pam_stack.lint sshd
    """
    source = _Source(folder, files)
    path, _ = source.service(service)
    findings = list(_lint_files(source, service))
    try:
        reader = source.reader(service)
    except (CommandExecutionError, _GivesUpError):
        return findings  # why libpam does not get further is among them
    for rule_type in _TYPES:
        stack = reader.stack(rule_type)
        findings += _lint_stack(stack, rule_type)
        findings += _lint_modules(stack, _module_folders())
        if rule_type == "auth":
            findings += _lint_factors(stack)
            for handler in stack:
                if _name(handler) == _GOOGLE:
                    findings += _lint_google_authenticator(stack, handler)
    unique = {tuple(finding.values()): finding for finding in findings}
    return sorted(unique.values(), key=lambda finding: _rank(finding, path))


def _rank(finding, path):
    """The service's own file first; the worst first within a line."""
    file = finding["file"]
    return file != path, file, finding["line"], list(_SEVERITIES).index(finding["code"])


def _lint_files(source, service):
    """Findings in the files that libpam reads, line by line, and in how they include each other."""
    todo = [(*source.find(name), ()) for name in (service, "other")]
    seen = set()
    while todo:
        path, text, above = todo.pop(0)
        if text is None or path in seen:
            continue
        seen.add(path)
        for entry in _parse(text):
            yield from _lint_entry(path, entry, source.debian)
            if not (entry.active and entry.how and entry.target):
                continue
            target, inner = source.find(entry.target, True)
            if inner is None:
                words = f"there is no file {target}: " + (
                    "libpam refuses every request of the service"
                    if entry.how == "@include"
                    else "libpam puts a rule here that always fails"
                )
                mend = "correct the name, or remove the line"
                yield _finding(path, entry, "include-missing", words, mend)
            elif target in (*above, path) or len(above) >= _DEEPEST:
                words = f"{' → '.join((*above, path, target))}: these include each other: up to"
                words += (
                    " Linux-PAM 1.6 the process that asks dies of it, from 1.7 the include fails"
                )
                yield _finding(path, entry, "include-loop", words, "take one of them out")
            todo.append((target, inner, (*above, path)))


def _module_folders():
    """Where libpam looks for modules, as far as that can be told from where pam_permit.so is."""
    patterns = ("/lib/*/security", "/lib*/security", "/usr/lib/*/security", "/usr/lib*/security")
    found = (path for pattern in patterns for path in glob.glob(f"{pattern}/pam_permit.so"))
    return [os.path.dirname(path) for path in found]


def _lint_modules(stack, folders):
    for handler in stack if folders else ():
        module = handler.entry.target
        if handler.fails or handler.entry.how or "$" in module:
            continue
        if any(os.path.isfile(os.path.join(folder, module)) for folder in folders):
            continue
        action = handler.table["module_unknown"]
        if action == "ignore" and (handler.entry.silent or handler.entry.control.startswith("[")):
            continue  # meant for hosts that have it and for those that have not
        code = "optional-module-missing" if action == "ignore" else "module-missing"
        words = f"there is no module {module!r}: libpam takes that as module_unknown ({action})"
        mend = "install its package, or remove the rule"
        yield _of(handler, code, words, mend)


def plan(service, edits, folder=_FOLDER, files=None):
    """
    Return what edits make of a service's file: ``{"path", "old", "new", "diff"}``. Nothing is
    written, and every byte that no edit speaks of stays.

    service
        As for :py:func:`read`. A file that the distribution has elsewhere than in ``/etc/pam.d`` is
        copied there with the edits, since libpam reads that instead.

    edits
        A list, done in order. Each is a mapping with one of these keys:

        ``add``: a rule. ``before`` or ``after`` a selector, or ``at`` ``top`` (above the first rule
        of its type) or ``bottom`` (below the last). Default: ``at: bottom``

        ``change``: a selector, with ``control``, ``arguments`` (all of them), ``add_arguments``,
        ``remove_arguments``.

        ``move``: a selector, with ``before``, ``after`` or ``at``. It stays where it satisfies
        that already.

        ``remove``, ``comment``, ``uncomment``: a selector.

        ``block``: a name. ``rules`` are lines of yours, kept between the comment lines ``# BEGIN
        NAME`` and ``# END NAME``; rules, comments and empty lines. The block is made, replaced in
        its place, moved if it does not satisfy ``before``, ``after`` or ``at``, and with no
        ``rules`` taken away without a trace. ``begin`` and ``end`` are whole mark lines that begin
        so. Default: a new block goes to ``at: top``

        A *rule* is its line, or a mapping: ``type``, ``module``, ``control`` (default
        ``required``), ``arguments``, ``silent``; or ``include`` with ``type`` and ``how``.

        A *selector* is a mapping: ``module`` (a name without a folder means any), ``type``,
        ``control``, ``arguments`` (these and maybe more), ``line`` (when the edit's turn comes), or
        ``include``; or a text, a module's name or ``@include NAME``. It must fit exactly one rule.
        Else, and wherever libpam would not read what is meant, or another rule of the file would
        jump to another rule than before: SaltInvocationError that names file and lines.

    folder, files
        As for :py:func:`read`.

    CLI Example:

    .. code-block:: bash

        salt-call --local pam_stack.plan sshd '[{change: pam_limits.so, add_arguments: [debug]}]'
    """
    source = _Source(folder, files)
    found, text = source.service(service)
    path = os.path.join(folder, service)
    file = _File(found, text, source.brings)
    _edited(file, edits)
    new = file.text
    _check(source, file, text)
    old = text if found == path else None
    if new == text:  # also where the distribution's own file is as it should be
        return {"path": path, "old": old, "new": old, "diff": ""}
    diff = __salt__["root_file.diff"](path, old, new)
    return {"path": path, "old": old, "new": new, "diff": diff}


def _check(source, file, text):
    """Refuse edits after which libpam gives up, or jumps elsewhere, if it did not before."""
    try:
        before = source.alone(file.path, text)
    except (CommandExecutionError, _GivesUpError):
        return
    try:
        after = source.alone(file.path, file.text)
    except (CommandExecutionError, _GivesUpError) as error:
        raise SaltInvocationError(f"libpam could not use the file any more: {error}") from error
    _check_jumps(file, before, after)


def apply(service, edits, folder=_FOLDER):
    """
    Do edits, and return the difference as text; ``""`` if there is nothing to do. The file is
    replaced in one step, and keeps its owner, mode, ACL and label. libpam reads it at the next
    login; nothing is restarted.

    service, edits, folder
        As for :py:func:`plan`.

    CLI Example:

    .. code-block:: bash

        salt-call --local pam_stack.apply sshd '[{uncomment: pam_access.so}]'
    """
    planned = plan(service, edits, folder)
    if planned["new"] != planned["old"]:
        __salt__["root_file.write"](planned["path"], planned["new"])
    return planned["diff"]
