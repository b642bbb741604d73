"""What users hand over, damaged at random: files of k-space, results, records, manifests, YAML, checkpoints.

A :class:`Kind` makes a good input, has a Hypothesis strategy of edits, applies them to a copy, and reads it
as the commands do. Reading may succeed or end in one of the program's own errors, of one line; anything
else is a fault. For the tests, which try some of each kind, and for ``benchmarks/fuzz.py``.
"""

from __future__ import annotations

import copy
import io
import json
import math
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st

from array_samples import write_matlab_6, write_matlab_7, write_matlab_73, write_npy, write_npz
from sbim_deploy.errors import SbimDeployError
from sbim_deploy.io.hdf5 import HDF5_MAGIC
from sbim_deploy.io.layouts import Reading
from sbim_deploy.kspace.cfl import write_cfl
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.models.folder import load_model, model_folder, sampling_prior
from sbim_deploy.mrd.messages import Header
from sbim_deploy.mrd.recording import RecordingWriter
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.pages.report import write_report
from sbim_deploy.recon.classical import Classical
from sbim_deploy.results.image_files import open_images
from sbim_deploy.results.intensity import series_intensity
from sbim_deploy.results.mrd_images import MrdForm, write_mrd_images
from sbim_deploy.results.nifti import write_nifti
from sbim_deploy.results.result_file import ResultWriter, open_result
from sbim_deploy.runs.info import describe
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.scan import Tally, open_scan, read_problem
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.simulate import SimulateSettings, simulate_file
from sbim_deploy.runs.simulate_mrd import simulate_mrd
from sbim_deploy.runs.trajectories import settings_for
from sbim_deploy.runs.volume import volume_slice
from sbim_deploy.runs.whole_volume import open_input
from sbim_deploy.samplers.choice import SamplerChoice, make_plan
from series_samples import DERIVATION, stack
from simulated_mrd import make_scan, write_mrd
from volume_scans import make_volume, write_mrd_volume

SCAN = SimulateSettings(n_slices=2, n_coils=2, size=32, acceleration=1.0)
SEED = 0
N_IN_TESTS = 50  # inputs of each kind; benchmarks/fuzz.py tries ten times as many

Content = dict[str, bytes]
"""An input: a folder of files, by their names. The first is the one that is named to the program."""


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        name: what it is, in words.
        edits: draws what is changed, as plain values.
        make: returns an input with these changes.
        read: reads the file that is named, the first; it raises what the program raises.
        nothing: edits that change nothing.
    """

    name: str
    edits: st.SearchStrategy[Any]
    make: Callable[[Any], Content]
    read: Callable[[Path], None]
    nothing: Any

    def outcome(self, edits: Any, folder: Path) -> str:
        """Return "read" or "refused"; raises where neither is so, AssertionError for a refusal of more lines.

        The folder is emptied first.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        content = self.make(edits)
        for name, data in content.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
        try:
            self.read(folder / next(iter(content)))
        except SbimDeployError as error:
            said = str(error)
        else:
            return "read"
        assert "\n" not in said, repr(said)
        return "refused"


# ---- bytes

WORDS = [
    *(bytes([value]) for value in (0, 1, 0x7F, 0x80, 0xFF)),
    *(struct.pack("<I", value) for value in (0, 1, 2**16, 2**28, 2**31 - 1, 2**32 - 1)),
    *(struct.pack("<Q", value) for value in (0, 2**31, 2**40, 2**63 - 1, 2**64 - 1)),
    *(struct.pack("<f", value) for value in (math.nan, math.inf, 1e-45, 3e38)),
]
# Hypothesis draws such integers evenly; its floats would nearly all be at the start.
PLACES = st.integers(0, 2**20 - 1).map(lambda place: place / 2**20)
SETTING = st.tuples(
    st.just("set"), PLACES, st.one_of(st.sampled_from(WORDS), st.binary(min_size=1, max_size=8))
)
FLIP = st.tuples(st.just("flip"), PLACES, st.integers(0, 7))
BYTE_EDITS = st.lists(
    st.one_of(
        SETTING,
        SETTING,
        FLIP,
        FLIP,
        st.tuples(st.just("zero"), PLACES, st.integers(1, 64)),
        st.tuples(st.sampled_from(["drop", "repeat"]), PLACES, st.integers(1, 600)),
        st.tuples(st.just("cut"), PLACES, st.just(0)),
    ),
    min_size=1,
    max_size=3,
)


N_BYTES_OF_HEADER = 512
SHARE_OF_STRUCTURE = 0.8  # of the edits: most bytes of a file are samples, and damage to those is soon tried


def structure_of(data: bytes) -> list[int]:
    """Return the places of a file that say how it is to be read.

    In HDF5 that is all but what numbers lie in, and but the zeros, most of which are room for later.
    """
    is_number = np.zeros(len(data), bool)
    if not data.startswith(HDF5_MAGIC):
        is_number[N_BYTES_OF_HEADER:-N_BYTES_OF_HEADER] = True
        return np.flatnonzero(~is_number).tolist()

    def mark(_: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset) and found.dtype.kind in "fc" and found.size:
            if found.chunks is None and (start := found.id.get_offset()) is not None:
                is_number[start : start + found.id.get_storage_size()] = True
            elif found.chunks is not None:
                for each in map(found.id.get_chunk_info, range(found.id.get_num_chunks())):
                    is_number[each.byte_offset : each.byte_offset + each.size] = True

    with h5py.File(io.BytesIO(data)) as file:
        file.visititems(mark)
    return np.flatnonzero(~is_number & (np.frombuffer(data, np.uint8) != 0)).tolist()


def with_bytes_changed(data: bytes, edits: list[tuple[str, float, Any]], structure: list[int]) -> bytes:
    """Apply byte edits, one after another, most of them to places of the structure."""
    changed = bytearray(data)
    for action, place, what in edits:
        if place < SHARE_OF_STRUCTURE:
            at = structure[int(place / SHARE_OF_STRUCTURE * len(structure))]
        else:
            at = int((place - SHARE_OF_STRUCTURE) / (1 - SHARE_OF_STRUCTURE) * len(changed))
        if action == "set":
            changed[at : at + len(what)] = what
        elif action == "flip" and at < len(changed):
            changed[at] ^= 1 << what
        elif action == "zero":
            changed[at : at + what] = bytes(len(changed[at : at + what]))
        elif action == "drop":
            del changed[at : at + what]
        elif action == "repeat":
            changed[at:at] = changed[at : at + what]
        elif action == "cut":
            del changed[at:]
    return bytes(changed)


def damaged(name: str, whole: Callable[[], Content], read: Callable[[Path], None]) -> Kind:
    """A kind whose bytes are changed, of one of its files at a time."""

    structure = cache(lambda name: structure_of(whole()[name]))

    def make(drawn: tuple[int, list[tuple[str, float, Any]]]) -> Content:
        which, edits = drawn
        content = dict(whole())
        chosen = list(content)[which % len(content)]
        content[chosen] = with_bytes_changed(content[chosen], edits, structure(chosen))
        return content

    return Kind(name, st.tuples(st.integers(0, 5), BYTE_EDITS), make, read, (0, []))


# ---- documents

VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 65_535, 65_536, 10**6, 10**9, -(10**9), 2**63, 10**30, 10**400),
    *(0.5, -0.5, 1e-320, 1e308, -1e308, math.nan, math.inf, -math.inf),
    *("", "a", "\ud800", "a\nb", "\0", "\x1b[2J", "../../x", "/etc/passwd", "NaN", "1e999", "é" * 2000),
    *([], {}, [[]], [None], ["a"] * 300, [0] * 300, [1e308] * 4, {"": None}, {"a": {"a": {"a": 1}}}),
]
TREE_EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "replace", "replace", "remove", "add", "rename"]),
        PLACES,
        st.one_of(
            st.integers(0, len(VALUES) - 1).map(lambda each: VALUES[each]),
            st.integers(),
            st.floats(),
            st.text(max_size=20),
        ),
    ),
    min_size=1,
    max_size=3,
)


def places_of(tree: Any) -> list[tuple[Any, Any]]:
    """Return each place in a document: what holds it, and its key or index there."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        keys = holder if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            found.append((holder, key))
            waiting.append(holder[key])
    return found


def with_parts_changed(document: Any, edits: list[tuple[str, float, Any]]) -> Any:
    """Apply edits to a copy of a document of dicts and lists."""
    root = [copy.deepcopy(document)]
    for action, place, value in edits:
        places = [(root, 0), *places_of(root[0])]
        holder, key = places[int(place * len(places))]
        if action == "replace" or holder is root:
            holder[key] = copy.deepcopy(value)
        elif action == "remove":
            del holder[key]
        elif action == "add" and isinstance(holder, dict):
            holder[value if isinstance(value, str) else str(value)] = holder[key]
        elif action == "add":
            holder.insert(key, copy.deepcopy(value))
        elif isinstance(holder, dict):
            holder[str(value)] = holder.pop(key)
    return root[0]


def edited(
    name: str, document: Callable[[], Any], make: Callable[[Any], Content], read: Callable[[Path], None]
) -> Kind:
    """A kind whose document is changed in its parts."""
    return Kind(name, TREE_EDITS, lambda edits: make(with_parts_changed(document(), edits)), read, [])


# ---- files of k-space


def content_of(write: Callable[[Path], Any]) -> Content:
    """Return what is written into an empty folder."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        named = write(Path(folder))
        files = sorted(each for each in Path(folder).rglob("*") if each.is_file())
        files.sort(key=lambda each: each != named)
        return {str(each.relative_to(folder)): each.read_bytes() for each in files}


def noisy_kspace(
    n_slices: int = 2, n_coils: int = 2, n_rows: int = 24, n_columns: int = 24
) -> np.ndarray[Any, Any]:
    """Return k-space (slices, coils, rows, columns) of a box in noise."""
    rng = np.random.default_rng(SEED)
    image = np.zeros((n_slices, n_coils, n_rows, n_columns), np.complex64)
    image[..., n_rows // 4 : -n_rows // 4, n_columns // 3 : -n_columns // 3] = 1
    noise = rng.standard_normal((*image.shape, 2), np.float32).view(np.complex64)[..., 0]
    return np.asarray(centred_fft(image) + np.float32(0.02) * noise, np.complex64)


def read_kspace(path: Path) -> None:
    """Read a file of k-space as ``info`` and ``recon`` do, up to the problem that a sampler solves."""
    describe(path)
    with open_source(path) as source, open_scan(source, settings_for(source, ReconSettings())) as scan:
        for index in range(min(source.n_slices, 2)):
            source.geometry(index)
            read_problem(index, scan, Tally())


def read_volume(path: Path) -> None:
    """Read 3-D k-space as ``recon --dimensions 3`` does, up to the problem of its middle slice."""
    settings = ReconSettings(dimensions=3)
    with open_input(path, path.with_name("out.h5"), settings) as source, open_scan(source, settings) as scan:
        source.describe()
        read_problem(source.n_slices // 2, scan, Tally())


def read_along_trajectory(path: Path) -> None:
    """Read samples with the trajectory in a file beside them, as ``recon --trajectory`` does."""
    reading = Reading(trajectory=path.with_name("trajectory.npy"))
    with open_source(path, reading) as source:
        source.describe()
        with open_scan(source, settings_for(source, ReconSettings(reading=reading))) as scan:
            read_problem(0, scan, Tally())


def read_images(path: Path) -> None:
    """Read images as ``info``, ``evaluate`` and an experiment's YAML do."""
    describe(path)
    with open_images(path) as images:
        for index in range(min(images.n_slices, 2)):
            images.read_image(index)
            images.affine(index)
    if path.suffix == ".nii":
        volume_slice(path, "axial", 1, 16)


def volume(folder: Path) -> Path:
    return write_mrd_volume(folder / "scan.h5", make_volume((12, 16, 16), 2), np.ones((12, 16), np.bool_))


def along_trajectory(folder: Path) -> Path:
    settings = SimulateSettings(1, 2, 32, 4.0, noise=0.02, trajectory="radial")
    simulate_mrd(folder / "scan.h5", settings)
    return folder / "scan.h5"


def trajectory(folder: Path) -> Path:
    settings = SimulateSettings(1, 2, 32, 4.0, noise=0.02, trajectory="golden")
    simulate_mrd(folder / "scan.h5", settings)
    with open_source(folder / "scan.h5") as source:
        np.save(folder / "kspace.npy", source.read_slice(0))
        np.save(folder / "trajectory.npy", source.read_trajectory(0))
    (folder / "scan.h5").unlink()
    return folder / "kspace.npy"


def nifti(folder: Path) -> Path:
    write_nifti(folder / "volume.nii", stack().volume, (2.0, 2.0, 3.0))
    return folder / "volume.nii"


def mrd_images(folder: Path) -> Path:
    series = [stack()]
    write_mrd_images(folder / "images.h5", series, MrdForm(DERIVATION, series_intensity(series)))
    return folder / "images.h5"


def compressed(folder: Path) -> Path:
    with h5py.File(folder / "scan.h5", "w") as file:
        file.create_dataset(
            "kspace", data=noisy_kspace(), chunks=(1, 1, 24, 24), compression="gzip", shuffle=True
        )
    return folder / "scan.h5"


def fastmri(folder: Path) -> Path:
    simulate_file(folder / "scan.h5", SCAN)
    return folder / "scan.h5"


def mrd(folder: Path) -> Path:
    return write_mrd(folder / "scan.h5", make_scan(size=16, n_coils=2, n_noise_readouts=1, noise=0.1))


def kept_stream(folder: Path) -> Path:
    path, scan = folder / "scan.mrd", make_scan(size=16, n_coils=2, noise=0.1)
    writer = RecordingWriter(path, Header(scan.xml.decode() if isinstance(scan.xml, bytes) else scan.xml))
    for readout in scan.readouts:
        writer.append(readout)
    writer.close()
    return path


def bart(folder: Path) -> Path:
    write_cfl(folder / "scan.cfl", np.moveaxis(noisy_kspace(1)[0], 0, -1)[:, :, None, :])
    return folder / "scan.cfl"


def of_arrays(write: Callable[..., Path]) -> Callable[[], Content]:
    return cache(lambda: content_of(lambda folder: write(folder, kspace=noisy_kspace())))


FILLS = {
    "as measured": lambda kspace, value: kspace,
    "scaled": lambda kspace, value: kspace * value,
    "constant": lambda kspace, value: np.full_like(kspace, value),
    "one sample": lambda kspace, value: np.where(
        np.arange(kspace.size).reshape(kspace.shape) == 300, value, 0
    ),
    "one sample of many": lambda kspace, value: np.where(
        np.arange(kspace.size).reshape(kspace.shape) == 300, value, kspace
    ),
    "one coil": lambda kspace, value: (
        kspace * np.where(np.arange(kspace.shape[1]) == 0, value, 1)[:, None, None]
    ),
    "one column": lambda kspace, value: np.where(np.arange(kspace.shape[3]) == 3, value, kspace),
    "few columns": lambda kspace, value: np.where(np.arange(kspace.shape[3]) % 5 == 0, kspace, 0) * value,
    "noise": lambda kspace, value: np.random.default_rng(1).standard_normal(kspace.shape) * value,
}
NUMBERS = [0.0, 1.0, -1.0, 1e-45, 1e-38, 1e-30, 1e-20, 1e-14, 1e-8, 1e8, 1e14, 1e20, 1e30, 3e38, math.nan]


def with_values(drawn: tuple[tuple[int, int, int, int], str, float, str]) -> Content:
    """Return an array of k-space of any size, filled with what no scanner measures."""
    shape, fill, value, dtype = drawn
    with np.errstate(all="ignore"):
        kspace = FILLS[fill](noisy_kspace(*shape), np.float32(value))
        kspace = np.asarray(kspace, dtype)
    stream = io.BytesIO()
    np.save(stream, kspace)
    return {"scan.npy": stream.getvalue()}


SIZES = st.one_of(st.integers(8, 33), st.integers(1, 33))
VALUES_OF_KSPACE = Kind(
    "k-space of any values",
    st.tuples(
        st.tuples(st.integers(1, 2), st.integers(1, 3), SIZES, SIZES),
        st.sampled_from(list(FILLS)),
        st.one_of(st.sampled_from(NUMBERS), st.floats(width=32)),
        st.sampled_from(["complex64", "complex64", "complex128"]),
    ),
    with_values,
    read_kspace,
    ((2, 2, 24, 24), "as measured", 1.0, "complex64"),
)

# ---- results


def result(folder: Path) -> Path:
    settings = ReconSettings(method=Classical.ZERO_FILLED, choice=SamplerChoice())
    reconstruct_file(fastmri(folder), folder / "out.h5", settings)
    (folder / "scan.h5").unlink()
    return folder / "out.h5"


@cache
def result_content() -> Content:
    return content_of(result)


@cache
def record() -> dict[str, Any]:
    with h5py.File(io.BytesIO(result_content()["out.h5"])) as file:
        stored: dict[str, Any] = json.loads(file.attrs["provenance"])
    return stored


def with_record(document: Any) -> Content:
    """Return the result with another record."""
    stream = io.BytesIO(result_content()["out.h5"])
    with h5py.File(stream, "r+") as file:
        del file.attrs["provenance"]
        file.attrs.create("provenance", as_json(document), dtype=h5py.string_dtype())
    return {"out.h5": stream.getvalue()}


def as_json(document: Any) -> str:
    return json.dumps(document)


def read_result(path: Path) -> None:
    """Read a result as ``info``, ``evaluate`` and the report do."""
    describe(path)
    with open_result(path) as opened:
        for position in range(opened.n_slices):
            opened.read_image(position)
    with open_images(path) as images:
        for position in range(images.n_slices):
            images.read_image(position)
    write_report(path.with_name("page.html"), path)


IDENTITY = {"model": "abc", "seed": 3, "slices": [4, 2], "plan": {"levels": [0, 1, 2]}}


def stopped_run(folder: Path) -> Path:
    path = folder / "out.h5"
    image = noisy_kspace(1, 1)[0, 0]
    try:
        with ResultWriter(path, IDENTITY, (4, 2, 9), resume=False) as writer:
            for index in (4, 2):
                writer.write(index, image, image, residual=0.1)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    return path


def resume_run(path: Path) -> None:
    """Go on with a stopped run and finish it; ``path`` is a file of its hidden folder."""
    image = noisy_kspace(1, 1)[0, 0]
    out = path.parent.parent / "out.h5"
    with ResultWriter(out, IDENTITY, (4, 2, 9), resume=True) as writer:
        for index in writer.pending:
            writer.write(index, image, image, residual=0.1)
        writer.finish({})
    with open_result(out) as opened:
        np.testing.assert_array_equal(opened.read_image(2), image)


# ---- models


@cache
def manifest() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((model_folder("demo") / "manifest.json").read_text())
    return stored


def with_manifest(document: Any) -> Content:
    return {"model/manifest.json": as_json(document).encode()}


def read_model(path: Path) -> None:
    """Read a model folder whose files are the demo model's as ``info``, ``plan`` and ``recon`` do."""
    for each in model_folder("demo").iterdir():
        if each.name != "manifest.json":
            (path.parent / each.name).symlink_to(each)
    model = load_model(path.parent)
    describe(path.parent)
    for choice in (SamplerChoice(), SamplerChoice("sbim"), SamplerChoice("langevin")):
        make_plan(choice, sampling_prior(model.manifest))


# ---- YAML


def as_yaml(name: str) -> Callable[[Any], Content]:
    def make(document: Any) -> Content:
        import yaml

        return {name: yaml.safe_dump(document).encode()}

    return make


EXPERIMENT = {
    "title": "An experiment",
    "accelerations": [2, 3.5],
    "simulate": {"size": 64, "coils": 3, "noise": 0.01},
    "slices": [0, 2],
    "tuning_slices": [5],
    "methods": [{"sampler": "dds", "steps": 2}, {"sampler": "sbim", "steps": 2, "name": "b"}],
    "baseline": "zero-filled",
    "peers": ["zero-filled", "bart-l1"],
}


def read_experiment(path: Path) -> None:
    from sbim_deploy.experiment.settings import read_settings

    read_settings(path)


def recipe() -> Any:
    import yaml

    return yaml.safe_load((Path(__file__).parents[1] / "recipes/brain-ngf16.yaml").read_text())


def read_recipe(path: Path) -> None:
    from sbim_deploy.training.settings import read_settings

    read_settings(path, {})


def network_config() -> Any:
    from export.random_checkpoints import CONFIG

    return CONFIG


# ---- checkpoints


@cache
def checkpoint() -> Content:
    from export.random_checkpoints import write_random_checkpoint

    return content_of(lambda folder: write_random_checkpoint(folder / "checkpoint.pth", "NCSNv2"))


@cache
def weights() -> Any:
    import torch

    return torch.load(io.BytesIO(checkpoint()["checkpoint.pth"]), weights_only=True)


def tensors() -> dict[str, Callable[[], Any]]:
    """Return what stands in a checkpoint's place of a tensor, by name."""
    import torch

    return {
        "meta": lambda: torch.empty(4, device="meta"),
        "NaN": lambda: torch.full((4,), math.nan),
        "complex": lambda: torch.zeros(4, dtype=torch.complex64),
        "integers": lambda: torch.zeros(4, dtype=torch.int8),
        "half": lambda: torch.zeros(4, dtype=torch.bfloat16),
        "float8": lambda: torch.zeros(4).to(torch.float8_e4m3fn),
        "sparse": lambda: torch.eye(3).to_sparse(),
        "nothing": lambda: torch.zeros(0),
        "a number": lambda: torch.tensor(1.0),
        "larger than its storage": lambda: torch.zeros(1).expand(2**20, 2**20),
        "a parameter": lambda: torch.nn.Parameter(torch.zeros(4)),
    }


TENSORS = [
    *("meta", "NaN", "complex", "integers", "half", "float8", "sparse", "nothing", "a number"),
    *("larger than its storage", "a parameter"),
]
CHECKPOINT_EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "replace", "remove", "add", "rename", "int key"]),
        PLACES,
        st.one_of(st.sampled_from([f"tensor: {name}" for name in TENSORS]), st.sampled_from(VALUES[:22])),
    ),
    min_size=1,
    max_size=2,
)


def with_weights_changed(edits: list[tuple[str, float, Any]]) -> Content:
    """Return the checkpoint with other entries."""
    import torch

    content: Any = weights()
    for action, place, value in edits:
        if isinstance(value, str) and value.startswith("tensor: "):
            value = tensors()[value.removeprefix("tensor: ")]()
        if action == "int key":
            root = [copy.deepcopy(content)]
            dicts = [
                each for each in (root[0], *(h[k] for h, k in places_of(root[0]))) if isinstance(each, dict)
            ]
            if dicts:
                dicts[int(place * len(dicts))][7] = value
            content = root[0]
        else:
            content = with_parts_changed(content, [(action, place, value)])
    stream = io.BytesIO()
    torch.save(content, stream)
    return {"checkpoint.pth": stream.getvalue()}


def read_network(path: Path) -> None:
    """Load a network as ``export`` does; beside the named file stands what goes with it."""
    import yaml

    from sbim_deploy.export.load import load_network

    config, pth = path.with_name("config.yaml"), path.with_name("checkpoint.pth")
    if not config.exists():
        config.write_text(yaml.safe_dump({**network_config()}))
    if not pth.exists():
        pth.write_bytes(checkpoint()["checkpoint.pth"])
    load_network(pth, config)


def kinds() -> list[Kind]:
    """Return every kind of input whose packages are installed."""
    found = [
        damaged("k-space, fastMRI", cache(lambda: content_of(fastmri)), read_kspace),
        damaged("k-space, compressed", cache(lambda: content_of(compressed)), read_kspace),
        damaged("k-space, MRD", cache(lambda: content_of(mrd)), read_kspace),
        damaged("3-D k-space, MRD", cache(lambda: content_of(volume)), read_volume),
        damaged("k-space, kept stream", cache(lambda: content_of(kept_stream)), read_kspace),
        damaged("k-space, BART", cache(lambda: content_of(bart)), read_kspace),
        damaged("k-space, npy", of_arrays(write_npy), read_kspace),
        damaged("k-space, npz", of_arrays(write_npz), read_kspace),
        damaged("k-space, MATLAB 5", of_arrays(write_matlab_6), read_kspace),
        damaged("k-space, MATLAB 5 compressed", of_arrays(write_matlab_7), read_kspace),
        damaged("k-space, MATLAB 7.3", of_arrays(write_matlab_73), read_kspace),
        VALUES_OF_KSPACE,
        damaged("result", result_content, read_result),
        damaged("MRD images", cache(lambda: content_of(mrd_images)), read_images),
        edited("record", record, with_record, read_result),
        damaged("stopped run", cache(lambda: content_of(stopped_run)), resume_run),
        edited("manifest", manifest, with_manifest, read_model),
        damaged("manifest's bytes", cache(lambda: with_manifest(manifest())), read_model),
        edited("experiment", lambda: EXPERIMENT, as_yaml("experiment.yaml"), read_experiment),
        edited("recipe", cache(recipe), as_yaml("recipe.yaml"), read_recipe),
        edited("network's YAML", network_config, as_yaml("config.yaml"), read_network),
        damaged("checkpoint's bytes", checkpoint, read_network),
        Kind("checkpoint", CHECKPOINT_EDITS, with_weights_changed, read_network, []),
    ]
    if find_spec("finufft") is not None:
        found += [
            damaged("MRD along a trajectory", cache(lambda: content_of(along_trajectory)), read_kspace),
            damaged("npy along a trajectory", cache(lambda: content_of(trajectory)), read_along_trajectory),
        ]
    if find_spec("nibabel") is not None:
        found.append(damaged("NIfTI", cache(lambda: content_of(nifti)), read_images))
    return found
