"""Model folders whose files are links, as caches keep them."""

from sbim_deploy.models.folder import DEMO_FOLDER


def as_hugging_face(folder):
    """Every file is a link to a blob that is called by its number."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "main"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(DEMO_FOLDER.iterdir())):
        blob = blobs / f"{number:064x}"
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def as_dvc(folder):
    """The large files are links into a cache elsewhere, the others are plain."""
    cache, model = folder / ".dvc" / "cache" / "ab", folder / "models" / "demo"
    cache.mkdir(parents=True)
    model.mkdir(parents=True)
    for file in DEMO_FOLDER.iterdir():
        plain = cache / "cdef" if file.name == "weights.bin" else model / file.name
        plain.write_bytes(file.read_bytes())
    (model / "weights.bin").symlink_to(cache / "cdef")
    return model


LAYOUTS = [as_hugging_face, as_dvc]
