"""The /etc that jobs see: files made here, and copies of the few host files that programs need to run.

Owns the list of names and the rule what is never copied. A job gets none of the host's accounts, keys, service
configuration or package sources; a file that other users of the host cannot read, or that holds a private key, is left
out even below a listed name.
"""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HOSTNAME: Final = "joblet"

MADE: Final = {
    "passwd": (
        "root:x:0:0:root:/root:/usr/sbin/nologin\n"
        "joblet:x:1000:1000:joblet:/work:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "group": "root:x:0:\njoblet:x:1000:\nnogroup:x:65534:\n",
    "hosts": f"127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback {HOSTNAME}\n",
    "hostname": f"{HOSTNAME}\n",
    "nsswitch.conf": (
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n"
        "protocols: files\nservices: files\nethers: files\nrpc: files\n"
    ),
}

# Dynamic linking, certificate authorities, time zone, names of protocols and types, and what the alternatives system
# and interpreters point at. Each name stands for a file, a link or a whole directory; `*` only at the end.
COPIED: Final = (
    "alternatives", "bash.bashrc", "ca-certificates", "ca-certificates.conf", "debian_version", "fonts", "gai.conf",
    "host.conf", "inputrc", "java*", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias", "locale.conf",
    "localtime", "lsb-release", "magic", "magic.mime", "mime.types", "networks", "os-release", "perl", "pki", "profile",
    "protocols", "python*", "redhat-release", "rpc", "services", "shells", "ssl", "terminfo", "timezone",
)  # fmt: skip

# Files whose link target may lie outside /etc (a resolver's runtime directory): their content is copied.
FOLLOWED: Final = ("resolv.conf",)

_NEVER: Final = frozenset({"private", "secrets"})
_KEY_MARK: Final = b"PRIVATE KEY-----"
_LARGEST_BYTES: Final = 4 << 20


def populate(host_etc: Path, job_etc: Path) -> None:
    """Fills `job_etc`, an empty directory on a writable mount, from `host_etc`. Raises OSError naming the file."""
    for name, text in MADE.items():
        _write(job_etc / name, text.encode(), 0o644)
    for name in FOLLOWED:
        if (host_etc / name).exists():
            _write(job_etc / name, (host_etc / name).read_bytes(), 0o644)
    for source in listed(host_etc):
        _copy(source, job_etc / source.name)
    if not (job_etc / "mtab").is_symlink():
        (job_etc / "mtab").symlink_to("/proc/self/mounts")


def listed(host_etc: Path) -> Iterator[Path]:
    """The entries of `host_etc` that COPIED names, in its order."""
    for pattern in COPIED:
        yield from sorted(host_etc.glob(pattern))


def _copy(source: Path, target: Path) -> None:
    found = source.lstat()
    if stat.S_ISLNK(found.st_mode):
        target.symlink_to(source.readlink())
    elif stat.S_ISDIR(found.st_mode):
        _copy_directory(source, target, found.st_mode)
    elif stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IROTH and found.st_size <= _LARGEST_BYTES:
        content = source.read_bytes()
        if _KEY_MARK not in content:
            _write(target, content, found.st_mode & 0o755)


def _copy_directory(source: Path, target: Path, mode: int) -> None:
    if source.name in _NEVER or not mode & stat.S_IXOTH:
        return
    target.mkdir(0o755)
    for entry in sorted(source.iterdir()):
        _copy(entry, target / entry.name)


def _write(path: Path, content: bytes, mode: int) -> None:
    with path.open("xb") as file:
        file.write(content)
    path.chmod(mode)
