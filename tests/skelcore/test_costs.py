import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skelcore import cli, costs, encoders
from skelcore.encoders.heatmaps import HeatmapEncoder

# GMACs of the reference (two persons, 100 frames, 25 / 17 joints; 17 heatmaps of 48 x 56 x 56), measured from it.
GRAPHS = {"stgcn": (5.71, 3.82), "stgcn++": (2.96, 1.95), "aagcn": (6.49, 4.35), "ctrgcn": (3.00, 1.95),
          "msg3d": (10.97, 6.84), "dgstgcn": (2.54, 1.71)}
HEATMAPS = {"posec3d": 15.6, "c3d-light": 16.8, "x3d-shallow": 0.57}


def here(names):
    return [name for name in names if name in encoders.ENCODERS]


class Spot(HeatmapEncoder):
    """Of known cost: one convolution of 3 x 3 x 3 without padding."""

    name = "spot"
    WIDTH = 8

    def __init__(self, layout, in_channels, width):
        super().__init__(layout, in_channels, width)
        self.dim = width
        self.conv = nn.Conv3d(in_channels, width, 3)

    def features(self, x):
        self.check(x)
        return self.conv(x)


@pytest.fixture
def spot(monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS, "spot", Spot)


@pytest.fixture
def clock(monkeypatch):
    """Passes take no time but what a test adds."""
    now = [0.0]
    monkeypatch.setattr(costs.time, "perf_counter", lambda: now[0])
    return now


class Products(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.bare = nn.Linear(8, 5), nn.Linear(5, 3, bias=False)
        self.grouped = nn.Conv2d(4, 6, (3, 1), stride=(2, 1), groups=2)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x):  # (7, 8)
        y = self.bare(self.linear(x))
        z = self.norm(self.grouped(x.view(1, 4, 7, 2)))
        mixed = torch.einsum("kuv,kvw->kuw", x.view(2, 4, 7), x.view(2, 7, 4))
        added = torch.baddbmm(mixed, x.view(2, 4, 7), x.view(2, 7, 4))
        attention = F.scaled_dot_product_attention(*[x.view(1, 2, 7, 4)] * 3)
        return [y, z, added.relu(), attention]


def test_multiply_accumulates_of_each_kind_of_product():
    linear = 7 * 8 * 5 + 7 * 5 * 3
    grouped = (3 * 2) * 6 * (4 // 2) * 3  # places x outputs x inputs of a group x taps
    batched = 2 * (2 * 4 * 7 * 4)
    attention = 2 * (2 * 7 * 7 * 4)
    module = Products().eval()
    assert costs.multiply_accumulates(module, torch.randn(7, 8)) == linear + grouped + batched + attention


@pytest.mark.parametrize("name", here(GRAPHS))
def test_graph_encoders_cost_about_what_the_reference_does(name):
    # Some products are arranged in another order here, which saves up to half of them and may add a few.
    for layout, published in zip(("ntu25", "coco17"), GRAPHS[name], strict=True):
        found = costs.cost(encoders.build(name, layout), persons=2, batch=1, timed=False)
        assert 0.5 < found.macs / 1e9 / published < 1.1


@pytest.mark.parametrize("name", here(HEATMAPS))
def test_heatmap_encoders_cost_what_the_reference_does(name):
    found = costs.cost(encoders.build(name, "coco17"), batch=1, timed=False)
    assert found.shape == (17, 48, 56, 56)
    assert found.macs / 1e9 == pytest.approx(HEATMAPS[name], rel=0.03)


def test_a_row_of_joints():
    encoder = encoders.build("transformer", "penn13", width=8)
    one, two = (costs.cost(encoder, frames=12, persons=persons, batch=3, timed=False) for persons in (1, 2))
    assert one.shape == (1, 12, 13, 3) and two.shape == (2, 12, 13, 3)
    assert two.macs / one.macs == pytest.approx(2, rel=0.02)
    assert one.parameters == sum(p.numel() for p in encoder.parameters())
    assert (one.name, one.layout, one.forward, one.training) == ("transformer", "penn13", None, None)


def test_a_row_of_heatmaps(spot):
    found = costs.cost(encoders.build("spot", "penn13"), frames=5, persons=3, batch=1, timed=False)
    assert found.shape == (13, 48, 56, 56) and found.macs == 46 * 54 * 54 * 27 * 13 * 8
    assert found.parameters == 27 * 13 * 8 + 8


def test_clips_per_second(clock, monkeypatch):
    """Seven clips in 0.1 s of forward, and in 0.7 s of forward and backward; the first pass of each is slow."""
    encoder = encoders.build("transformer", "penn13", width=8)
    passes = []

    def counted(module, inputs, output):
        passes.append((module.training, torch.is_grad_enabled(), len(inputs[0])))
        clock[0] += 0.1 if len(set(passes)) == len(set(passes[:-1])) else 5
        if output.requires_grad:
            output.register_hook(lambda _: clock.__setitem__(0, clock[0] + 0.6))

    monkeypatch.setattr(costs, "multiply_accumulates", lambda module, x: 0)
    encoder.register_forward_hook(counted)
    found = costs.cost(encoder, frames=8, batch=7)
    assert found.forward == pytest.approx(70) and found.training == pytest.approx(10)
    assert set(passes) == {(False, False, 7), (True, True, 7)}
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert 20 <= passes.count((False, False, 7)) - 1 <= 21, "passes of 2 s"


def test_a_measurement_is_the_median_and_ends(clock):
    taken = iter([9.0, 0.3, 0.1, 0.2, 5.0])

    def step():
        clock[0] += next(taken)

    assert costs._seconds(step, torch.device("cpu")) == pytest.approx(0.25)
    for first, second, wanted in ((9, 100, 100), (0, 0, 0)):  # one slow pass is enough; endless fast ones are not
        taken = iter([first, *[second] * 60])
        assert costs._seconds(step, torch.device("cpu")) == wanted


def test_the_table(capsys, spot):
    assert cli.main(["encoders", "spot", "transformer", "--layout", "penn13", "coco17", "--frames", "8",
                     "--width", "8", "--no-timing"]) == 0
    where, head, *rows = capsys.readouterr().out.splitlines()
    assert where == f"CPU, threads: {torch.get_num_threads()}; clips at a time: 4" or torch.cuda.is_available()
    assert [row.split()[:3] for row in rows] == [
        ["spot", "penn13", "13x48x56x56"], ["spot", "coco17", "17x48x56x56"],
        ["transformer", "penn13", "1x8x13x3"], ["transformer", "coco17", "1x8x17x3"]]
    assert rows[0].split()[3:] == ["2,816", "0.377", "-", "-"]
    ends = [[match.end() for match in re.finditer(r"\S+", row)][3:] for row in rows]
    assert len({len(line) for line in (head, *rows)}) == 1 and ends.count(ends[0]) == len(rows), "aligned"


def test_every_encoder_by_default(capsys, monkeypatch):
    asked = []

    def cost(encoder, frames, persons, batch, timed):
        printed = capsys.readouterr().out.splitlines()
        assert printed[-1].split()[0] == (asked[-1] if asked else "encoder"), "a row is shown before the next is made"
        asked.append(encoder.name)
        assert (encoder.width, frames, persons, batch, timed) == (encoder.WIDTH, 100, 1, 4, True)
        return costs.Cost(encoder.name, encoder.layout.name, (1,), 1, 1, 12345.6, 0.01234)

    monkeypatch.setattr(costs, "cost", cost)
    assert costs.main([]) == 0
    assert asked == list(encoders.ENCODERS)
    assert capsys.readouterr().out.split()[-2:] == ["12346", "0.0123"]


@pytest.mark.parametrize(("words", "said"), [
    (["transfomer"], "did you mean transformer"),
    (["--layout", "coco18"], "did you mean coco17"),
    (["--frames", "0"], "--frames: '0' is not a whole number above 0"),
    (["--persons", "two"], "--persons: 'two'"),
    (["--frames", "1" * 5000], "is not a whole number above 0, at most 10000"),
    (["--width", "100000"], "--width: '100000' is not a whole number above 0, at most 1024"),
    (["--batch"], "--batch: expected one argument"),
    (["--bogus"], "--bogus"),
    (["--width", "7"], "encoder stgcn: width must be"),
    (["transformer", "--width", "100"], "multiple of 32"),
    (["--device", "meta"], "--device meta: must be cpu"),
    (["--device", "cuda:99"], "--device cuda:99: not usable here"),
    (["stgcn++", "--frames", "1", "--batch", "1", "--width", "8"], "one frame"),
])
def test_bad_arguments_are_one_line(words, said, capsys):
    assert cli.main(["encoders", *words]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ") and said in output.err and len(output.err.splitlines()) == 1
    assert len(output.err) < 330


def test_bad_arguments_are_found_before_anything_is_measured(capsys, monkeypatch):
    monkeypatch.setattr(costs, "cost", lambda *_: pytest.fail("measured"))
    assert costs.main(["transformer", "nothing"]) == 2
    assert not capsys.readouterr().out


def test_too_little_memory_is_said(capsys, spot, monkeypatch):
    def features(self, x):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Spot, "features", features)
    assert costs.main(["spot", "--batch", "3"]) == 1
    assert capsys.readouterr().err == ("failed: encoder spot: too little memory on the device for 3 clips at a time; "
                                       "take a smaller --batch\n")


def test_clips_that_no_memory_holds_are_one_line(capsys):
    assert costs.main(["transformer", "--frames", "10000", "--persons", "10000", "--batch", "10000"]) == 1
    error = capsys.readouterr().err
    assert "too little memory on the device for 10000 clips" in error and error.count("\n") == 1


def test_an_interrupt_ends_quietly(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(costs, "cost", interrupted)
    assert costs.main(["transformer"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
