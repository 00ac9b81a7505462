"""
The real libpam, asked in another process.

``Libpam().ask("authenticate", service, …)`` asks for anything; ``Pam(folder).login(user, code)`` is
about secret files of ``pam_google_authenticator``. Run as a program this is that other process: it
reads one question a line as JSON, and answers ``[number of the result, [[style, text], …]]``.
"""

import ctypes
import ctypes.util
import json
import subprocess
import sys
from pathlib import Path

SERVICE = "judge"
CRASHED = -1
PROMPTS = (1, 2)  # PAM_PROMPT_ECHO_OFF, _ON


class Libpam:
    """What a stack does to the process that asks, it does not do to the test."""

    def __init__(self):
        self._process = None

    def ask(self, function, service, confdir=None, user="root", answer=""):
        """
        ``(the number that pam_FUNCTION(3) returns, [[style, text] of each message])``; CRASHED if
        the process died of it. Each prompt is answered with ``answer``.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        question = [function, service, confdir and str(confdir), user, answer]
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        if said:
            return tuple(json.loads(said))
        died_of = self._process.wait()
        self._process = None
        assert died_of < 0, "no signal, but an error of this program: it is above"
        return CRASHED, []

    def close(self):
        if self._process:
            self._process.communicate()
        self._process = None


class Pam:
    """A PAM stack of one line, whose secret files are ``folder/USER``."""

    def __init__(self, folder, confdir, options="noskewadj"):
        self._confdir = Path(confdir)
        self._confdir.mkdir(exist_ok=True)
        module = f"pam_google_authenticator.so secret={folder}/${{USER}} user=root {options}"
        (self._confdir / SERVICE).write_text(f"auth required {module}\n")
        self._libpam = Libpam()

    def login(self, user, code):
        """``(whether the code lets in, how often a code was asked for)``"""
        said, messages = self._libpam.ask("authenticate", SERVICE, self._confdir, user, code)
        return said == 0, sum(style in PROMPTS for style, _ in messages)

    def close(self):
        self._libpam.close()


# ---- In the other process --------------------------------------------------------------------


class Message(ctypes.Structure):
    _fields_ = [("style", ctypes.c_int), ("text", ctypes.c_char_p)]


class Response(ctypes.Structure):
    _fields_ = [("text", ctypes.c_void_p), ("code", ctypes.c_int)]


CONVERSE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(ctypes.POINTER(Message)),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)


class Conversation(ctypes.Structure):
    _fields_ = [("converse", CONVERSE), ("data", ctypes.c_void_p)]


def asked(function, service, confdir, user, answer):
    pam = ctypes.CDLL(ctypes.util.find_library("pam") or "libpam.so.0")
    libc = ctypes.CDLL(None)
    libc.calloc.restype = libc.strdup.restype = ctypes.c_void_p
    libc.strdup.argtypes = [ctypes.c_char_p]
    said = []

    def converse(count, messages, answers, _):
        made = libc.calloc(count, ctypes.sizeof(Response))  # libpam frees it
        for i in range(count):
            message = messages[i].contents
            said.append((message.style, message.text.decode("utf-8", "replace")))
            if message.style in PROMPTS:
                Response.from_address(made + i * ctypes.sizeof(Response)).text = libc.strdup(
                    answer.encode()
                )
        answers[0] = made
        return 0

    conversation = Conversation(CONVERSE(converse), None)
    handle = ctypes.c_void_p()
    started = pam.pam_start_confdir(
        service.encode(),
        user.encode(),
        ctypes.byref(conversation),
        confdir and confdir.encode(),
        ctypes.byref(handle),
    )
    if started:  # pam_start(3) reads the files, too
        return started, said
    result = getattr(pam, f"pam_{function}")(handle, 0)
    pam.pam_end(handle, result)
    return result, said


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(asked(*json.loads(line))), flush=True)
