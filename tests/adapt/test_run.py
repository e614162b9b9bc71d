import hashlib
import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from adapt import checks, represent, run
from adapt.config import AdaptConfig
from adapt.splits import record
from skelcore import checkpoint
from skelcore import config as configs
from skelcore.encoders import build
from skelcore.seen import seen
from tests.adapt import clips as made
from tests.adapt.test_episodes import Labels
from tests.paths import ROOT

KINDS = ("pretrained", "fused", "scratch", "uncalibrated", "statistics", "raw", "filled")
CONFIG = str(ROOT / "configs/adapt/base.yaml")


def call(*arguments, capsys=None):
    status = run.main([CONFIG, *map(str, arguments)])
    return (status, capsys.readouterr()) if capsys else status


def content(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("methods", ["[finetune]", "[finetune, prototype]"])
def test_finetune_stands_beside_heads_where_it_has_something_to_train(data, weights, tmp_path, methods, capsys):
    status, printed = call(f"data={data}", f"checkpoint={weights}", f"output={tmp_path}", f"methods={methods}",
                           "draws=3", "k_shot=[1, 2]", "tune.draws=2", "tune.steps=2", capsys=capsys)
    assert status == 0, printed.err
    tuned = [row for row in content(tmp_path)["rows"] if row["method"] == "finetune"]
    assert [(row["representation"], row["k"], len(row["accuracy"])) for row in tuned] == [
        ("pretrained", 1, 2), ("pretrained", 2, 2), ("scratch", 1, 2), ("scratch", 2, 2)]
    status, printed = call(f"data={data}", f"checkpoint={weights}", f"output={tmp_path}", "methods=[finetune]",
                           "representations=[raw]", capsys=capsys)
    assert status == 2 and "finetune starts from pretrained or scratch" in printed.err


def test_the_whole_folder_and_its_schema(data, weights, tmp_path, capsys):
    out = tmp_path / "out"
    status, printed = call("--k-shot", 1, 3, f"data={data}", f"checkpoint={weights}", f"output={out}", "draws=4",
                           capsys=capsys)
    assert status == 0, printed.err
    assert {path.name for path in out.iterdir()} == {
        "results.json", "results.md", "results.tex", "report.html", "accuracy.png", "confusion.png", "per_class.png",
        "embedding.png", "pairs.png", "splits.json", "config.yaml", "cache", "board"}
    found = content(out)
    assert set(found) == {"schema", "command", "config", "versions", "benchmark", "data", "checkpoints", "draws",
                          "leakage", "selection", "rows", "differences", "all_labels", "published"}
    assert found["schema"] == 2 and found["config"]["k_shot"] == [1, 3]
    assert found["data"]["support"] == {"split": "train", "clips": 18} and len(found["data"]["fingerprint"]) == 64
    assert found["checkpoints"][0]["spec"]["name"] == "stgcn++" and len(found["checkpoints"][0]["sha256"]) == 64
    assert found["draws"]["seeds"] == [0, 1, 2, 3]
    assert {k: len(set(hashes)) for k, hashes in found["draws"]["sha256"].items()}["3"] == 4
    rows = {(row["representation"], row["method"], row["k"]): row for row in found["rows"]}
    assert set(rows) == {(kind, method, k) for kind in KINDS
                         for method in ("prototype", "ridge", "rbf", "logistic") for k in (1, 3)}
    for (kind, _, _), row in rows.items():
        assert len(row["accuracy"]) == 4 and len(row["inits"]) == (3 if kind in ("scratch", "uncalibrated") else 1)
        assert row["mean"] == pytest.approx(np.mean(row["accuracy"])) == pytest.approx(np.mean(row["inits"]))
    # The class is in the motion of one joint, so raw coordinates tell it from three clips.
    assert rows["filled", "rbf", 3]["mean"] > 0.95
    for each in found["differences"]:
        pair = [np.array(rows[kind, each["method"], each["k"]]["accuracy"])
                for kind in (each["representation"], each["minus"])]
        assert each["mean"] == pytest.approx((pair[0] - pair[1]).mean())
    assert len(found["differences"]) == 2 * 5 * 4 * 2
    assert set(found["all_labels"]) == set(KINDS) and found["all_labels"]["filled"]["linear"] > 0.95
    page = (out / "results.md").read_text()
    assert found["command"] in page and "| pretrained | prototype |" in page and "pretrained" in printed.out
    kept, = record.read(out / "splits.json")  # every hash is verified
    assert kept.sha256["3-shot/2"] == found["draws"]["sha256"]["3"][2] and len(kept.parts["query"]) == 12
    assert found["benchmark"]["sha256"] == hashlib.sha256((out / "splits.json").read_bytes()).hexdigest()


def test_other_splits_than_an_earlier_runs_are_refused(data, weights, tmp_path, capsys):
    arguments = (f"data={data}", "k_shot=[1, 2]", "draws=2", "representations=[raw]", "methods=[prototype]")
    assert call(*arguments, f"output={tmp_path / 'one'}") == 0
    kept = f"same_splits_as={tmp_path / 'one/splits.json'}"
    assert call(*arguments, kept, "--dry-run") == 0
    status, printed = call(*arguments, kept, "seed=1", "--dry-run", capsys=capsys)
    assert status == 2 and "part '1-shot/0' of splits has other clips here" in printed.err
    few = made.write(tmp_path / "few.pkl", train=3)
    status, printed = call(*arguments, kept, f"data={few}", "--dry-run", capsys=capsys)
    assert status == 2 and "the data lack" in printed.err


def test_other_episodes_than_an_earlier_runs_are_refused(tmp_path, capsys):
    arguments = (f"data={made.write(tmp_path / 'clips.pkl', classes=10)}", "benchmark=episodes", "way=2", "episodes=10",
                 "representations=[raw]", "methods=[prototype]", "k_shot=[1]", "episode_queries=2")
    assert call(*arguments, f"output={tmp_path / 'one'}") == 0
    kept = f"same_splits_as={tmp_path / 'one/splits.json'}"
    assert call(*arguments, kept, "--dry-run") == 0
    for change in ("seed=7", "episodes=20", "episode_queries=1", "k_shot=[1, 3]"):
        status, printed = call(*arguments, kept, change, "--dry-run", capsys=capsys)
        assert status == 2 and "its rule is" in printed.err


def test_a_method_that_nothing_takes_is_told_and_pictures_of_an_earlier_run_go(data, tmp_path, capsys):
    status, printed = call(f"data={data}", f"output={tmp_path}", "k_shot=[1]", "draws=2", "representations=[raw]",
                           "methods=[prototype, align]", capsys=capsys)
    assert status == 0 and "nothing here takes align" in printed.out and (tmp_path / "per_class.png").exists()
    many = made.write(tmp_path / "many.pkl", classes=10)
    assert call(f"data={many}", f"output={tmp_path}", "k_shot=[1]", "representations=[raw]", "benchmark=episodes",
                "way=2", "episodes=10", "methods=[prototype]", "episode_queries=2") == 0
    assert not (tmp_path / "per_class.png").exists() and content(tmp_path)["benchmark"]["name"] == "episodes"


def test_clips_seen_in_pretraining_are_told(data, tmp_path, capsys):
    path = tmp_path / "seen.pt"
    for ids, words in ((["clip-0-6", "clip-1-7"], "2 of the 12 queries were in the pretraining data, such as clip-0-6"),
                       ([], "")):
        store = Labels(ids, np.zeros(len(ids), np.int64), [], {})
        checkpoint.save_encoder(path, build("stgcn++", "coco17", width=8), frames=16, stream="joint", seen=seen(store))
        status, printed = call(f"data={data}", f"checkpoint={path}", f"output={tmp_path / 'out'}", "k_shot=[1]",
                               "draws=2", "methods=[prototype]", "representations=[pretrained]", capsys=capsys)
        assert status == 0 and words in printed.out
        assert content(tmp_path / "out")["leakage"] == {"checked": 12, "shared": len(ids), "examples": ids}


def test_episodes_on_novel_classes_have_an_accuracy_each(tmp_path, capsys):
    data = made.write(tmp_path / "clips.pkl", classes=10)
    out = tmp_path / "out"
    status, printed = call(f"data={data}", f"output={out}", "benchmark=episodes", "way=2", "episode_queries=4",
                           "episodes=30", "k_shot=[1, 2]", "methods=[prototype, rectify]",
                           "representations=[statistics, raw]", capsys=capsys)
    assert status == 0, printed.err
    found = content(out)
    assert {(row["method"], row["transductive"]) for row in found["rows"]} == {("prototype", False), ("rectify", True)}
    assert all(len(row["accuracy"]) == 30 and row["per_class"] is None for row in found["rows"])
    assert len(found["data"]["classes"]) == 2 and found["data"]["base"]["clips"] == 60
    assert not (out / "confusion.png").exists() and (out / "report.html").exists()


def test_the_stored_command_reproduces_the_numbers_without_the_cache(data, weights, tmp_path):
    out = tmp_path / "out"
    assert call(f"data={data}", f"checkpoint={weights}", f"output={out}", "k_shot=[2]", "draws=2") == 0
    first = content(out)
    for file in (out / "cache").iterdir():
        file.unlink()
    (out / "results.json").unlink()
    again = subprocess.run([sys.executable, *first["command"].split()[1:]], cwd=ROOT, check=False, capture_output=True)
    assert again.returncode == 0, again.stderr
    assert content(out) == first


def test_a_second_run_uses_the_cache_and_gives_the_same(data, weights, tmp_path, monkeypatch):
    arguments = (f"data={data}", f"checkpoint={weights}", "k_shot=[1, 2]", "draws=2", f"cache={tmp_path / 'cache'}")
    assert call(*arguments, f"output={tmp_path / 'one'}") == 0
    monkeypatch.setattr(represent.features, "encode", None)
    monkeypatch.setattr(represent.features, "coordinates", None)
    assert call(*arguments, f"output={tmp_path / 'two'}", "batch_size=5") == 0
    assert content(tmp_path / "one")["rows"] == content(tmp_path / "two")["rows"]


def test_another_checkpoint_does_not_meet_the_cache_of_the_first(data, weights, tmp_path):
    torch.manual_seed(1)
    other = tmp_path / "other.pt"
    checkpoint.save_encoder(other, build("stgcn++", "coco17", width=8), frames=16, stream="joint")
    for path in (weights, other):
        assert call(f"data={data}", f"checkpoint={path}", f"output={tmp_path / path.stem}", "k_shot=[1]", "draws=2",
                    "representations=[pretrained]", f"cache={tmp_path / 'cache'}") == 0
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_without_a_checkpoint_only_coordinate_rows_and_a_note(data, tmp_path, capsys):
    status, printed = call(f"data={data}", f"output={tmp_path}", "k_shot=[1]", "pool=segments", capsys=capsys)
    assert status == 0
    assert "no checkpoint was given" in printed.out
    found = content(tmp_path)
    assert {row["representation"] for row in found["rows"]} == {"statistics", "raw", "filled"}
    assert found["checkpoints"] == [] and found["differences"] == []


def test_a_checkpoint_of_another_layout_needs_permission(weights, tmp_path, capsys):
    data = made.write(tmp_path / "penn.pkl", layout="penn13")
    arguments = (f"data={data}", f"checkpoint={weights}", f"output={tmp_path / 'out'}", "k_shot=[1]", "draws=2")
    for dry in ([], ["--dry-run"]):
        status, printed = call(*arguments, *dry, capsys=capsys)
        assert status == 2
        assert all(word in printed.err for word in ("coco17", "penn13", "map_layout=true"))
    assert not (tmp_path / "out").exists()
    status, printed = call(*arguments, "map_layout=true", "methods=[prototype]", capsys=capsys)
    assert status == 0
    assert "joints it cannot give: left_eye, right_eye, left_ear, right_ear" in printed.out


@pytest.mark.parametrize(("name", "channels", "pool"), [("x3d-shallow", 17, "segments"), ("transformer", 3, "mean")])
def test_every_family_is_evaluated(data, tmp_path, name, channels, pool):
    path = tmp_path / "other.pt"
    checkpoint.save_encoder(path, build(name, "coco17", channels, 8), frames=16, stream="joint")
    assert call(f"data={data}", f"checkpoint={path}", f"output={tmp_path}", "k_shot=[1]", "draws=2", f"pool={pool}",
                "methods=[prototype]", "representations=[pretrained, scratch]") == 0
    assert {row["representation"] for row in content(tmp_path)["rows"]} == {"pretrained", "scratch"}


def test_a_checkpoint_for_3d_poses_is_refused(data, tmp_path, capsys):
    path = tmp_path / "deep.pt"
    checkpoint.save_encoder(path, build("stgcn++", "coco17", in_channels=4, width=8), frames=16, stream="joint")
    status, printed = call(f"data={data}", f"checkpoint={path}", f"output={tmp_path}", "k_shot=[1]", capsys=capsys)
    assert status == 2 and "reads 4 channels" in printed.err and "2D poses" in printed.err


def test_queries_in_the_pool_are_encoded_once_and_said_to_be_transductive(data, weights, tmp_path, monkeypatch):
    rows = []
    encode = represent.features.encode

    def counted(*arguments):
        rows.append(encode(*arguments))
        return rows[-1]

    monkeypatch.setattr(represent.features, "encode", counted)
    arguments = (f"data={data}", f"checkpoint={weights}", "k_shot=[1]", "draws=2", "representations=[pretrained]")
    for query in ("test", "train"):
        assert call(*arguments, f"query={query}", f"output={tmp_path / query}") == 0
    assert [len(each) for each in rows] == [18 + 12, 18]
    for query, word in (("test", "holds no query: inductive"), ("train", "holds the queries: transductive")):
        assert word in content(tmp_path / query)["data"]["statistics"]
        assert word in (tmp_path / query / "results.md").read_text()


def test_persons_are_the_checkpoints_unless_they_are_named(data, tmp_path, capsys):
    path = tmp_path / "two.pt"
    torch.manual_seed(0)
    encoder = build("stgcn++", "coco17", width=8)
    checkpoint.save_encoder(path, encoder, frames=16, stream="joint", persons=2)
    given = {"data": str(data), "output": str(tmp_path / "out"), "k_shot": [1]}
    for changes, persons in (({"checkpoint": str(path)}, 2), ({"checkpoint": str(path), "persons": 1}, 1), ({}, 1),
                             ({"persons": 3}, 3)):
        config = AdaptConfig(**given, **changes, draws=2)
        task = run.prepare(config)
        assert task.clips.persons == persons and all(each.clips.persons == persons for each in task.clips.sources)
        found, = task.clips.features("raw")
        assert found.shape[1] == persons * (32 + 31) * 17 * 2
    assert call(f"data={data}", f"checkpoint={path}", f"output={tmp_path / 'out'}", "k_shot=[1]", "draws=2",
                "representations=[raw]") == 0
    assert content(tmp_path / "out")["data"]["persons"] == 2
    checkpoint.save_encoder(path, encoder, frames=16, stream="joint", persons=0)
    status, printed = call(f"data={data}", f"checkpoint={path}", "k_shot=[1]", "--dry-run", capsys=capsys)
    assert status == 2 and "`persons`" in printed.err


@pytest.mark.parametrize("field", ["output", "cache"])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300, "sealed/below"])
def test_a_folder_that_cannot_be_written_is_one_line_before_any_work(data, tmp_path, capsys, monkeypatch, field, dry,
                                                                    name):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "sealed").mkdir()
    probe = checks.tempfile.TemporaryFile

    def sealed(dir):  # root may write everywhere, so permissions alone would not refuse
        if dir.name == "sealed":
            raise PermissionError(13, "Permission denied")
        return probe(dir=dir)

    monkeypatch.setattr(checks.tempfile, "TemporaryFile", sealed)
    monkeypatch.setattr(run, "open_store", None)
    settings = {"output": tmp_path / "out", field: tmp_path / name}
    status, printed = call(f"data={data}", "k_shot=[1]", *(f"{key}={value}" for key, value in settings.items()), *dry,
                           capsys=capsys)
    assert status == 2 and printed.err.count("\n") == 1
    assert f"{field}={tmp_path / name}: cannot be written to" in printed.err
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "out").exists()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry"])
@pytest.mark.parametrize(("argument", "message"), [
    ("checkpoint=nowhere.pt", "checkpoint=nowhere.pt: no such file"),
    ("data=nowhere.pkl", "nowhere.pkl: no such file"),
    ("k_shot=[1, 7]", "k_shot=7: class '0' has only 6 labelled videos in split 'train'; lower k_shot to at most 6"),
    ("query=validation", "no split 'validation' in the data; it has: train, test"),
    ("metods=[rbf]", "unknown key 'metods'; did you mean 'methods'?"),
    ("methods=[svm]", "methods.0"),
    ("k_shot=[2, 2]", "lists a value twice"),
    ("draws=1", "draws"),
    ("seed=-1", "seed"),
    ("device=cuda:77", "device=cuda:77: not available"),
    ("representations=[pretrained]", "checkpoint=null leaves no representation"),
    ("methods=[align]", "methods=['align']: none takes statistics, raw, filled on benchmark splits"),
    ("checkpoint=[]", "checkpoint"),
    ("checkpoint=[[]]", "checkpoint"),
    ("checkpoint=[[a.pt, b.pt], [c.pt]]", "different numbers of streams"),
    ("benchmark=ntu60-xsubs", "did you mean 'ntu60-xsub'"),
])
def test_bad_input_is_one_line_and_status_2(data, tmp_path, capsys, argument, message, dry):
    status, printed = call(f"data={data}", f"output={tmp_path / 'out'}", "k_shot=[1]", argument, *dry, capsys=capsys)
    assert status == 2
    assert message in printed.err and printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_checkpoint_and_one_of_another_encoder_are_refused(data, weights, tmp_path, capsys):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"not a checkpoint")
    arguments = (f"data={data}", f"checkpoint={path}", f"output={tmp_path / 'out'}", "k_shot=[1]")
    status, printed = call(*arguments, capsys=capsys)
    assert status == 2 and str(path) in printed.err
    stored = torch.load(weights, weights_only=True)
    checkpoint.save(path, stored | {"spec": stored["spec"] | {"width": 16}})
    status, printed = call(*arguments, capsys=capsys)
    assert status == 2 and "stgcn++" in printed.err
    checkpoint.save(path, stored | {"stream": "smell"})
    status, printed = call(*arguments, capsys=capsys)
    assert status == 2 and "stream=smell" in printed.err and str(path) in printed.err
    checkpoint.save(path, stored | {"spec": stored["spec"] | {"name": "resnet"}})
    status, printed = call(*arguments, capsys=capsys)
    assert status == 2 and "unknown encoder 'resnet'" in printed.err


def test_dry_run_and_help_write_nothing(data, weights, tmp_path, capsys):
    status, printed = call("--k-shot", 1, 5, f"data={data}", f"output={tmp_path / 'out'}", f"checkpoint={weights}",
                           "--dry-run", capsys=capsys)
    assert status == 0 and "10 nested draws of 1, 5 clips a class" in printed.out
    assert "train (18 clips, 3 classes), classifying test (12 clips)" in printed.out
    assert run.main(["--help"]) == 0
    assert "map_layout" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


KINDS_OF_FILES = {"robustness": "adapt.robustness:RobustnessConfig", "metatrain": "adapt.metatrain:MetatrainConfig",
                  "predict": "adapt.predict:PredictConfig"}


@pytest.mark.parametrize("path", sorted((ROOT / "configs/adapt").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_file_is_valid(path):
    module, _, name = KINDS_OF_FILES.get(path.stem, "adapt.config:AdaptConfig").partition(":")
    config = getattr(importlib.import_module(module), name)
    given = [f"{field}=x" for field, about in config.model_fields.items() if about.is_required()]
    given += ["support=x", "checkpoint=x"] if path.stem == "predict" else []  # or else a model
    assert configs.load(config, [path], given)
