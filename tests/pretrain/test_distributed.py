"""Training in several real processes: gloo on this machine, torchrun, and Ray Train, of which one worker is killed."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from pretrain import distributed
from pretrain.distributed import Group, Interrupted
from skelcore.command import guarded
from skelcore.encoders import build
from skelcore.errors import InputError, RunError
from tests.paths import ROOT
from tests.processes import together

ENCODERS = ["stgcn++", "ctrgcn", "x3d-shallow", "posec3d"]
CLIPS = 4


class Objective(nn.Module):
    """Two encoder passes, a head with a batch norm, and a loss of the whole batch with a parameter of its own."""

    def __init__(self, name):
        super().__init__()
        self.encoder = build(name, "coco17", width=8)
        self.head = nn.Sequential(nn.Linear(self.encoder.dim, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))
        self.prototypes = nn.Parameter(torch.randn(3, 5))

    def forward(self, group, x, valid):
        first, second = (group.gather(self.head(self.encoder(view, valid))) for view in (x, x.flip(2)))
        similar = (first @ second.T).logsumexp(1).mean() - (first * second).sum(1).mean()
        return similar + first.std(0).mean() + ((first @ self.prototypes.T).softmax(1) ** 2).sum()


def train(name, group):
    """The loss, the gradients and the buffers after a step on this process's share of the clips."""
    torch.manual_seed(0)
    objective = Objective(name).double()
    heatmaps = name in ("x3d-shallow", "posec3d")
    x = torch.rand(CLIPS, *((17, 4, 16, 16) if heatmaps else (2, 4, 17, 3)), dtype=torch.double)
    valid = None if heatmaps else torch.tensor([[1, 0], [1, 1], [1, 0], [0, 1]], dtype=torch.bool)
    if group.rank == 1:
        nn.init.zeros_(objective.prototypes)  # a start that must not matter
    model = group.wrap(objective)
    share = slice(group.rank, None, group.world)
    loss = model(group, x[share], None if valid is None else valid[share])
    loss.backward()
    found = {f"gradient of {key}": value.grad for key, value in objective.named_parameters()}
    return found | dict(objective.named_buffers()) | {"loss": loss.detach()}


def work(rank, world):
    group = Group(rank, world)
    x = (10 * rank + torch.arange(3.0)[:, None]).requires_grad_()
    gathered = group.gather(x)
    (gathered[:, 0] * torch.arange(6.0) * (1 + rank)).sum().backward()
    found = {"gathered": gathered.detach(), "gradient": x.grad, "mean": group.mean(torch.tensor([1.0 + rank, 4.0])),
             "whole": group.gather(torch.tensor([rank, 7]))}
    assert group.same({"answer": rank}) == {"answer": 0}
    group.barrier()
    with group.listening():
        assert group.interrupted() == 0
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        assert group.interrupted() == signal.SIGTERM
    return found | {f"{name} {key}": value for name in ENCODERS for key, value in train(name, group).items()}


@pytest.fixture(scope="module")
def processes():
    return together(work)


def test_gathered_rows_are_in_the_order_of_the_batch(processes):
    for rank, found in enumerate(processes):
        assert found["gathered"].flatten().tolist() == [0, 10, 1, 11, 2, 12]
        assert found["whole"].tolist() == [0, 1, 7, 7]
        assert found["mean"].tolist() == [1.5, 4]
        assert found["gradient"].flatten().tolist() == [3 * i for i in range(rank, 6, 2)]  # 1 + 2, over both processes


@pytest.mark.parametrize("name", ENCODERS)
def test_two_processes_train_as_one(processes, name):
    for key, value in train(name, Group()).items():
        first, second = (found[f"{name} {key}"] for found in processes)
        assert torch.equal(first, second), key
        torch.testing.assert_close(first, value, rtol=1e-7, atol=1e-10, msg=lambda text, key=key: f"{key}: {text}")


def test_one_process_does_nothing():
    group, x, module = Group(), torch.ones(2, requires_grad=True), nn.BatchNorm1d(2)
    assert group.first and group.gather(x) is x and group.wrap(module) is module and type(module) is nn.BatchNorm1d
    assert group.same(x) is x and group.mean(x).tolist() == [1, 1]
    group.barrier()
    assert not torch.distributed.is_initialized()
    assert distributed.run(lambda group: group.world, "auto", 1, "cpu") == 1


def test_signals_are_wishes_only_while_it_listens():
    group, before = Group(), signal.getsignal(signal.SIGTERM)
    with group.listening():
        assert not group.interrupted()
        os.kill(os.getpid(), signal.SIGTERM)
        assert group.interrupted() == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_wrong_starts_are_explained(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="RANK"):
        distributed.run(lambda group: 1, "auto", 1, "cpu")
    with pytest.raises(InputError, match="without torchrun"):
        distributed.run(lambda group: 1, "ray", 2, "cpu")
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="ray"):
        distributed.run(lambda group: 1, "ray", 2, "cpu")


def count(folder, steps, mishap, group):
    """Count steps to ``steps``, saving every second; one worker dies, or errs, in the fifth."""
    saved, mark = Path(folder) / "step", Path(folder) / "mishap"
    step = int(saved.read_text()) if saved.exists() else 0
    if group.first:
        print(f"from step {step}", flush=True)
    with group.listening():
        while step < steps:
            time.sleep(0.1)
            assert group.mean(torch.tensor(float(group.rank))) == (group.world - 1) / 2
            step += 1
            interrupted = group.interrupted()
            if group.first and (interrupted or step % 2 == 0):
                saved.write_text(str(step))
            if interrupted:
                raise Interrupted(interrupted)
            if step == 5 and group.rank == group.world - 1 and not mark.exists():
                mark.touch()
                if mishap == "dies":
                    os.kill(os.getpid(), signal.SIGKILL)
                if mishap == "errs":
                    raise RunError("the loss is nan")
    return {"steps": step}


def main(mode, folder, steps, mishap, workers):
    """What the tests below start as a command."""
    def body():
        found = distributed.run(functools.partial(count, folder, int(steps), mishap), mode, int(workers), "cpu")
        if found is not None:
            print(found)

    return guarded(body)


def start(mode, folder, steps, mishap, workers=2):
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy") and "RAY" not in key}
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if mode == "auto" else []
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    script = folder / "script.py"
    # Workers of Ray import the functions by name, as they do those of the package.
    script.write_text("import sys\nfrom tests.pretrain.test_distributed import main\n"
                      "if __name__ == '__main__':\n    sys.exit(main(*sys.argv[1:]))\n")
    command = [sys.executable, *starter, script, mode, folder, steps, mishap, workers]
    return subprocess.Popen(list(map(str, command)), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**clean, "PYTHONPATH": path})


@pytest.mark.slow
def test_torchrun_trains_and_prints_once(tmp_path):
    out, err = start("auto", tmp_path, 6, "none").communicate(timeout=300)
    assert out.count("{'steps': 6}") == 1 and out.count("from step 0") == 1, err
    assert (tmp_path / "step").read_text() == "6"


@pytest.mark.slow
def test_killed_worker_of_ray_comes_back_and_the_run_ends_in_the_same_number_of_steps(tmp_path):
    process = start("ray", tmp_path, 8, "dies")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and out.splitlines()[-1] == "{'steps': 8}", err
    assert (tmp_path / "mishap").exists() and (tmp_path / "step").read_text() == "8"
    assert err.splitlines() == ["from step 0", "from step 4"]


@pytest.mark.slow
def test_interrupted_ray_saves_first(tmp_path):
    process = start("ray", tmp_path, 10**6, "none", workers=1)
    deadline = time.monotonic() + 300
    while not (tmp_path / "step").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM and err.splitlines() == ["from step 0", "interrupted"]
    assert int((tmp_path / "step").read_text()) > 1


@pytest.mark.slow
def test_error_of_a_worker_of_ray_is_the_commands(tmp_path):
    process = start("ray", tmp_path, 8, "errs", workers=1)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and err.splitlines() == ["from step 0", "failed: the loss is nan"]
