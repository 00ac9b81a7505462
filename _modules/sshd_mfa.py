"""
The operator's face of the formula.
"""

__virtualname__ = "sshd_mfa"

#: Version of all modules of the formula; the formula synchronizes them when it needs another.
__version__ = "0.1.0"


def __virtual__():
    return __virtualname__


def version():
    """
    Return the version of the modules, which the formula compares with its own.

    CLI Example:

    .. code-block:: bash

        salt 'jump*' sshd_mfa.version
    """
    return __version__
