import shutil
from types import SimpleNamespace

from mrd_samples import sample_readout
from sbim_deploy.serving import raw_file
from sbim_deploy.serving.raw_file import RawFile


def test_a_full_disk_ends_the_saving_and_not_the_session(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(raw_file, "warn", lambda event, **fields: told.append((event, fields["reason"])))
    raw = RawFile(tmp_path, 3, "<ismrmrdHeader/>")
    raw.append(sample_readout())
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=1000))
    raw.append(sample_readout())
    assert told == [("raw-data-not-saved", "No space left on device")]
    assert list(tmp_path.iterdir()) == []
    raw.append(sample_readout())
    raw.close()
    assert list(tmp_path.iterdir()) == []
