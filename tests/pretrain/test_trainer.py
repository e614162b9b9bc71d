"""The loop: resuming, interruption, bad numbers, and that it learns."""

import itertools
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pretrain.config import PretrainConfig
from pretrain.monitor import effective_rank, knn_accuracy
from pretrain.schedule import learning_rate
from pretrain.trainer import Interrupted, Trainer
from skelcore import checkpoint, encoders, views
from skelcore.config import build
from skelcore.errors import InputError, RunError
from skelcore.store import Store, Subset


def config(output: Path, **changes: object) -> PretrainConfig:
    values = {"data": "mannequin.pkl", "output": str(output), "frames": 16, "epochs": 4, "batch_size": 8,
              "encoder": {"width": 8}, "objective": {"expander": 32}, "device": "cpu", "log_every_steps": 1,
              "monitor": {"every_epochs": 2}, "save_every_epochs": 1}
    return build(PretrainConfig, {**values, **changes}, "test")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(folder / "checkpoint.pt")
    return {f"{part}.{key}": value for part in ("encoder", "objective") for key, value in state[part].items()}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.mark.parametrize(("name", "stream"), [("ctrgcn", "bone"), ("transformer", "joint"),
                                              ("x3d-shallow", "joint_bone")])
def test_every_family_trains(tmp_path: Path, store: Store, name: str, stream: str) -> None:
    trainer = Trainer(config(tmp_path, epochs=1, encoder={"name": name, "width": 8}, stream=stream), store)
    before = {key: value.clone() for key, value in trainer.encoder.named_parameters()}
    assert np.isfinite(trainer.run()["loss"])
    moved = [key for key, value in trainer.encoder.named_parameters() if not torch.equal(value, before[key])]
    assert len(moved) > 0.8 * len(before)  # a bias before a batch norm stays
    encoder, meta = checkpoint.load_encoder(tmp_path / "checkpoint.pt", name)
    assert meta["stream"] == stream and encoder.in_channels == encoders.channels(name, trainer.layout, 2, stream)


def test_a_stream_that_the_encoder_cannot_read_is_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(InputError, match="heatmaps show"):
        Trainer(config(tmp_path, encoder={"name": "posec3d"}, stream="joint_motion"), store)
    with pytest.raises(InputError, match="joint_bone"):
        Trainer(config(tmp_path, stream="joint_bone"), store)


@pytest.mark.parametrize("stop_at", [1, 7, 10])
def test_resumed_weights_equal_uninterrupted_ones_bit_for_bit(tmp_path: Path, store: Store, stop_at: int,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    Trainer(config(tmp_path / "whole"), store).run()
    trainer = Trainer(config(tmp_path / "parts"), store)
    step = trainer.train_step

    def interrupt(batch: object) -> dict[str, float]:
        shown = step(batch)  # type: ignore[arg-type]
        if trainer.step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return shown

    monkeypatch.setattr(trainer, "train_step", interrupt)
    with pytest.raises(Interrupted):
        trainer.run()
    assert checkpoint.load(tmp_path / "parts/checkpoint.pt")["step"] == stop_at
    Trainer(config(tmp_path / "parts"), store).run()
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_runs_are_equal_under_a_seed_and_differ_between_seeds(tmp_path: Path, store: Store) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(name) + seed)  # the caller's generator must not matter
        Trainer(config(tmp_path / name, epochs=1, seed=seed), store).run()
    assert_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not torch.equal(*(weights(tmp_path / name)["objective.expander.0.weight"] for name in "ac"))


def test_looking_moves_nothing(tmp_path: Path, store: Store) -> None:
    Trainer(config(tmp_path / "often", monitor={"every_epochs": 1}), store, monitor=store).run()
    Trainer(config(tmp_path / "never", monitor={"every_epochs": 99}), store).run()
    assert_equal(weights(tmp_path / "often"), weights(tmp_path / "never"))


def test_a_loss_that_is_not_finite_stops_and_leaves_the_checkpoint_whole(tmp_path: Path, store: Store,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(config(tmp_path), store)
    forward = trainer.objective.forward

    def explode(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, terms = forward(first, second)
        return loss * (float("nan") if trainer.step == 6 else 1.0), terms

    monkeypatch.setattr(trainer.objective, "forward", explode)
    with pytest.raises(RunError, match="nan at step 6"):
        trainer.run()
    assert checkpoint.load(tmp_path / "checkpoint.pt")["step"] == 5


def test_another_configuration_or_other_data_are_refused(tmp_path: Path, store: Store) -> None:
    Trainer(config(tmp_path, epochs=1), store).run()
    with pytest.raises(InputError, match=r"another configuration \(encoder, seed\)"):
        Trainer(config(tmp_path, epochs=1, seed=5, encoder={"width": 16}), store).run()
    with pytest.raises(InputError, match="on other data"):
        Trainer(config(tmp_path, epochs=1), Subset(store, np.arange(20))).run()
    Trainer(config(tmp_path, epochs=1, log_every_steps=3), store).run()


def test_a_checkpoint_of_another_device_is_refused(tmp_path: Path, store: Store) -> None:
    Trainer(config(tmp_path, epochs=1), store).run()
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    checkpoint.save(tmp_path / "checkpoint.pt", {**state, "device": "cuda"})
    with pytest.raises(InputError, match="trained on cuda"):
        Trainer(config(tmp_path, epochs=1), store).run()


def test_data_and_monitor_must_share_joints_and_dimensions(tmp_path: Path, store: Store) -> None:
    with pytest.raises(InputError, match="give none of its joints"):
        Trainer(config(tmp_path, layout="hand21"), store)
    deep = SimpleNamespace(**{name: getattr(store, name) for name in ("labels", "groups", "layout", "ids")}, channels=3)
    with pytest.raises(InputError, match=r"3D poses.*2D"):
        Trainer(config(tmp_path), store, monitor=deep)  # type: ignore[arg-type]


def test_resuming_and_repeating_keep_the_events(tmp_path: Path, store: Store,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def steps(tag: str) -> list[int]:
        events = EventAccumulator(str(tmp_path))
        events.Reload()
        return [point.step for point in events.Scalars(tag)]

    trainer = Trainer(config(tmp_path), store, monitor=store)
    write = trainer.save
    monkeypatch.setattr(trainer, "save", lambda: (write(), trainer.step == 10 and os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Interrupted) as caught:
        trainer.run()
    assert caught.value.signal == signal.SIGTERM
    first = Trainer(config(tmp_path), store, monitor=store).run()
    assert steps("loss/total") == list(range(1, 21)) and steps("knn/accuracy") == [10, 20]
    assert Trainer(config(tmp_path), store, monitor=store).run() == first
    assert steps("loss/total") == list(range(1, 21)) and steps("knn/accuracy") == [10, 20]


def test_batch_larger_than_the_data_is_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(InputError, match="batch_size"):
        Trainer(config(tmp_path, batch_size=500), store)


def test_schedule_warms_up_and_ends_at_zero() -> None:
    rates = [learning_rate(step, 100, 10, 1.0) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1 and rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_events_hold_the_promised_scalars_and_a_figure(tmp_path: Path, store: Store) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Trainer(config(tmp_path), store, monitor=store).run()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"loss/total", "loss/invariance", "loss/variance", "loss/covariance", "optimizer/lr", "knn/accuracy",
            "features/std", "features/effective_rank", "speed/clips_per_second"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["views"]


@pytest.mark.slow
def test_pretraining_beats_random_weights_by_nearest_neighbours(tmp_path: Path, store: Store) -> None:
    trainer = Trainer(config(tmp_path, epochs=60, frames=24, batch_size=20, encoder={"width": 16},
                             objective={"expander": 256}, monitor={"every_epochs": 60},
                             optimizer={"lr": 2e-3}), store)

    def knn() -> float:
        features, index = trainer._embed(trainer.dataset)
        people = [store.ids[i].split("_p")[1][:3] for i in index]
        return knn_accuracy(features, store.labels[index], people, 3)

    # Batch-norm statistics make random weights a fair control.
    batch = trainer.dataset.__getitems__(range(len(trainer.dataset)))
    x = views.features(views.normalise(batch.keypoints, batch.scores), batch.scores, trainer.layout, "joint")
    encoders.calibrate(trainer.encoder, [x])
    before = knn()
    trainer.run()
    assert knn() > before + 0.1
    assert effective_rank(trainer._embed(trainer.dataset)[0]) > 5
