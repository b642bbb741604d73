import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import TINY

from label_heads import ball_head, write_labels
from sbim_deploy.errors import BackendMissingError, InputError, SbimDeployError
from sbim_deploy.export.checkpoint import Checkpoint, NetworkConfig, read_checkpoint, write_checkpoint
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.io.documents import convert
from sbim_deploy.samplers.schedules import geometric
from sbim_deploy.training import trainer
from sbim_deploy.training.dsm import dsm_loss
from sbim_deploy.training.settings import TrainSettings
from sbim_deploy.training.trainer import train

pytestmark = pytest.mark.usefixtures("few_slices")
CONFIG = NetworkConfig(ngf=4, channels=2, sigma_begin=3.0, sigma_end=0.1, n_levels=10)
N_LOG_HEADER = 1 + trainer.N_HELD_OUT_SIGMAS


def settings(**changes):
    return TrainSettings(**(TINY | changes))


@pytest.fixture
def start():
    torch.manual_seed(0)
    weights = ScoreNetwork(ARCHITECTURES["NCSNv2"], CONFIG.ngf, CONFIG.channels).state_dict()
    return Checkpoint(weights, {name: 1.01 * value for name, value in weights.items()}, {}, 3, 70)


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.slow
def test_the_loss_falls(tmp_path, start):
    progress = []
    train(
        CONFIG,
        settings(iterations=40, batch=4, learning_rate=5e-3, ema_rate=0.8, held_out_interval=5),
        tmp_path,
        Checkpoint(start.raw, None, {}, 0, 0),
        on_progress=lambda *values: progress.append(values),
    )
    held_out = [mean for _, _, mean in progress if mean is not None]
    assert [step for step, _, _ in progress] == list(range(41))
    assert len(held_out) == 9
    assert held_out[-1] < 0.8 * held_out[0]


def test_a_resumed_run_ends_as_the_uninterrupted_one(tmp_path):
    def interrupt(step, loss, held_out):
        if step == 3:
            raise KeyboardInterrupt

    whole = read_checkpoint(train(CONFIG, settings(), tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, settings(), tmp_path / "parts", on_progress=interrupt)
    part = read_checkpoint(tmp_path / "parts" / "checkpoint.pth")
    assert part.step == 2
    resumed = read_checkpoint(train(CONFIG, settings(), tmp_path / "parts", part))

    assert resumed.step == whole.step == 4
    assert_same_weights(resumed.raw, whole.raw)
    assert_same_weights(resumed.ema, whole.ema)
    for index, state in whole.optimizer["state"].items():
        assert_same_weights(state, resumed.optimizer["state"][index])
    logs = [(tmp_path / name / "held_out.csv").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_a_run_that_a_kill_ended_after_its_last_checkpoint_is_made_whole(tmp_path):
    whole = train(CONFIG, settings(), tmp_path)
    content, log = read_checkpoint(whole), (tmp_path / "held_out.csv").read_bytes()
    (tmp_path / "held_out.png").unlink()
    again = read_checkpoint(train(CONFIG, settings(), tmp_path, content))
    assert again.step == content.step == 4
    assert_same_weights(again.raw, content.raw)
    assert (tmp_path / "held_out.csv").read_bytes() == log
    assert (tmp_path / "held_out.png").exists()
    with pytest.raises(InputError, match=r"at step 4 of its run, iterations is 3: expected at least as many"):
        train(CONFIG, settings(iterations=3), tmp_path, content)


@pytest.mark.slow
def test_half_precision_trains_and_resumes_with_its_scale(tmp_path, start):
    half = {"precision": "fp16", "sizes": (32, 40)}
    begin = Checkpoint(start.raw, None, {}, 0, 0)
    whole = read_checkpoint(train(CONFIG, settings(**half), tmp_path / "whole", begin))
    full = read_checkpoint(train(CONFIG, settings(sizes=(32, 40)), tmp_path / "full", begin))
    assert whole.optimizer["scaler"]["scale"] > 1
    weights, exact = whole.raw["begin_conv.weight"], full.raw["begin_conv.weight"]
    assert not torch.equal(weights, exact)
    torch.testing.assert_close(weights, exact, atol=2e-3, rtol=0)

    def interrupt(step, loss, held_out):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, settings(**half), tmp_path / "part", begin, interrupt)
    part = read_checkpoint(tmp_path / "part" / "checkpoint.pth")
    resumed = read_checkpoint(train(CONFIG, settings(**half), tmp_path / "part", part))
    assert resumed.optimizer["scaler"] == whole.optimizer["scaler"]
    assert_same_weights(resumed.raw, whole.raw)


def test_a_log_that_a_kill_has_cut_is_taken_up_without_its_last_line(tmp_path):
    log = tmp_path / "held_out.csv"
    trainer.begin_log(log, [1.0, 0.1], 0)
    for step in (1, 2):
        trainer.append_row(log, step, [0.5, 0.25])
    whole = log.read_bytes()
    for rest in (b"3,0.5\r\n", b"3,0.", b"3,0.5,0.2x\r\n", b"\r\n", b"\xff\0,1,2\r\n"):
        log.write_bytes(whole + rest)
        trainer.begin_log(log, [1.0, 0.1], 3)
        assert log.read_bytes() == whole
        trainer.plot_log(log, tmp_path / "held_out.png")


def test_a_run_draws_its_log(tmp_path, start):
    train(CONFIG, settings(iterations=2), tmp_path, start)
    with Image.open(tmp_path / "held_out.png") as picture:
        assert picture.size == (800, 500)


def test_the_same_settings_train_the_same_weights_and_other_seeds_others(tmp_path):
    runs = [
        read_checkpoint(train(CONFIG, settings(iterations=1, seed=seed), tmp_path / str(number)))
        for number, seed in enumerate((0, 0, 1))
    ]
    assert_same_weights(runs[0].raw, runs[1].raw)
    assert not torch.equal(runs[0].raw["begin_conv.weight"], runs[2].raw["begin_conv.weight"])


def test_averaged_weights_follow_their_formula(tmp_path, start):
    trained = read_checkpoint(train(CONFIG, settings(iterations=1, ema_rate=0.75), tmp_path, start))
    for name, old in start.ema.items():
        expected = 0.75 * old + 0.25 * trained.raw[name]
        torch.testing.assert_close(trained.ema[name], expected)
        assert not torch.equal(trained.ema[name], trained.raw[name])


def test_a_start_without_optimiser_begins_a_new_run_of_its_own_architecture(tmp_path, start):
    write_checkpoint(tmp_path / "start.pth", start)
    path = train(CONFIG, settings(iterations=2), tmp_path / "out", read_checkpoint(tmp_path / "start.pth"))
    trained = read_checkpoint(path)
    assert trained.step == 2
    assert trained.raw.keys() == {*start.raw, "sigmas"}
    assert trained.optimizer["state"]
    change = (trained.raw["begin_conv.weight"] - start.raw["begin_conv.weight"]).abs().max()
    assert 0 < change < 1e-2


class PublishedNetwork(ScoreNetwork):
    """NCSNv2Deepest as its authors' code defines it: with the noise levels in a buffer."""

    def __init__(self, config):
        super().__init__(ARCHITECTURES["NCSNv2Deepest"], config.ngf, config.channels)
        self.register_buffer("sigmas", torch.zeros(config.n_levels))


def test_a_strict_loader_that_asks_for_the_levels_takes_the_checkpoint(tmp_path):
    states = torch.load(train(CONFIG, settings(iterations=1), tmp_path), weights_only=True)
    network = torch.nn.DataParallel(PublishedNetwork(CONFIG))
    network.load_state_dict(states[0], strict=True)
    expected = np.exp(np.linspace(np.log(3.0), np.log(0.1), 10)).astype(np.float32)
    assert network.module.sigmas.dtype == torch.float32
    np.testing.assert_allclose(network.module.sigmas.numpy(), expected, rtol=2e-7)
    # Their moving average knows parameters alone.
    assert states[4].keys() == dict(network.module.named_parameters()).keys()


def test_a_run_goes_on_from_a_checkpoint_without_levels(tmp_path, start):
    begin = Checkpoint(start.raw, None, {}, 0, 0)
    path = train(CONFIG, settings(iterations=1), tmp_path / "part", begin)
    whole, part = read_checkpoint(path), read_checkpoint(path)
    old = replace(part, raw={name: value for name, value in part.raw.items() if name != "sigmas"})
    resumed = [
        read_checkpoint(train(CONFIG, settings(iterations=2), tmp_path / str(number), each))
        for number, each in enumerate((whole, old))
    ]
    assert_same_weights(resumed[0].raw, resumed[1].raw)


def test_the_log_has_a_column_for_each_level(tmp_path, start):
    train(CONFIG, settings(iterations=3), tmp_path, start)
    with (tmp_path / "held_out.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[0] == "step"
    assert header[1] == "sigma_0.1"
    assert header[-1] == "sigma_3"
    assert [row[0] for row in rows] == ["0", "2", "3"]
    assert all(len(row) == N_LOG_HEADER for row in rows)


def test_the_draw_of_the_levels_is_the_one_that_the_settings_name(tmp_path, start, monkeypatch):
    seen = []

    def loss(score, images, sigmas, noise):
        seen.extend(sigmas.tolist())
        return dsm_loss(score, images, sigmas, noise)

    monkeypatch.setattr(trainer, "dsm_loss", loss)
    levels = set(geometric(3.0, 0.1, 10).astype(np.float32).tolist())
    one_step = {"iterations": 1, "batch": 8}
    train(CONFIG, settings(levels="uniform", **one_step), tmp_path / "uniform", start)
    assert len(seen) == 8
    assert set(seen) <= levels
    seen.clear()
    train(CONFIG, settings(**one_step), tmp_path / "detail", start)
    assert len(seen) == 8
    assert not set(seen) & levels


def test_minutes_end_a_run(tmp_path, start):
    trained = read_checkpoint(train(CONFIG, settings(iterations=None, minutes=1e-4), tmp_path, start))
    assert trained.step >= 1


def test_divergence_stops_the_run(tmp_path, start):
    with pytest.raises(SbimDeployError, match="diverged at step 1"):
        train(CONFIG, settings(learning_rate=1e30), tmp_path, start)


def test_without_a_compiler_a_line_says_so(tmp_path, start, monkeypatch, capsys):
    def broken(network):
        def call(x, sigmas):
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    train(CONFIG, settings(iterations=1, compile=True), tmp_path, start)
    assert "no compiler" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": None}, "expected one of them"),
        ({"minutes": 1.0}, "expected one of them"),
        ({"iterations": 0}, "iterations"),
        ({"batch": 0}, "batch"),
        ({"learning_rate": -1e-4}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"ema_rate": 1.0}, "ema_rate"),
        ({"seed": -1}, "seed"),
        ({"sizes": ()}, "sizes"),
        ({"precision": "tf32"}, "precision is 'tf32', expected 'fp32' or 'fp16' or 'bf16'"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        convert(TINY | changes, TrainSettings, "recipe.yaml: training", "change the recipe")


def test_what_does_not_fit_is_refused(tmp_path, start):
    with pytest.raises(InputError, match="multiple of 8"):
        train(CONFIG, settings(sizes=(32, 36)), tmp_path)
    one_channel = NetworkConfig(ngf=4, channels=1, sigma_begin=3.0, sigma_end=0.1, n_levels=10)
    with pytest.raises(InputError, match="1 channels"):
        train(one_channel, settings(), tmp_path)
    optimizer = {"state": {}, "param_groups": [{"params": [0], "lr": 1.0}]}
    with pytest.raises(InputError, match="step 70"):
        train(CONFIG, settings(), tmp_path, Checkpoint(start.raw, None, optimizer, 3, 70))
    with pytest.raises(InputError, match="optimiser"):
        train(CONFIG, settings(iterations=80), tmp_path, Checkpoint(start.raw, None, optimizer, 3, 70))


def test_heads_to_train_on_and_held_out_ones_come_from_their_folders(tmp_path, monkeypatch):
    for name in ("train", "other", "masks"):
        (tmp_path / name).mkdir()
    write_labels(tmp_path / "train" / "a.nii.gz", ball_head())
    write_labels(tmp_path / "other" / "b.nii.gz", ball_head())
    write_labels(tmp_path / "masks" / "m.nii.gz", np.eye(8, dtype=np.float32)[..., None].repeat(8, 2), 1.0)
    drawn = {}

    def pool(kind):
        def draw(n_slices, size, anatomies):
            drawn[kind, size] = (n_slices, [path.name for path in (*anatomies.heads, *anatomies.lesions)])
            return np.ones((n_slices, size, size), np.complex64)

        return draw

    monkeypatch.setattr(trainer, "training_pool", pool("training"))
    monkeypatch.setattr(trainer, "held_out_pool", pool("held out"))
    folders = {"anatomy": "train", "held_out_anatomy": "other", "lesions": "masks"}
    given = {key: str(tmp_path / name) for key, name in folders.items()}
    train(CONFIG, settings(iterations=1, sizes=(32, 40), pool_size=8, **given), tmp_path / "run")
    assert drawn == {
        ("held out", 32): (trainer.N_HELD_OUT, ["b.nii.gz"]),
        ("training", 32): (8, ["a.nii.gz", "m.nii.gz"]),
        # As many pixels as the first size's.
        ("training", 40): (6, ["a.nii.gz", "m.nii.gz"]),
    }
    with pytest.raises(InputError, match="among the heads to train on and among the held-out ones"):
        train(CONFIG, settings(**given | {"held_out_anatomy": given["anatomy"]}), tmp_path / "run")
    with pytest.raises(InputError, match="nowhere: no such folder; expected one with label maps of heads"):
        train(CONFIG, settings(**given | {"anatomy": str(tmp_path / "nowhere")}), tmp_path / "run")


def test_bfloat16_trains_nearly_the_same_weights(tmp_path, start):
    begin = Checkpoint(start.raw, None, {}, 0, 0)
    full = read_checkpoint(train(CONFIG, settings(iterations=1), tmp_path / "full", begin))
    half = read_checkpoint(train(CONFIG, settings(iterations=1, precision="bf16"), tmp_path / "half", begin))
    weights, exact = half.raw["begin_conv.weight"], full.raw["begin_conv.weight"]
    assert not torch.equal(weights, exact)
    torch.testing.assert_close(weights, exact, atol=2e-3, rtol=0)


def test_a_device_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BackendMissingError, match="warp"):
        train(CONFIG, settings(device="warp"), tmp_path)


def test_an_output_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make the folder"):
        train(CONFIG, settings(), tmp_path / "file")


def test_a_new_run_replaces_no_other_unless_it_is_forced(tmp_path):
    (tmp_path / "checkpoint.pth").write_text("a month of training")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match=r"checkpoint\.pth: is there already; --resume goes on"):
        train(CONFIG, settings(iterations=1), tmp_path)
    assert (tmp_path / "checkpoint.pth").read_text() == "a month of training"
    path = train(CONFIG, settings(iterations=1), tmp_path, force=True)
    assert read_checkpoint(path).step == 1
    assert (tmp_path / "note.txt").read_text() == "mine"
