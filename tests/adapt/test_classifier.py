"""What a few clips teach: the head against plain loops, its calibration, and the file that holds it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from adapt import calibration
from adapt.classifier import Classifier, Head
from adapt.library import Poses
from adapt.memory import Memory
from adapt.methods import rbf
from skelcore import checkpoint, layouts
from skelcore.batches import ClipDataset
from skelcore.encoders import build
from skelcore.errors import InputError
from tests.adapt.clips import moving_joint


def drawn(labels, width=5, shift=3.0, seed=0):
    """Two blocks of features around the corner of each clip's class."""
    generator = torch.Generator().manual_seed(seed)
    corners = shift * torch.randn(max(labels) + 1, width, generator=generator)
    return [corners[labels] + torch.randn(len(labels), width, generator=generator) for _ in range(2)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "checkpoint.pt"
    torch.manual_seed(0)
    checkpoint.save_encoder(path, build("stgcn++", "coco17", width=8), frames=16, stream="joint", fill=0.3, persons=2)
    return str(path)


def learnt(path, counts=(2, 2, 2), layout="coco17"):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    clips = [moving_joint(label, 10 * label + i, layout) for i, label in enumerate(labels)]
    return Classifier.learn(path, clips, labels, [f"class {label}" for label in range(len(counts))], Poses())


def queries(count=3, classes=3):
    return ([moving_joint(label, 100 + seed) for label in range(classes) for seed in range(count)],
            torch.arange(classes).repeat_interleave(count))


def test_the_head_rescales_each_block_by_the_support():
    labels = torch.tensor([0, 0, 1, 1, 2])
    blocks = [10 * block for block in drawn(labels)]
    head = Head.fit(blocks, one_hot(labels).float())
    wanted = []
    for number, block in enumerate(block.double().numpy() for block in blocks):
        centred = block - block.mean(0)
        if number == 1:
            variance = block.var(0)
            centred /= np.sqrt((5 * variance + 5 * variance.mean()) / 10)
        wanted.append(centred / np.sqrt((centred**2).sum(1).mean()))
    assert np.allclose(head.support, np.concatenate(wanted, 1), atol=1e-5)


def test_novelty_is_measured_by_the_distance_between_classes():
    labels, asked = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 2])
    head = Head.fit(drawn(labels), one_hot(labels).float())
    queries = drawn(asked, seed=3)
    joined = np.concatenate([(block - mean) * scale
                             for block, mean, scale in zip(queries, head.means, head.scales, strict=True)], 1)
    support = head.support.numpy()
    for row, novelty in zip(joined, head(queries)[1], strict=True):
        others = [sorted(((support[i] - support[j])**2).sum() for j in range(4) if labels[j] != labels[i])
                  for i in range(4)]
        apart = [each[(len(each) - 1) // 2] for each in others]  # of two middle values, the lower
        assert novelty == pytest.approx(min(((row - support[i])**2).sum() / apart[i] for i in range(4)), rel=1e-4)


def test_support_clips_are_no_news():
    labels = torch.tensor([0, 0, 1, 1])
    blocks = drawn(labels)
    assert Head.fit(blocks, one_hot(labels).float())(blocks)[1].max() < 1e-6


def test_a_class_of_few_clips_does_not_lose_for_being_few():
    right = {"plain": 0, "ours": 0}
    for seed in range(20):
        labels = torch.tensor([0] + [1] * 8)
        asked = torch.tensor([0] * 10)
        everything = drawn([*labels.tolist(), *asked.tolist()], shift=1.0, seed=seed)
        head = Head.fit([block[:9] for block in everything], one_hot(labels).float())
        scores, _ = head([block[9:] for block in everything])
        right["ours"] += int((scores.argmax(1) == 0).sum())
        right["plain"] += int(((scores + head.targets.mean(0)).argmax(1) == 0).sum())
    assert right["ours"] > right["plain"] + 40  # of 200


def test_equal_counts_leave_the_ranking_of_kernel_ridge_regression():
    labels = torch.tensor([0, 1, 2]).repeat(3)
    head, asked = Head.fit(drawn(labels), one_hot(labels).float()), drawn(labels, seed=1)
    joined = torch.cat([(block - mean) * scale
                        for block, mean, scale in zip(asked, head.means, head.scales, strict=True)], 1)
    plain = rbf.fit(head.support[None], head.targets)(joined)[0]
    assert torch.allclose(head(asked)[0], plain - 1 / 3, atol=1e-6)


def test_folds_leave_out_one_clip_of_every_class_that_has_several():
    found = calibration.folds(torch.tensor([0, 1, 1, 2, 2, 2, 1]))
    assert [fold.tolist() for fold in found] == [[1, 3], [2, 4], [5, 6]]
    assert calibration.folds(torch.tensor([0, 1, 2])) == []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_every_clip_with_company_is_left_out_once(labels):
    folds = calibration.folds(torch.tensor(labels))
    assert sorted(i for fold in folds for i in fold.tolist()) == [
        i for i, label in enumerate(labels) if labels.count(label) > 1]
    for fold in folds:
        chosen = [labels[i] for i in fold.tolist()]
        assert len(set(chosen)) == len(chosen)


def test_calibration_asks_heads_that_have_not_seen_what_is_asked():
    labels, asked = torch.tensor([0, 0, 1, 1, 1]), []

    def fit(kept):
        def answer(fold):
            asked.append((kept.tolist(), fold.tolist()))
            return 0.3 * one_hot(labels[fold], 2), torch.full((len(fold),), 0.5)
        return answer

    found = calibration.calibrate(labels, fit)
    assert asked == [([1, 3, 4], [0, 2]), ([0, 2, 4], [1, 3]), ([0, 1, 2, 3], [4])]
    assert found.left_out == 5 and found.temperature < calibration.TEMPERATURE  # always right, so surer than expected
    assert found.threshold == pytest.approx((5 * (0.75 + 1.7 / 5) + 5 * 0.5) / 10)


def test_one_clip_a_class_leaves_the_priors():
    found = calibration.calibrate(torch.tensor([0, 1]), lambda kept: pytest.fail("nothing to leave out"))
    assert (found.temperature, found.threshold, found.left_out) == (calibration.TEMPERATURE, pytest.approx(1.6), 0)


def test_the_temperature_follows_the_evidence_and_is_right_in_the_long_run():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4000, 3, generator=generator)
    labels = torch.multinomial(torch.softmax(scores / 0.4, 1), 1, generator=generator)[:, 0]
    assert calibration.temperature(scores, labels) == pytest.approx(0.4, rel=0.06)
    few = calibration.temperature(scores[:4], labels[:4])
    assert calibration.TEMPERATURE < few < 0.4


@pytest.mark.parametrize("counts", [(1, 1), (1, 3, 2), (5, 6)])
def test_the_file_predicts_exactly_the_same(encoder, tmp_path, counts):
    model = learnt(encoder, counts)
    model.save(tmp_path / "model.pt")
    loaded = Classifier.load(str(tmp_path / "model.pt"))
    clips, _ = queries(classes=len(counts))
    for ours, theirs in zip(model(clips), loaded(clips), strict=True):
        assert torch.equal(ours, theirs)
    assert (loaded.classes, loaded.poses, loaded.window, loaded.calibration, loaded.pool) == (
        model.classes, model.poses, model.window, model.calibration, "parts" if min(counts) >= 5 else "mean")


def test_classes_are_told_apart_and_probabilities_add_up(encoder):
    clips, truth = queries()
    probabilities, novelty = learnt(encoder)(clips)
    assert (probabilities.argmax(1) == truth).float().mean() > 0.85
    assert torch.allclose(probabilities.sum(1), torch.ones(len(clips))) and (novelty >= 0).all()


def test_an_answer_does_not_depend_on_the_other_queries(encoder):
    model, (clips, _) = learnt(encoder), queries()
    together, novelty = model(clips)
    alone, news = model(clips[4:5])
    assert torch.allclose(together[4:5], alone, atol=1e-5) and torch.allclose(novelty[4:5], news, atol=1e-5)


def test_what_moves_like_nothing_known_is_unknown(encoder):
    model = learnt(encoder, (3, 3, 3))
    clips, _ = queries()
    stranger = moving_joint(0, 5)
    wild = replace(stranger, keypoints=np.random.default_rng(0).uniform(0, 400, stranger.keypoints.shape))
    known, news = model(clips)[1], model([wild])[1]
    assert known.median() < 1 < news


def test_poses_of_another_layout_are_converted_and_strange_ones_refused(tmp_path):
    for layout in ("penn13", "hand21"):
        checkpoint.save_encoder(tmp_path / f"{layout}.pt", build("stgcn++", layout, width=8), frames=16, stream="joint")
    assert learnt(str(tmp_path / "penn13.pt")).source.note.startswith("note: the data's layout coco17 is mapped")
    with pytest.raises(InputError, match=r"coco17 gives no joint of its layout hand21|wrist"):
        learnt(str(tmp_path / "hand21.pt"))


def test_a_checkpoint_is_no_model_and_damage_is_told(encoder, tmp_path):
    with pytest.raises(InputError, match=r"model=.*no model of `skelshot predict`"):
        Classifier.load(encoder)
    model = learnt(encoder)
    model.save(tmp_path / "model.pt")
    contents = checkpoint.load(tmp_path / "model.pt")
    head = contents["classifier"]["head"]
    for change in ({"classes": ["a"]}, {"head": {**head, "support": head["support"][:2]}}, {"window": 0.0},
                   {"head": {"means": []}}, {"calibration": {"heat": 1.0}}, {"poses": {"fps": -1}}, {"pool": 3},
                   {"pool": "parts"}, {"head": {**head, "support": head["support"] * torch.nan}}):
        broken = {**contents, "classifier": contents["classifier"] | change}
        checkpoint.save(tmp_path / "broken.pt", broken)
        with pytest.raises(InputError, match="model="):
            Classifier.load(str(tmp_path / "broken.pt"))


def test_memory_is_a_store():
    clips = [moving_joint(0, 0), moving_joint(1, 1)]
    store = Memory(clips, layouts.get("coco17"))
    assert len(ClipDataset(store, 8)) == 2 and store[1] is clips[1]
    assert store.fingerprint != Memory(clips[:1], store.layout).fingerprint
    assert store.fingerprint == Memory([moving_joint(0, 0), moving_joint(1, 1)], store.layout).fingerprint
