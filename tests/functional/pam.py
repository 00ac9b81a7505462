"""
The real PAM module, asked through libpam in another process: ``Pam(folder).login(user, code)``.

Run as a program this is that process: it reads ``[user, code]`` as JSON, one a line, and answers
``[whether PAM said success, how often it asked]``.
"""

import ctypes
import ctypes.util
import json
import subprocess
import sys
from pathlib import Path

SERVICE = "judge"


class Pam:
    """A PAM stack of one line, whose secret files are ``folder/USER``."""

    def __init__(self, folder, confdir, options="noskewadj"):
        confdir = Path(confdir)
        confdir.mkdir(exist_ok=True)
        module = f"pam_google_authenticator.so secret={folder}/${{USER}} user=root {options}"
        (confdir / SERVICE).write_text(f"auth required {module}\n")
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(confdir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def login(self, user, code):
        """``(whether the code lets in, how often a code was asked for)``"""
        self._process.stdin.write(json.dumps([user, code]) + "\n")
        self._process.stdin.flush()
        return tuple(json.loads(self._process.stdout.readline()))

    def close(self):
        self._process.communicate()


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


def authenticate(confdir, user, code):
    pam = ctypes.CDLL(ctypes.util.find_library("pam") or "libpam.so.0")
    libc = ctypes.CDLL(None)
    libc.calloc.restype = libc.strdup.restype = ctypes.c_void_p
    libc.strdup.argtypes = [ctypes.c_char_p]
    asked = []

    def converse(count, messages, answers, _):
        made = libc.calloc(count, ctypes.sizeof(Response))  # libpam frees it
        for i in range(count):
            if messages[i].contents.style in (1, 2):  # PAM_PROMPT_ECHO_OFF, _ON
                asked.append(messages[i].contents.text)
                Response.from_address(made + i * ctypes.sizeof(Response)).text = libc.strdup(
                    code.encode()
                )
        answers[0] = made
        return 0

    conversation = Conversation(CONVERSE(converse), None)
    handle = ctypes.c_void_p()
    started = pam.pam_start_confdir(
        SERVICE.encode(),
        user.encode(),
        ctypes.byref(conversation),
        confdir.encode(),
        ctypes.byref(handle),
    )
    if started:
        raise OSError(f"pam_start_confdir: {started}")
    result = pam.pam_authenticate(handle, 0)
    pam.pam_end(handle, result)
    return result == 0, len(asked)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(authenticate(sys.argv[1], *json.loads(line))), flush=True)
