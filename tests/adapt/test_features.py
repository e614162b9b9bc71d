import numpy as np
import pytest
import torch

from adapt import cache, features
from skelcore import annotations, layouts, views
from skelcore.encoders import build
from skelcore.errors import InputError
from skelcore.store import Subset
from skelcore.views.fill import fill, fill_gaps
from skelcore.views.parts import body_parts
from tests.adapt import clips as made


@pytest.fixture
def store(tmp_path):
    return annotations.read(made.write(tmp_path / "clips.pkl"))


def clips_of(store, **changes):
    return features.Clips(**{"store": store, "frames": 16, "persons": 2, "layout": store.layout, "batch_size": 7,
                             **changes})


def test_gaps_are_filled_as_numpy_interpolates():
    random = np.random.default_rng(0)
    points = random.normal(size=(2, 2, 9, 5, 2)).astype(np.float32)
    seen = random.uniform(size=points.shape[:-1]) < 0.4
    seen[0, 0, :, 0], seen[0, 0, :, 1], seen[1, 1, :, 4] = False, True, np.arange(9) == 3
    wanted = points.copy()
    for n, m, v, c in np.ndindex(2, 2, 5, 2):
        frames = np.flatnonzero(seen[n, m, :, v])
        if len(frames):
            wanted[n, m, :, v, c] = np.interp(np.arange(9), frames, points[n, m, frames, v, c])
    found = fill_gaps(torch.from_numpy(points), torch.from_numpy(seen)).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_raw_features_do_not_depend_on_place_size_or_batch(store):
    raw = features.coordinates(clips_of(store), fill=True)
    np.testing.assert_array_equal(features.coordinates(clips_of(store, batch_size=30), fill=True), raw)

    class Moved(type(store)):
        def __getitem__(self, index):
            clip = super().__getitem__(index)
            return type(clip)(3 * clip.keypoints + 200, clip.scores, clip.layout, id=clip.id, label=clip.label)

    np.testing.assert_allclose(features.coordinates(clips_of(Moved(**vars(store))), fill=True), raw, atol=2e-3)


@pytest.mark.parametrize(("name", "pooling", "size"), [
    ("stgcn++", ("mean",), 1), ("stgcn++", ("segments", 3), 3), ("stgcn++", ("parts",), 12),
    ("x3d-shallow", ("parts",), 18)])
def test_encoder_features_do_not_depend_on_batch_or_order(store, name, pooling, size):
    torch.manual_seed(0)
    encoder = build(name, store.layout, width=8)
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    whole = features.encode(encoder, clips_of(store).inputs(encoder), *pooling)
    assert whole.shape == (len(store), encoder.dim * size)
    single = features.encode(encoder, clips_of(store, batch_size=1).inputs(encoder), *pooling)
    np.testing.assert_allclose(single, whole, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(store))
    shuffled = features.encode(encoder, clips_of(Subset(store, order)).inputs(encoder), *pooling)
    np.testing.assert_allclose(shuffled, whole[order], atol=1e-5)
    assert encoder.training  # the mode is given back
    for key, value in encoder.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


def test_segments_keep_the_temporal_order_that_the_mean_forgets(store):
    class Echo(torch.nn.Module):
        """Feature maps that are the input."""

        def timeline(self, x, valid):
            return x[valid].mean(2).transpose(1, 2)

        def forward(self, x, valid):
            return self.timeline(x, valid).mean(-1)

    x = torch.zeros(2, 2, 8, 17, 3)
    x[0, 0, :4], x[1, 0, 4:] = 1, 1
    x[:, 1] = 100  # a person that is not there
    valid = torch.tensor([[True, False]] * 2)
    first, second = features.encode(Echo(), [(x, valid)])
    np.testing.assert_array_equal(first, second)
    first, second = features.encode(Echo(), [(x, valid)], "segments", 2)
    np.testing.assert_array_equal(first, [1, 0] * 3)
    np.testing.assert_array_equal(second, [0, 1] * 3)
    # One segment is the pooled output of a real encoder.
    encoder = build("stgcn++", store.layout, width=8)
    np.testing.assert_allclose(features.encode(encoder, clips_of(store).inputs(encoder), "segments", 1),
                               features.encode(encoder, clips_of(store).inputs(encoder)), atol=1e-5)


def test_parts_have_the_mean_and_deviation_of_those_who_are_there(store):
    encoder = build("stgcn++", store.layout, width=8).eval()
    x = torch.randn(3, 2, 16, 17, 3)
    valid = torch.tensor([[True, True], [True, False], [True, True]])
    found = features.encode(encoder, [(x, valid)], "parts").reshape(3, 2, encoder.dim, 6)
    maps = encoder.features(x).detach().numpy()  # (n, M, D, T', V)
    joints = store.layout.joints
    arm = [joints.index(f"left_{name}") for name in ("elbow", "wrist")]
    number = body_parts(store.layout).index(arm)
    for clip, persons in enumerate(([0, 1], [0], [0, 1])):
        curves = maps[clip, persons][..., arm].mean(-1)
        np.testing.assert_allclose(found[clip, 0, :, number], curves.mean(-1).mean(0), atol=1e-5)
        np.testing.assert_allclose(found[clip, 1, :, number], curves.std(-1).mean(0), atol=1e-5)


def test_every_joint_is_of_one_part():
    for name in layouts.LAYOUTS:
        layout = layouts.get(name)
        assert sorted(joint for part in body_parts(layout) for joint in part) == list(range(len(layout)))


def test_fused_blocks_have_the_same_share_of_a_distance():
    rng = np.random.default_rng(0)
    wide, narrow = (features.rescale(each, each, "standard") for each in (rng.normal(size=(400, 50)),
                                                                          7 * rng.normal(size=(400, 5))))
    fused = features.fuse([wide, narrow], 400)
    shares = [(fused[:, part] ** 2).sum(1).mean() for part in (slice(50), slice(50, None))]
    assert shares == pytest.approx([1, 1], rel=1e-5)


def test_an_empty_clip_has_finite_features(store):
    keypoints, scores = torch.zeros(1, 2, 16, 17, 2), torch.zeros(1, 2, 16, 17)
    x = views.features(views.normalise(keypoints, scores), scores, store.layout, "joint")
    encoder = build("stgcn++", store.layout, width=8)
    assert np.isfinite(features.encode(encoder, [(x, torch.tensor([[True, False]]))], "segments", 4)).all()


def test_scratch_differs_by_seed_only_and_sees_only_the_pool(store):
    encoder = build("stgcn++", store.layout, width=8)
    before = torch.get_rng_state()
    one, same, other = (features.untrained(encoder, seed, clips_of(store).mixed_inputs(encoder, 18))
                        for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for key, value in one.state_dict().items():
        torch.testing.assert_close(same.state_dict()[key], value, rtol=0, atol=0)
    assert any(not torch.equal(other.state_dict()[key], value) for key, value in one.state_dict().items())
    assert not one.training and not any(parameter.requires_grad for parameter in one.parameters())
    alone = features.untrained(encoder, 1, clips_of(Subset(store, np.arange(18))).mixed_inputs(encoder, 18))
    for key, value in one.state_dict().items():
        torch.testing.assert_close(alone.state_dict()[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("count", [1, 18, 64, 65, 127, 129, 200])
def test_calibration_batches_weigh_the_same(count, tmp_path):
    store = annotations.read(made.write(tmp_path / "clips.pkl", classes=2, train=90, test=10))
    encoder = build("stgcn++", store.layout, width=8)
    sizes = [len(x) for x, _ in clips_of(store, frames=2, persons=1).mixed_inputs(encoder, count)]
    assert len(set(sizes)) == 1 and sizes[0] <= 64
    assert count - len(sizes) < sum(sizes) <= count


def test_one_more_clip_hardly_moves_the_calibration(tmp_path):
    store = annotations.read(made.write(tmp_path / "clips.pkl", classes=5, train=13, test=1))
    encoder = build("stgcn++", store.layout, width=8)
    less, more = (features.untrained(encoder, 0, clips_of(store, persons=1).mixed_inputs(encoder, count)).state_dict()
                  for count in (64, 65))
    for key in less:
        if key.endswith("running_var"):
            assert ((more[key] - less[key]).abs() / less[key]).max() < 0.3, key


def test_not_finite_features_are_refused(store):
    encoder = build("stgcn++", store.layout, width=8).eval()
    with torch.no_grad():
        next(encoder.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match="not finite"):
        features.encode(encoder, clips_of(store).inputs(encoder))


def test_rescaling_uses_the_pool_alone():
    random = np.random.default_rng(0)
    data = random.normal(size=(50, 4)) * [1, 10, 0.1, 0] + [5, 0, 0, 3]
    pool = data[:30]
    standard = features.rescale(data, pool, "standard")
    np.testing.assert_allclose(standard[:, 0], (data[:, 0] - pool[:, 0].mean()) / pool[:, 0].std(), rtol=1e-5)
    np.testing.assert_allclose(standard[:30].mean(0), 0, atol=1e-6)
    np.testing.assert_array_equal(standard[:, 3], 0)  # a dead feature stays dead
    np.testing.assert_allclose(features.rescale(data, pool, "none"), data - pool.mean(0), rtol=1e-5, atol=1e-6)
    white = features.rescale(data, pool, "pca")[:30]
    np.testing.assert_allclose(white.T @ white / 30, np.diag([1, 1, *np.diag(white.T @ white / 30)[2:]]), atol=1e-4)
    changed = np.concatenate([pool, 100 * data[30:]])
    np.testing.assert_array_equal(features.rescale(changed, pool, "standard")[:30], standard[:30])


def test_a_cache_hit_equals_the_cold_run(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)

    cold = cache.cached(tmp_path, {"a": 1}, compute)
    np.testing.assert_array_equal(cache.cached(tmp_path, {"a": 1}, compute), cold)
    assert len(calls) == 1
    cache.cached(tmp_path, {"a": 2}, compute)
    assert len(calls) == 2
    assert len(list(tmp_path.iterdir())) == 2  # and no temporary file


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:60], lambda data: data[:-40],
                                    lambda data: data.replace(b"\x00\x00\x80\x3f", b"\x00\x00\x80\x40", 1),
                                    lambda data: b"PK" + b"\x00" * 50])
def test_a_damaged_cache_is_computed_anew(tmp_path, damage, capsys):
    wanted = np.ones((4, 3), np.float32)
    cache.cached(tmp_path, {}, lambda: wanted)
    file = next(tmp_path.iterdir())
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    np.testing.assert_array_equal(cache.cached(tmp_path, {}, lambda: wanted), wanted)
    assert "damaged feature cache" in capsys.readouterr().err
    assert file.read_bytes() == whole


def test_a_cache_file_of_another_key_or_with_objects_is_not_believed(tmp_path, capsys):
    cache.cached(tmp_path, {"a": 1}, lambda: np.zeros((1, 1), np.float32))
    other = next(tmp_path.iterdir())
    cache.cached(tmp_path, {"a": 2}, lambda: np.ones((1, 1), np.float32))
    mine = next(path for path in tmp_path.iterdir() if path != other)
    mine.write_bytes(other.read_bytes())
    assert cache.cached(tmp_path, {"a": 2}, lambda: np.ones((1, 1), np.float32)).item() == 1
    with open(mine, "wb") as file:
        np.savez(file, features=np.array([{"an": "object"}], dtype=object), key="", sha256="")
    assert cache.cached(tmp_path, {"a": 2}, lambda: np.ones((1, 1), np.float32)).item() == 1
    assert capsys.readouterr().err.count("damaged feature cache") == 2


def test_data_in_another_layout_reach_the_encoder_converted(tmp_path):
    store = annotations.read(made.write(tmp_path / "penn.pkl", layout="penn13"))
    coco = layouts.get("coco17")
    x, valid = next(clips_of(store, layout=coco).inputs(build("stgcn++", coco, width=8)))
    assert x.shape[3] == 17 and valid[:, 0].all() and not valid[:, 1].any()
    eyes = coco.index("left_eye", "right_eye", "left_ear", "right_ear")
    assert (x[..., eyes, -1] == 0).all() and (x[:, 0, :, coco.index("left_wrist")[0], -1] > 0).any()


def test_filled_joints_get_their_score_and_unknown_ones_stay_missing():
    keypoints, scores = torch.randn(2, 1, 6, 3, 2), torch.rand(2, 1, 6, 3) + 0.1
    scores[0, 0, 2:4, 0], scores[1, 0, :, 2] = 0, 0
    points, filled = fill(keypoints, scores, 0.3)
    assert filled[0, 0, 2:4, 0].tolist() == pytest.approx([0.3, 0.3]) and not filled[1, 0, :, 2].any()
    seen = scores > 0
    torch.testing.assert_close(points[seen], keypoints[seen])
    torch.testing.assert_close(filled[seen], scores[seen])
    assert fill(keypoints, scores, 0.0)[1] is scores
