"""The file trees that hosts boot from: Debian roots, and layers over them, made once and cached.

A layer is what its script changed in its parent, kept by overlayfs(5); a host boots from a stack
of them with a throw-away layer on top.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab import cache, tools
from tests.lab.console import LabError
from tests.lab.container import Container

SUITES = {"12": "bookworm", "13": "trixie"}
# A Debian server as its installer leaves it, as far as logins and Salt can tell.
PACKAGES = """
    apt ca-certificates dbus iproute2 libpam-systemd netbase openssh-server passwd procps python3
    python3-venv sudo systemd systemd-sysv tzdata
""".split()
# What tests install on a running host: it comes from a repository inside the root, since hosts
# have no way to the outside.
INSTALLABLE = "libpam-google-authenticator openssh-client openssh-server openssh-sftp-server"
FINISH = f"""
cd /usr/local/share && mkdir apt && cd apt
apt-get -qq --reinstall --download-only install {INSTALLABLE} >/dev/null
mv /var/cache/apt/archives/*.deb .
for deb in *.deb; do
    dpkg-deb --field "$deb"
    printf 'Filename: ./%s\\nSize: %s\\n' "$deb" "$(stat -c %s "$deb")"
    printf 'SHA256: %s\\n\\n' "$(sha256sum "$deb" | cut -d ' ' -f 1)"
done > Packages
cp -a /etc/apt /usr/local/share/apt-outside
rm -f /etc/apt/sources.list.d/*
echo 'Acquire::Languages "none";' > /etc/apt/apt.conf.d/90lab
echo 'deb [trusted=yes] file:/usr/local/share/apt ./' > /etc/apt/sources.list
rm -rf /var/lib/apt/lists/* && apt-get -qq update && apt-get clean
# Timers that would hold apt's lock, or the disk, in the middle of a test.
systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer
rm -f /etc/ssh/ssh_host_*
"""
# The environment is Salt's alone, the programs are where a package would put them.
INSTALL_SALT = """
echo '{left_out}; python_version < "3"' > /run/override
export UV_OVERRIDE=/run/override
uv venv --quiet /opt/salt/{version}
uv pip install --quiet --compile-bytecode --python /opt/salt/{version} '{salt}'
for program in /opt/salt/{version}/bin/salt*; do ln -s "$program" /usr/local/bin; done
for daemon in master minion; do cat > /etc/systemd/system/salt-$daemon.service <<UNIT
[Unit]
Description=Salt $daemon
After=network.target
[Service]
Type=notify
NotifyAccess=all
KillMode=mixed
LimitNOFILE=65536
ExecStart=/opt/salt/{version}/bin/salt-$daemon
[Install]
WantedBy=multi-user.target
UNIT
done
"""
INSTALL_TESTS = """
uv pip install --quiet --compile-bytecode --python /opt/salt/{version} {packages}
"""
# Debian's packages with files for PAM (apt-file search /pam.d/), but for the largest and those that
# every host has. Not all are in every release.
PAM_PACKAGES = """
    at away calife cinnamon-screensaver courier-imap courier-mta courier-pcp courier-pop
    cron cups-daemon cyrus-imapd cyrus-murder cyrus-nntpd cyrus-pop3d francine freeradius
    ftpd-ssl gdm3 gnome-flashback gnome-screensaver greetd i3lock inetutils-ftpd
    libpam-elogind lightdm lightdm-remote-session-freerdp2 lightdm-remote-session-x2go login
    lxdm mate-screensaver monit newrole nodm ocserv open-vm-tools opendoas partimage-server
    pcs perdition pleaser polkitd popa3d poppassd ppp pure-ftpd-common pwauth
    rsh-redone-server rsh-server samba-common schroot sddm sendmail-base solid-pop3d
    sqwebmail suckless-tools super swaylock tigervnc-common ukui-screensaver util-linux uucp
    vsftpd wdm x2gobroker-common xdm xrdp xscreensaver
"""
FETCH_PAM_FILES = f"""
outside='apt-get -qq -o Acquire::Retries=3 -o Dir::Etc=/usr/local/share/apt-outside'
$outside update
mkdir /run/packages && cd /run/packages
for package in {" ".join(PAM_PACKAGES.split())}; do
    $outside download $package 2>/dev/null || continue
    mkdir -p /usr/local/share/pam.d/$package
    dpkg-deb --fsys-tarfile $package*.deb | tar -x --wildcards --transform 's,.*/,,' \\
        -C /usr/local/share/pam.d/$package './etc/pam.d/*' './usr/lib/pam.d/*' 2>/dev/null || true
    rm $package*.deb
done
rm -rf /var/lib/apt/lists/* && apt-get -qq update && apt-get clean
"""
INSTALL_GIT = """
export DEBIAN_FRONTEND=noninteractive
outside='apt-get -qq -o Dir::Etc=/usr/local/share/apt-outside'
$outside update && $outside --no-install-recommends install git
rm -rf /var/lib/apt/lists/* && apt-get -qq update && apt-get clean
"""


@dataclass(frozen=True)
class Layer:
    """A Debian root (`parent` is None), or what `script` changes in its parent."""

    name: str
    script: str
    parent: "Layer | None" = None

    @property
    def key(self) -> str:
        below = self.parent.key if self.parent else ""
        return cache.digest(below, self.name, self.script)

    def stack(self) -> list[Path]:
        """The folders of this layer and those below, uppermost first; made when not there."""
        below = self.parent.stack() if self.parent else []

        def build(place: Path) -> None:
            if self.parent:
                _build_layer(self, below, place)
            else:
                _build_root(self, place)

        return [cache.entry(self.name, self.key, build) / "tree", *below]


def root(release: str) -> Layer:
    """Stock Debian."""
    return Layer(f"debian-{release}", f"{SUITES[release]} {' '.join(PACKAGES)}{FINISH}")


def salt(release: str, version: str) -> Layer:
    """Debian with Salt's newest release of a series in /opt/salt/SERIES."""
    script = INSTALL_SALT.format(version=version, salt=tools.SALT[version], left_out=tools.LEFT_OUT)
    return Layer(f"debian-{release}-salt-{version}", script, root(release))


def tests(release: str, version: str, pam_files: bool = False) -> Layer:
    """
    Debian with Salt and what functional tests import, in the same environment.

    Args:
        pam_files: with the PAM files of all of Debian in /usr/local/share/pam.d/PACKAGE.
    """
    packages = " ".join(tools.TESTS)
    script = INSTALL_TESTS.format(version=version, packages=packages)
    layer = Layer(f"debian-{release}-tests-{version}", script, salt(release, version))
    return Layer(f"{layer.name}-pam", FETCH_PAM_FILES, layer) if pam_files else layer


def master(release: str, version: str) -> Layer:
    """Debian with Salt, and git for gitfs; its Python library comes with Salt."""
    return Layer(f"debian-{release}-master-{version}", INSTALL_GIT, salt(release, version))


def overlay(stack: list[Path], upper: Path, work: Path) -> str:
    """Mount options that put `upper` over a stack of folders."""
    lower = ":".join(str(folder) for folder in stack)
    return f"lowerdir={lower},upperdir={upper},workdir={work}"


def _build_root(layer: Layer, place: Path) -> None:
    suite = layer.script.split()[0]
    hook = place / "finish"
    hook.write_text(f"set -eu{FINISH}")
    _run(
        # What it mounts and starts goes when it goes.
        ["unshare", "--mount-proc", "--pid", "--fork", "--kill-child"]
        + ["mmdebstrap", "--quiet", "--variant=minbase", "--skip=cleanup/apt"]
        + ['--aptopt=Acquire::Retries "3"', f"--include={','.join(PACKAGES)}"]
        + [f"--customize-hook=chroot $1 sh < {hook}", suite, str(place / "tree")]
    )
    hook.unlink()
    (place / "tree/etc/resolv.conf").write_text("")


def _build_layer(layer: Layer, below: list[Path], place: Path) -> None:
    for folder in ("tree", "work", "mounted"):
        (place / folder).mkdir()
    uv_cache = cache.folder() / "uv"
    uv_cache.mkdir(exist_ok=True)
    settings = {**tools.uv_settings(), "UV_CACHE_DIR": "/run/uv", "UV_LINK_MODE": "copy"}
    binds = [f"--bind={uv_cache}:/run/uv", f"--bind-ro={tools.uv()}:/run/bin/uv"]
    if tools.certificates().exists():
        binds.append(f"--bind-ro={tools.certificates()}:/run/certificates.pem")
        settings["SSL_CERT_FILE"] = "/run/certificates.pem"
    settings["PATH"] = "/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    container = Container(f"mfa-build-{layer.key}", place)
    _run(
        container.command(
            overlay(below, place / "tree", place / "work"),
            ["--pipe", "--resolv-conf=bind-host", *binds]
            + [f"--setenv={name}={value}" for name, value in settings.items()]
            + ["/bin/sh", "-euc", layer.script],
        )
    )
    container.tidy()
    shutil.rmtree(place / "work")
    (place / "mounted").rmdir()


def _run(argv: list[str]) -> None:
    """Run a command that dies with this process, or the next lab would build in its place."""
    done = subprocess.run(
        ["setpriv", "--pdeathsig", "KILL", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LabError(f"{argv[0]} failed:\n{done.stdout}")
