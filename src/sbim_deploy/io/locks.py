"""One run for each output: a hidden file says which process writes it, and goes when that one is done.

``.OUT.lock`` beside a file, or ``.lock`` in a folder, names its owner: host, process, and when that process
started, so that a number which was given to another process since is not taken for it. What a killed run
leaves is recognised on its own machine, after a restart too, and taken over. Of another machine's run nobody
can tell: the user is told who it is and what to remove.

Relied upon is that link(2) is atomic or, where a file system has no hard links, O_EXCL, which holds on local
disks and on NFS from version 3 on. Two that find the same leftover are kept apart by flock(2).
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import check_beside
from sbim_deploy.io.documents import Count, convert, format_object, parse_object

PROC = Path("/proc")
BOOT, MACHINE = PROC / "sys/kernel/random/boot_id", Path("/etc/machine-id")
MAX_BYTES = 1 << 16
MAX_TRIES = 20
ENDED = ("Z", "X")  # states of processes that are only still listed


@dataclass(frozen=True)
class Owner:
    """A process that writes an output. What this system does not tell is empty.

    ``start`` is the process's, in ticks since ``boot``; ``namespace`` is that of its number.
    """

    host: str
    machine: str
    boot: str
    namespace: str
    pid: Count
    start: str
    since: str
    token: str

    def __str__(self) -> str:
        """Return who it is, for people."""
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def owning_file(path: Path) -> Iterator[None]:
    """Be the only run that writes ``path``, a file or a folder that appears whole.

    Raises:
        InputError: another run does, or nothing can be written beside it.
    """
    check_beside(path)
    path = Path(os.path.abspath(path))
    with _holding(path.with_name(f".{path.name}.lock"), path):
        yield


@contextmanager
def owning_folder(folder: Path) -> Iterator[None]:
    """Be the only run that keeps its files in ``folder``, which is made where it is missing.

    Raises:
        InputError: another run does, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot make the folder ({error.strerror}); name another one") from error
    with _holding(folder / FOLDER_LOCK, folder):
        yield


FOLDER_LOCK = ".lock"


@contextmanager
def _holding(lock: Path, output: Path) -> Iterator[None]:
    mine = this_process()
    try:
        _take(lock, output, mine)
    except OSError as error:
        raise InputError(
            f"{output}: cannot be written ({error.strerror}); name another output, or free the space"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError, InputError):
            if _read(lock) == mine:
                lock.unlink()


def this_process() -> Owner:
    """Return what tells this process from every other, now and later."""
    pid = os.getpid()
    return Owner(
        host=socket.gethostname(),
        machine=_text(MACHINE),
        boot=_text(BOOT),
        namespace=_namespace(),
        pid=pid,
        start=start_of(pid) or "",
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        token=secrets.token_hex(8),
    )


def start_of(pid: int) -> str | None:
    """Return when a process started, empty where the system does not tell; None where there is none."""
    if (PROC / "self/stat").exists():
        stat = _text(PROC / str(pid) / "stat")
        state, *rest = stat.rpartition(")")[2].split() or [ENDED[0]]
        return None if state in ENDED or len(rest) < 19 else rest[18]
    if sys.platform == "win32":
        return ""  # os.kill would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""


def is_gone(owner: Owner) -> bool | None:
    """Tell whether a process has ended; None where that cannot be told from here."""
    here = this_process()
    if (owner.host, owner.machine) != (here.host, here.machine):
        return None
    if owner.boot != here.boot:
        return True if here.machine else None  # this machine was restarted since
    if owner.namespace != here.namespace:
        return None
    return start_of(owner.pid) != owner.start


def _take(lock: Path, output: Path, mine: Owner) -> None:
    for _ in range(MAX_TRIES):
        if _create(lock, format_object(asdict(mine)) + "\n"):
            return
        try:
            stored = lock.read_bytes()[:MAX_BYTES]
        except FileNotFoundError:
            continue
        owner = _owner_of(stored, lock, output)
        gone = is_gone(owner)
        if gone is None:
            raise InputError(
                f"{output}: is being written by {owner}, and whether that goes on cannot be told from here; "
                f"name another output, or remove {lock} if it does not"
            )
        if not gone:
            raise InputError(
                f"{output}: is being written by another run, {owner}; wait for it, or name another output"
            )
        _remove_leftover(lock, stored)
    raise InputError(f"{output}: other runs take it time and again; name another output")


def _create(lock: Path, text: str) -> bool:
    """Make the lock with its text at once, if there is none; tell whether it was made."""
    temporary = lock.with_name(f".{secrets.token_hex(4)}{lock.name}")
    try:
        temporary.write_text(text, encoding="utf-8")
        try:
            os.link(temporary, lock)
        except FileExistsError:
            # On NFS the answer to a call that succeeded may be lost, and the call repeated.
            return temporary.stat().st_nlink == 2
        except OSError:
            return _create_exclusively(lock, text)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _create_exclusively(lock: Path, text: str) -> bool:
    try:
        with lock.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _remove_leftover(lock: Path, seen: bytes) -> None:
    """Remove the lock that was seen, and no other that has its name by now."""
    try:
        with lock.open("rb") as file:
            with suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()) and file.read(MAX_BYTES) == seen:
                lock.unlink()
    except FileNotFoundError:
        return


def _owner_of(stored: bytes, lock: Path, output: Path) -> Owner:
    way_out = f"if no run writes {output}, remove it"
    return convert(parse_object(stored, str(lock), way_out), Owner, str(lock), way_out)


def _read(lock: Path) -> Owner:
    return _owner_of(lock.read_bytes()[:MAX_BYTES], lock, lock)


def _namespace() -> str:
    with suppress(OSError):
        return os.readlink(PROC / "self/ns/pid")
    return ""


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip()
    return ""
