"""A file that holds no weights is named for what it is, with the way out, in one line."""

import argparse
import gzip
import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from random_checkpoints import random_weights, write_random_checkpoint
from torch import nn

from sbim_deploy.export.load import load_network

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 117964800\n"
PAGE = b"\n<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head></html>"


def lfs_pointer(path):
    path.write_bytes(LFS)


def web_page(path):
    path.write_bytes(PAGE)


def xml(path):
    path.write_bytes(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>')


def zipped_by_gzip(path):
    path.write_bytes(gzip.compress(b"weights" * 100))


def tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("checkpoint.pth"), io.BytesIO())


def zip_that_inflates(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr("archive/data/0", bytes(100_000))


def zip_of_something(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logs/checkpoint_100000.pth", b"1")


def arrays(path):
    np.savez(path.with_suffix(".npz"), begin_conv=np.ones(3))
    path.with_suffix(".npz").rename(path)


def array(path):
    with path.open("wb") as file:
        np.save(file, np.ones(3))


def hdf5(path):
    import h5py

    h5py.File(path, "w").close()


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_bytes(b'{"message": "Not Found"}')


def whole_module(path):
    torch.save(nn.Sequential(nn.Conv2d(2, 2, 3)), path)


class Trainer:
    def __reduce__(self):
        return (Trainer, ())


def other_objects(path):
    torch.save({"state_dict": random_weights("NCSNv2", 1), "trainer": Trainer()}, path)


def raw_pickle(path):
    path.write_bytes(pickle.dumps({"ema": Trainer()}))


def torchscript(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("net/data.pkl", "net/constants.pkl", "net/code/__torch__.py"):
            archive.writestr(name, b"1")


def other_safetensors(path):
    from safetensors.torch import save_file

    save_file({"vit.embed.weight": torch.ones(2), "vit.head.bias": torch.ones(2)}, path)


def truncated_safetensors(path):
    from safetensors.torch import save_file

    save_file(random_weights("NCSNv2", 1), path)
    path.write_bytes(path.read_bytes()[:3000])


FILES = {
    "a git-lfs pointer": (
        lfs_pointer,
        "is a git-lfs pointer, which stands for a file of 117964800 bytes: fetch",
    ),
    "a web page": (web_page, "is a web page, not the file that it leads to: download it again"),
    "an error of a store": (xml, "is XML, as a store of files answers that has no such file"),
    "gzip": (zipped_by_gzip, "is compressed by gzip: unpack it"),
    "tar": (tar, "is a tar archive: unpack it"),
    "a checkpoint that inflates": (zip_that_inflates, "is a checkpoint whose parts claim 100000"),
    "a zip": (
        zip_of_something,
        "(it holds 'logs/checkpoint_100000.pth'): unpack it, and name the checkpoint",
    ),
    "npz": (arrays, "is a zip archive that is no checkpoint (it holds 'begin_conv.npy')"),
    "npy": (array, "is a NumPy array, expected a checkpoint of PyTorch"),
    "HDF5": (hdf5, "is an HDF5 file, expected a checkpoint of PyTorch"),
    "empty": (empty, "is an empty file: fetch it again"),
    "text": (text, 'is text, which begins \'{"message": "Not Found"}\', expected a checkpoint'),
    "a whole module": (whole_module, "but a whole pickled network (torch.nn.modules.container.Sequential"),
    "other objects": (
        other_objects,
        "but objects of test_weight_files.Trainer; it is loaded with weights_only",
    ),
    "a pickle": (raw_pickle, "but objects of test_weight_files.Trainer"),
    "TorchScript": (torchscript, "is a TorchScript archive, whose loading would run code"),
    "another network": (
        other_safetensors,
        "got 2 tensors, such as 'vit.embed.weight', 'vit.head.bias'; another",
    ),
    "cut safetensors": (truncated_safetensors, "truncated or no safetensors ("),
}


@pytest.mark.parametrize(("write", "message"), FILES.values(), ids=FILES)
def test_what_is_no_checkpoint_is_named_in_one_line(cli, config_path, tmp_path, write, message):
    write(tmp_path / "c.pth")
    done = cli("export", tmp_path / "c.pth", "--config", config_path, "-o", tmp_path / "model")
    assert done.code == 2, done.err
    assert message in done.error_line
    assert str(tmp_path / "c.pth") in done.error_line


def test_safetensors_of_a_network_are_read(config_path, tmp_path):
    from safetensors.torch import save_file

    save_file(random_weights("NCSNv2", 1), tmp_path / "c.safetensors")
    loaded = load_network(tmp_path / "c.safetensors", config_path, ema=False)
    torch.testing.assert_close(loaded.network.state_dict(), random_weights("NCSNv2", 1))


def test_records_of_argparse_beside_the_weights_are_read_and_run_nothing(config_path, tmp_path):
    write_random_checkpoint(tmp_path / "c.pth", "NCSNv2", ema=False)
    content = torch.load(tmp_path / "c.pth", weights_only=True)
    saved = {"state_dict": content[0], "hyper_parameters": argparse.Namespace(lr=1e-4)}
    torch.save(saved, tmp_path / "c.pth")
    loaded = load_network(tmp_path / "c.pth", config_path, ema=False)
    torch.testing.assert_close(loaded.network.state_dict(), random_weights("NCSNv2", 1))
