"""The program that :mod:`sbim_deploy.io.hdf5_trial` runs in a process of its own: it reads files first.

On stdin comes a JSON object a line: first ``{"path": [...]}``, where Python's packages are, then for each
file ``{"file": ..., "cpu_s": ..., "memory_bytes": ...}``, with ``"part": [name, key]`` for a part of one
dataset in place of the whole file. On stdout goes a JSON object a line: ``{"at": ...}``, what is about to be
read, and ``{"done": true}`` or ``{"done": false}``, the latter where it took too much memory, or a part could
not be read. What else is damaged and told by an error is no matter here: whoever opens the file next meets
the same error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

DEPTH = 3  # MRD images lie in groups of groups
MAX_OBJECTS = 20_000
MATLAB_REFERENCES = ("#refs#", "#subsystem#")  # parts of cells and objects, which nobody reads
MAX_VALUE_BYTES = 64 * 1024**2
MAX_CHUNK_BYTES = 16 * 1024**2
DAMAGED = (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, AttributeError)


class TooMuchMemoryError(Exception):
    """Reading took more memory than it may."""


def walk(file: Any, h5py: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is to be read of an open file, each with its name and the call that reads it."""
    names: list[str] = []
    yield "the attributes", lambda: names.extend(file.attrs)
    for name in names:
        yield f"attribute {name!r}", lambda name=name: _value_of(file.attrs, name)
    waiting, seen = [(file, "", 1)], 0
    while waiting:
        group, where, depth = waiting.pop()
        members: list[str] = []
        yield f"the names in {where or '/'!r}", lambda group=group, members=members: members.extend(group)
        for member in members:
            seen += 1
            if seen > MAX_OBJECTS:
                raise TooMuchMemoryError
            if member in MATLAB_REFERENCES:
                continue
            found: list[Any] = []
            name = f"{where}/{member}"
            yield repr(name.strip("/")), lambda g=group, m=member, f=found: f.extend(_own(g, m, h5py))
            for each in found:
                if isinstance(each, h5py.Dataset):
                    yield repr(name.strip("/")), lambda dataset=each: _read_part(dataset)
                elif depth < DEPTH:
                    waiting.append((each, name, depth + 1))


def read_part(file: Any, name: str, key: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield one part of a dataset; ``key`` has a number or [start, stop, step] for each axis."""
    place = tuple(slice(*each) if isinstance(each, list) else each for each in key)
    told = ", ".join(str(each) if isinstance(each, int) else ":" for each in place)
    yield f"{name.strip('/')!r}{f' at [{told}]' if told else ''}", lambda: file[name][place]


def _own(group: Any, member: str, h5py: Any) -> list[Any]:
    """Return the object of this name; none where it is a link that leads elsewhere, or a type."""
    if not isinstance(group.get(member, getlink=True), h5py.HardLink):
        return []
    found = group[member]
    return [found] if isinstance(found, h5py.Dataset | h5py.Group) else []


def _value_of(attributes: Any, name: str) -> None:
    attributes.get(name)


def _read_part(dataset: Any) -> None:
    """Read what tells how a dataset lies in the file, the index of its chunks, and its first value."""
    list(dataset.attrs)
    if dataset.is_virtual or dataset.external or dataset.shape is None or 0 in dataset.shape:
        return
    dtype, chunks = dataset.dtype, dataset.chunks
    dataset.id.get_storage_size()
    n_bytes = dtype.itemsize
    if chunks is not None:
        dataset.id.get_num_chunks()
        for length in chunks:
            n_bytes *= length
    if n_bytes <= MAX_CHUNK_BYTES or (dataset.size == 1 and n_bytes <= MAX_VALUE_BYTES):
        dataset[(0,) * dataset.ndim]


def _address_space() -> int | None:
    """Return the bytes of memory that this process has mapped, or None where nothing tells."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _most_resident() -> int:
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _limit(cpu_s: int, memory_bytes: int) -> None:
    """Let the system end this process after so many more seconds of computing, and refuse it memory."""
    if resource is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set_soft(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + cpu_s)
    mapped = _address_space()
    if mapped is not None:
        _set_soft(resource.RLIMIT_AS, mapped + memory_bytes)


def _set_soft(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    with suppress(OSError, ValueError):  # a system that keeps no such limit
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _answer(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _try_file(
    h5py: Any, path: str, cpu_s: int, memory_bytes: int, part: tuple[str, list[Any]] | None = None
) -> bool:
    """Read a file as a reader would, and tell whether that took no more memory than it may."""
    _limit(cpu_s, memory_bytes)
    before = _most_resident()
    _answer(at="its start")
    try:
        with h5py.File(path, "r") as file:
            for what, read in walk(file, h5py) if part is None else read_part(file, *part):
                _answer(at=what)
                try:
                    read()
                except DAMAGED as error:
                    # A filter that was refused memory is told as one that failed.
                    if part is not None or _is_of_memory(error):
                        return False
                if _most_resident() - before > memory_bytes:
                    raise TooMuchMemoryError
    except (MemoryError, TooMuchMemoryError):
        return False
    except DAMAGED as error:
        return not _is_of_memory(error)
    return True


def _is_of_memory(error: BaseException) -> bool:
    return "memory" in str(error) or "allocate" in str(error)


def main() -> None:
    """Answer until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    if resource is not None:
        _set_soft(resource.RLIMIT_CORE, 0)
    sys.path[:] = json.loads(sys.stdin.readline())["path"]
    import h5py

    _answer(ready=True)
    for line in sys.stdin:
        asked = json.loads(line)
        limits = asked["cpu_s"], asked["memory_bytes"]
        _answer(done=_try_file(h5py, asked["file"], *limits, asked.get("part")))


if __name__ == "__main__":
    main()
