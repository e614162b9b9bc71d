import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from skelcore import checkpoint, encoders
from skelcore.encoders.transformer import PATCH, PLACES, keep, places, random_keep
from skelcore.errors import InputError


def build(width=64, layout="penn13", seed=0, bump=True):
    """In float64; ``bump`` moves what starts at 0 or 1 (biases, layer norms) away from it, so that it matters."""
    torch.manual_seed(seed)
    encoder = encoders.build("transformer", layout, width=width).double()
    if bump:
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return encoder


def persons(count=2, frames=10, joints=13, seed=0):
    return torch.randn(count, frames, joints, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# The same encoder from its description: loops over joints, patches and heads, and the softmax written out.

def plain_tokens(weights, x):
    frames = list(x.unbind(1))
    while len(frames) % PATCH:
        frames.append(frames[-1])
    steps = len(frames) // PATCH
    rows = []
    for step in range(steps):
        for joint in range(x.shape[2]):
            patch = torch.cat([frame[:, joint] for frame in frames[step * PATCH: (step + 1) * PATCH]], 1)
            rows.append(patch @ weights["embed.weight"].T + weights["embed.bias"] + weights["joints"][joint]
                        + plain_place(step, steps, weights["times"]))
    return torch.stack(rows, 1)


def plain_place(step, steps, learned):
    """The mean of the learned positions under a triangle around the middle of this part of the clip."""
    middle, width = (step + 0.5) * PLACES / steps - 0.5, max(PLACES / steps, 1)
    heights = [max(0.0, 1 - abs(middle - i) / width) for i in range(PLACES)]
    return sum((h / sum(heights) * row for h, row in zip(heights, learned, strict=True)), torch.zeros_like(learned[0]))


def plain_block(weights, start, x, heads):
    def norm(name, y):
        centred = y - y.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{start}.{name}.weight"] + weights[f"{start}.{name}.bias"]

    def linear(name, y):
        return y @ weights[f"{start}.{name}.weight"].T + weights[f"{start}.{name}.bias"]

    query, key, value = linear("qkv", norm("attention_norm", x)).chunk(3, -1)
    size = x.shape[-1] // heads
    mixed = []
    for head in range(heads):
        q, k, v = (part[..., head * size: (head + 1) * size] for part in (query, key, value))
        likeness = torch.exp(q @ k.transpose(1, 2) / size**0.5)
        mixed.append(likeness / likeness.sum(-1, keepdim=True) @ v)
    x = x + linear("out", torch.cat(mixed, -1))
    hidden = linear("mlp.0", norm("mlp_norm", x))
    return x + linear("mlp.2", hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)


def plain_encode(weights, tokens, heads):
    for i in range(8):
        tokens = plain_block(weights, f"blocks.{i}", tokens, heads)
    return F.layer_norm(tokens, tokens.shape[-1:], weights["norm.weight"], weights["norm.bias"])


def test_outputs_and_gradients_equal_the_plain_encoder():
    encoder, x = build(width=64), persons()
    weights = {key: value.detach().clone().requires_grad_() for key, value in encoder.named_parameters()}
    plain = plain_encode(weights, plain_tokens(weights, x), heads=2)
    ours = encoder.features(x[:, None])
    torch.testing.assert_close(ours, plain.unflatten(1, (3, 13)).permute(0, 3, 1, 2)[:, None], rtol=1e-9, atol=1e-10)
    direction = torch.randn(ours.shape, generator=generator(1), dtype=torch.float64)
    (ours * direction).sum().backward()
    (plain.unflatten(1, (3, 13)).permute(0, 3, 1, 2)[:, None] * direction).sum().backward()
    for name, parameter in encoder.named_parameters():
        scale = weights[name].grad.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(parameter.grad, weights[name].grad, rtol=1e-8, atol=1e-10 * scale, msg=name)


@torch.no_grad()
def test_kept_tokens_are_all_that_the_encoder_sees():
    encoder, x = build(), persons(3)
    kept, hidden = random_keep(3, 3, 13, 0.3, generator())
    seen = encoder.encode(keep(encoder.tokens(x), kept))
    weights = dict(encoder.named_parameters())
    rows = torch.stack([row[i] for row, i in zip(plain_tokens(weights, x), kept, strict=True)])
    torch.testing.assert_close(seen, plain_encode(weights, rows, heads=2), rtol=1e-9, atol=1e-10)
    # What is hidden may be anything.
    other = x.clone()
    for person, indices in enumerate(hidden):
        for index in indices.tolist():
            step, joint = divmod(index, 13)
            other[person, step * PATCH: (step + 1) * PATCH, joint] = 99.0
    torch.testing.assert_close(encoder.encode(keep(encoder.tokens(other), kept)), seen, rtol=0, atol=0)
    assert not torch.allclose(encoder.encode(keep(encoder.tokens(other), hidden)),
                              encoder.encode(keep(encoder.tokens(x), hidden)))


@torch.no_grad()
def test_the_order_of_the_tokens_moves_with_them():
    encoder = build()
    tokens = encoder.tokens(persons()).flatten(1, 2)
    order = torch.randperm(tokens.shape[1], generator=generator())
    torch.testing.assert_close(encoder.encode(tokens[:, order]), encoder.encode(tokens)[:, order],
                               rtol=1e-10, atol=1e-11)


@torch.no_grad()
def test_the_positions_tell_joints_and_frames_apart():
    encoder, x = build(), persons(1, frames=12)
    pooled = encoder(x[:, None])
    assert not torch.allclose(encoder(x[:, None].roll(1, 3)), pooled, rtol=1e-3)
    assert not torch.allclose(encoder(x[:, None].roll(PATCH, 2)), pooled, rtol=1e-3)
    encoder.joints.zero_()
    encoder.times.zero_()
    torch.testing.assert_close(encoder(x[:, None].roll(1, 3)), encoder(x[:, None]), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(encoder(x[:, None].roll(PATCH, 2)), encoder(x[:, None]), rtol=1e-9, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 3, 5, 10])
def test_the_last_frame_fills_the_last_patch(frames):
    encoder, x = build(), persons(frames=frames)
    filled = torch.cat([x] + [x[:, -1:]] * (-frames % PATCH), 1)
    assert filled.shape[1] % PATCH == 0
    torch.testing.assert_close(encoder.tokens(x), encoder.tokens(filled), rtol=0, atol=0)


@given(st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_places(count):
    weights = places(count, torch.zeros((), dtype=torch.float64)).numpy()
    np.testing.assert_allclose(weights.sum(1), 1)
    assert (weights >= 0).all() and (weights.sum(0) > 0).all(), "every learned position is trained at every length"
    middles = (np.arange(count) + 0.5) / count * PLACES - 0.5
    if count >= PLACES:
        learned = np.random.default_rng(count).normal(size=PLACES)
        np.testing.assert_allclose(weights @ learned, np.interp(middles, np.arange(PLACES), learned), atol=1e-12)
    else:
        centres = weights @ np.arange(PLACES)
        assert (np.diff(centres) > 0).all(), "no two parts share a place"
        np.testing.assert_allclose(centres, PLACES - 1 - centres[::-1])


def test_one_place_a_part_is_the_table_itself():
    torch.testing.assert_close(places(PLACES, torch.zeros(())), torch.eye(PLACES), rtol=0, atol=0)


@torch.no_grad()
def test_a_longer_clip_of_the_same_movement_looks_alike():
    """Positions are shares of the clip: sampled four times as densely, it keeps them."""
    times = build(bump=False).times
    coarse, fine = (places(count, times) @ times for count in (64, 256))
    nearest = (coarse[:, None] - fine[None]).square().sum(-1).argmin(1)
    assert (nearest // 4 - torch.arange(64)).abs().max() == 0


@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 9), st.floats(0.01, 1), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_random_keep_parts_the_tokens_in_two(count, steps, joints, ratio, seed):
    state = torch.get_rng_state()
    kept, hidden = random_keep(count, steps, joints, ratio, generator(seed))
    assert torch.equal(torch.get_rng_state(), state)
    assert kept.shape == (count, max(1, round(ratio * steps * joints)))
    for both in (kept, hidden):
        assert (both.diff(dim=1) > 0).all()
    assert torch.equal(torch.cat([kept, hidden], 1).sort(1).values, torch.arange(steps * joints).expand(count, -1))
    again = random_keep(count, steps, joints, ratio, generator(seed))
    assert torch.equal(again[0], kept) and torch.equal(again[1], hidden)


def test_every_token_is_kept_equally_often():
    kept, _ = random_keep(4000, 5, 4, 0.25, generator())
    share = kept.flatten().bincount(minlength=20) / 4000
    assert share.sub(0.25).abs().max() < 5 * (0.25 * 0.75 / 4000) ** 0.5
    assert len({tuple(row) for row in kept[:50].tolist()}) > 40, "each person has a draw of its own"


@pytest.mark.parametrize("ratio", [0, -0.5, 1.01, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(InputError, match="ratio"):
        random_keep(1, 2, 3, ratio, generator())


def test_keep_takes_maps_or_rows():
    tokens, indices = torch.arange(2 * 3 * 5 * 2.0).view(2, 3, 5, 2), torch.tensor([[0, 7, 14], [3, 4, 5]])
    wanted = torch.stack([tokens[p, i // 5, i % 5] for p in range(2) for i in indices[p]]).view(2, 3, 2)
    assert torch.equal(keep(tokens, indices), wanted)
    assert torch.equal(keep(tokens.flatten(1, 2), indices), wanted)


def multiply_accumulates(step):
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return counter.get_total_flops() / 2


def test_the_cost_is_that_of_the_tokens_kept():
    torch.manual_seed(0)
    encoder, x = encoders.build("transformer", "coco17"), torch.randn(1, 100, 17, 3)
    kept, _ = random_keep(1, 25, 17, 0.1, generator())
    whole = multiply_accumulates(lambda: encoder.encode(encoder.tokens(x).flatten(1, 2)).sum().backward())
    part = multiply_accumulates(lambda: encoder.encode(keep(encoder.tokens(x), kept)).sum().backward())
    assert 0.07 < part / whole < 0.1
    # Forward: per token and block, 12 D^2 in products with weights and 2 L D in attention; and the embedding.
    tokens, d = 25 * 17, 256
    forward = multiply_accumulates(lambda: encoder.encode(encoder.tokens(x).flatten(1, 2)))
    assert forward == 8 * (12 * d * d * tokens + 2 * tokens**2 * d) + tokens * 12 * d + 25 * PLACES * d


@pytest.mark.parametrize(("layout", "joints"), [("coco17", 17), ("ntu25", 25)])
def test_parameter_count(layout, joints):
    d = 256
    encoder = encoders.build("transformer", layout)
    assert encoder.dim == d and encoder.blocks[0].heads == 8
    block = (3 * d * d + 3 * d) + (d * d + d) + (8 * d * d + 5 * d) + 4 * d
    assert sum(p.numel() for p in encoder.parameters()) == 8 * block + 13 * d + (joints + PLACES) * d + 2 * d


def test_weights_start_as_the_papers_do():
    torch.manual_seed(0)
    encoder = encoders.build("transformer", "coco17")
    for position in (encoder.joints, encoder.times):
        assert abs(position.std().item() - 0.02) < 0.002
    for start in (0, 256, 512):  # each of query, key and value as one 256 x 256 map
        part = encoder.blocks[3].qkv.weight[start: start + 256]
        assert abs(part.std().item() - (2 / 512) ** 0.5) < 0.001 and part.abs().max() <= (6 / 512) ** 0.5
    assert not encoder.blocks[3].qkv.bias.any() and not encoder.embed.bias.any()


@pytest.mark.parametrize(("width", "heads"), [(8, 1), (63, 1), (64, 2), (99, 3), (512, 16)])
def test_heads(width, heads):
    assert encoders.build("transformer", "penn13", width=width).blocks[0].heads == heads


@pytest.mark.parametrize("width", [65, 100, 255])
def test_a_width_that_does_not_divide_is_refused(width):
    with pytest.raises(InputError, match=f"width {width}.*multiple of 32"):
        encoders.build("transformer", "penn13", width=width)


def test_there_are_no_weights_of_the_reference():
    with pytest.raises(InputError, match="no PYSKL weights"):
        checkpoint.load_pyskl(build(width=8), {})


@torch.no_grad()
def test_one_export_takes_any_number_of_clips():
    encoder = build(width=32, bump=False).float()
    x = torch.randn(2, 1, 12, 13, 3)
    exported = torch.export.export(encoder, (x,), dynamic_shapes=({0: torch.export.Dim("clips")},)).module()
    for count in (1, 5):
        more = torch.randn(count, 1, 12, 13, 3)
        torch.testing.assert_close(exported(more), encoder(more), rtol=1e-4, atol=1e-5)
