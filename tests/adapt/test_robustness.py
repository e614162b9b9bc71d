"""Corrupted clips, and the tables that they lead to, against evaluations of files that were corrupted before."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt import robustness
from adapt.corrupt import Common, Dropped, Substituted, common, drop
from adapt.robustness import RobustnessConfig
from skelcore import annotations, layouts
from skelcore.batches import ClipDataset
from skelcore.errors import InputError
from skelcore.sequence import PoseSequence
from skelcore.store import Store, Subset, open_store
from tests.adapt import clips as made
from tests.paths import ROOT

CONFIG = str(ROOT / "configs/adapt/robustness.yaml")


def clip(persons: int = 1, frames: int = 40, name: str = "clip") -> PoseSequence:
    points = np.random.default_rng(0).uniform(1, 100, (persons, frames, 17, 2))
    return PoseSequence(points, np.full(points.shape[:3], 0.7), layouts.get("coco17"), (480, 640), 15.0, name, 1)


def measured(*arguments) -> dict:
    """Accuracies of the rows of a run, by table, representation, method, support and condition."""
    output = Path(str(arguments[0])) / "out"
    assert robustness.main([CONFIG, f"output={output}", "k_shot=[2]", "draws=4", *map(str, arguments[1:])]) == 0
    rows = json.loads((output / "robustness.json").read_text())["rows"]
    return {(row["table"], row["representation"], row["method"], row["support"], row["condition"]): row for row in rows}


def rewrite(path: Path, store: Store, change) -> Path:
    """The store as a pickle, with its clips changed."""
    annotations.write_pyskl(path, [change(store[i]) for i in range(len(store))], store.splits)
    return path


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 5), st.integers(1, 3))
def test_at_most_one_joint_of_a_person_goes_and_more_go_with_a_larger_probability(low, high, seed, persons):
    whole, (low, high) = clip(persons), sorted((low, high))
    few, many = drop(whole, low, seed), drop(whole, high, seed)
    for each in (few, many):
        lost = each.scores == 0
        assert lost.sum(2).max() <= 1
        assert (each.keypoints[lost] == 0).all() and np.array_equal(each.keypoints[~lost], whole.keypoints[~lost])
        assert np.array_equal(each.scores[~lost], whole.scores[~lost]) and (each.id, each.label) == ("clip", 1)
    assert ((few.scores == 0) <= (many.scores == 0)).all()


def test_the_share_of_frames_and_the_joints_are_as_asked():
    whole = clip(2, 4000)
    for p in (0, 0.125, 0.5, 1):
        lost = drop(whole, p, 0).scores == 0
        assert lost.any(2).mean() == pytest.approx(p, abs=0.02 * (0 < p < 1))
    counts = lost.sum((0, 1))  # 8000 over 17 joints
    assert np.abs(counts - 8000 / 17).max() < 5 * np.sqrt(8000 / 17)
    assert not np.array_equal(lost[0], lost[1])  # every person loses joints of its own


def test_draws_come_from_seed_and_id_alone(data):
    store = open_store(str(data))
    everyone = np.arange(len(store))
    dropped = Dropped(store, everyone, np.ones(len(store)), 3)
    turned = Dropped(store, everyone[::-1], np.ones(len(store)), 3)
    for i in (5, 0, 29):
        assert np.array_equal(dropped[i].scores, turned[len(store) - 1 - i].scores)
    other = Dropped(store, everyone, np.ones(len(store)), 4)
    assert not np.array_equal(dropped[0].scores, other[0].scores)
    assert not np.array_equal(drop(clip(name="a"), 1, 0).scores, drop(clip(name="b"), 1, 0).scores)
    prints = {each.fingerprint for each in (store, Subset(store, everyone), dropped, other, turned,
                                            Dropped(store, everyone, np.full(len(store), 0.5), 3))}
    assert len(prints) == 6


def test_only_clips_with_a_probability_suffer_and_batches_show_it(data):
    store = open_store(str(data))
    affected = np.arange(len(store)) % 2 == 1
    dropped = Dropped(store, np.arange(len(store)), 1.0 * affected, 0)
    before, after = (ClipDataset(each, 24).__getitems__(range(len(store))) for each in (store, dropped))
    lost = ((before.scores > 0) & (after.scores == 0)).flatten(1).sum(1).numpy()
    assert (lost[affected] > 15).all() and (lost[~affected] == 0).all()


def test_substituted_clips_keep_their_names_and_labels_and_take_the_layout(tmp_path):
    store = open_store(str(made.write(tmp_path / "own.pkl", layout="penn13")))
    other = open_store(str(made.write(tmp_path / "other.pkl", layout="coco17")))
    shared, where = common(store, other)
    assert isinstance(shared, Common) and np.array_equal(where, np.arange(len(store)))
    where = np.where(np.arange(len(where)) < 3, where[::-1], -1)  # of other classes, to tell whose label stays
    mixed = Substituted(store, np.arange(len(store)), other, where)
    for i in (0, 2, 3, 29):
        own, found = store[i], mixed[i]
        assert (found.id, found.label, found.layout) == (own.id, own.label, own.layout)
        source = other[int(where[i])].to_layout(own.layout) if i < 3 else own
        assert np.array_equal(found.keypoints, source.keypoints) and np.array_equal(found.scores, source.scores)
    assert mixed.fingerprint != Substituted(store, np.arange(len(store)), other, np.full(len(where), -1)).fingerprint


def test_what_two_stores_have_in_common_and_what_cannot_be_compared(data, tmp_path):
    store = open_store(str(data))
    some = [store[i] for i in (25, 3, 4, 29)] + [replace(store[0], id="stranger")]
    annotations.write_pyskl(tmp_path / "some.pkl", some, {})
    other = open_store(str(tmp_path / "some.pkl"))
    shared, where = common(store, other)
    assert list(shared.ids) == [store.ids[i] for i in (3, 4, 25, 29)] == [other.ids[i] for i in where]
    assert shared.splits == {name: [each for each in ids if each in set(shared.ids)]
                             for name, ids in store.splits.items()}
    annotations.write_pyskl(tmp_path / "deep.pkl", [PoseSequence(
        np.ones((1, 4, 17, 3)), np.ones((1, 4, 17)), layouts.get("coco17"), id=store.ids[0])], {})
    with pytest.raises(InputError, match="3D poses"):
        common(store, open_store(str(tmp_path / "deep.pkl"), "coco17"))
    with pytest.raises(InputError, match="none of its ids, such as 'stranger'"):
        common(store, Subset(other, np.array([4])))


@pytest.mark.parametrize("kind", ["raw", "pretrained"])
def test_rows_equal_an_evaluation_of_files_that_were_corrupted_before(data, weights, tmp_path, kind):
    store = open_store(str(data))
    options = [f"checkpoint={weights}", f"representations=[{kind}]", "methods=[ridge, prototype]"]
    found = measured(tmp_path, f"data={data}", "probabilities=[1]", *options)
    queries = set(store.splits["test"])
    for support, affected in (("clean", queries), ("robust", set(store.ids))):
        path = rewrite(tmp_path / f"{support}.pkl", store, lambda each, affected=affected: drop(
            each, 1.0 * (each.id in affected), 0))
        before = measured(tmp_path / support, f"data={path}", "probabilities=[0]", *options)
        for method in ("ridge", "prototype"):
            row, known = (each["dropped", kind, method, *key] for each, key in (
                (found, (support, 1)), (before, ("clean", 0))))
            assert row["accuracy"] == known["accuracy"]
            whole = found["dropped", kind, method, support, 0]["accuracy"]
            assert row["change"][0] == pytest.approx(np.mean(np.array(row["accuracy"]) - whole))
    assert found["dropped", kind, "ridge", "clean", 0] | {"support": "robust"} == found[
        "dropped", kind, "ridge", "robust", 0]


def test_a_table_of_two_estimators_has_each_support_with_each_query(data, tmp_path):
    store = open_store(str(data))

    def noisy(each: PoseSequence) -> PoseSequence:
        shift = np.random.default_rng(each.label).normal(0, 40, each.keypoints.shape).astype(np.float16)
        return replace(each, keypoints=each.keypoints + shift)

    queries = set(store.splits["test"])
    other = rewrite(tmp_path / "other.pkl", store, noisy)
    options = ["representations=[raw]", "probabilities=[]"]
    found = measured(tmp_path, f"data={data}", f"query_data={other}", *options)
    assert len(found) == 4
    for support in ("clips", "other"):
        for query in ("clips", "other"):
            path = rewrite(tmp_path / "cell.pkl", store, lambda each, support=support, query=query: noisy(each) if
                           (query if each.id in queries else support) == "other" else each)
            known = measured(tmp_path / f"{support}-{query}", f"data={path}", "representations=[raw]",
                             "probabilities=[0]")["dropped", "raw", "ridge", "clean", 0]["accuracy"]
            row, same = (found["estimators", "raw", "ridge", each, query] for each in (support, query))
            assert row["accuracy"] == known
            assert row["change"][0] == pytest.approx(np.mean(np.array(known) - same["accuracy"]))
    page = (tmp_path / "out/robustness.md").read_text()
    assert "| raw/ridge, 2-shot, other support |" in page and "queries: clips" in page
    assert not (tmp_path / "out/robustness.png").exists()


def test_persons_that_are_kept_count(tmp_path):
    clips = []
    for label in range(3):
        for seed in range(6):
            still, moving = made.moving_joint(9, seed), made.moving_joint(label, seed)
            points, scores = (np.concatenate([getattr(each, part) for each in (still, moving)])
                              for part in ("keypoints", "scores"))
            scores[0] = 1  # the one that tells nothing is seen the better, and kept first
            clips.append(replace(moving, keypoints=points, scores=scores))
    splits = {name: [each.id for each in clips if (int(each.id[-1]) < 3) == (name == "train")]
              for name in ("train", "test")}
    annotations.write_pyskl(tmp_path / "two.pkl", clips, splits)
    found = measured(tmp_path, f"data={tmp_path / 'two.pkl'}", "representations=[statistics]", "probabilities=[]",
                     "persons_kept=[1, 2]")
    one, two = (found["persons", "statistics", "ridge", "equal", count] for count in (1, 2))
    assert one["mean"] < 0.7 and two["mean"] > 0.9 and two["change"][0] == pytest.approx(two["mean"] - one["mean"])


def test_queries_that_are_in_the_pool_are_altered_there_alone(data):
    bench = robustness.prepare(RobustnessConfig(data=str(data), support="train", query="train", k_shot=[2], draws=3,
                                                representations=["raw"]))
    used, queries = bench.clips.used, bench.queries
    assert len(used) == 36 and queries.sum() == 18 and bench.clips.learned == 18
    assert list(used.ids)[:18] == list(used.ids)[18:]
    dropped = Dropped(used, np.arange(36), 1.0 * queries, 0)
    assert np.array_equal(dropped[0].scores, used[0].scores) and not np.array_equal(dropped[18].scores, used[18].scores)


def test_the_folder_the_plan_and_the_command(data, weights, tmp_path, capsys):
    options = [CONFIG, f"data={data}", f"checkpoint={weights}", f"output={tmp_path / 'out'}", "draws=3",
               "k_shot=[1, 2]", "probabilities=[0.5]"]
    assert robustness.main([*options, "--dry-run"]) == 0 and not (tmp_path / "out").exists()
    assert "18 clips for support, 12 queries, 3 classes; 3 draws" in capsys.readouterr().out
    assert robustness.main(options) == 0
    printed = capsys.readouterr().out
    assert "fused/ridge, 1-shot, robust support" in printed and "p = 0.5" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cache", "config.yaml", "robustness.json",
                                                                    "robustness.md", "robustness.png"}
    content = json.loads((tmp_path / "out/robustness.json").read_text())
    assert len(content["rows"]) == 5 * 2 * 2 * 2 and len(content["draws"]["sha256"]["1"]) == 3
    assert content["checkpoint"][0]["path"] == str(weights) and content["data"]["query"] == 12
    before = (tmp_path / "out/robustness.json").read_bytes()
    assert robustness.main([str(tmp_path / "out/config.yaml")]) == 0
    assert (tmp_path / "out/robustness.json").read_bytes() == before


@pytest.mark.parametrize(("arguments", "message"), [
    (["methods=[finetune]"], "methods: value error, finetune takes no pooled features"),
    (["probabilities=[1.5]"], "probabilities.0"),
    (["probabilities=[]"], "leaves nothing to measure"),
    (["benchmark=episodes", "way=2", "episode_queries=2"], "not on N-way episodes"),
    (["lists=[{list}]"], "over draws, and there is one"),
    (["query_data=nowhere.pkl"], "nowhere.pkl: no such file"),
    (["query_data={strangers}"], "query_data: none of its ids"),
    (["project=true"], "project=true is for 3D poses"),
    (["representations=[pretrained]"], "checkpoint=null leaves no representation"),
    (["persons_kept=[0]"], "persons_kept.0"),
    (["device=cuda:77"], "device=cuda:77: not available"),
    (["cache=/dev/null/below"], "cache=/dev/null/below: cannot be written to"),
])
def test_bad_input_is_one_line_and_status_2(data, tmp_path, capsys, arguments, message):
    store = open_store(str(data))
    annotations.write_pyskl(tmp_path / "strangers.pkl", [replace(store[0], id="stranger")], {})
    (tmp_path / "list.txt").write_text("clip-0-0\nclip-1-0\nclip-2-0\n")
    words = [each.format(strangers=tmp_path / "strangers.pkl", list=tmp_path / "list.txt") for each in arguments]
    assert robustness.main([CONFIG, f"data={data}", f"output={tmp_path / 'out'}", "k_shot=[1]", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
