"""Recipes: every one that is listed plans, every other is refused with its reason, and names agree with contents."""

import itertools
from pathlib import Path

import pytest
import yaml

from pretrain import recipes, run
from pretrain.config import PretrainConfig
from pretrain.objectives import OBJECTIVES
from skelcore import cli
from skelcore.config import load
from skelcore.encoders import ENCODERS
from skelcore.errors import InputError

PARTS = {kind: recipes.names(kind) for kind in ("objective", "encoder", "size")}
SCALES = {"tiny": 0.25, "small": 0.5, "full": 1.0}


def recipe(objective: str, encoder: str, size: str, *overrides: str) -> PretrainConfig:
    files = [f"{objective}.yaml", f"encoder/{encoder}.yaml", f"size/{size}.yaml"]
    return load(PretrainConfig, [recipes.CONFIGS / file for file in files], ["output=unused", *overrides])


def test_every_objective_has_a_file_and_the_issues_encoders_and_sizes_are_there() -> None:
    assert PARTS["objective"] == list(OBJECTIVES)
    assert PARTS["encoder"] == sorted(["stgcn++", "ctrgcn", "posec3d", "x3d-shallow", "transformer"])
    assert PARTS["size"] == sorted(SCALES)


@pytest.mark.parametrize("kind", PARTS)
def test_names_agree_with_contents(kind: str) -> None:
    for name in PARTS[kind]:
        path = recipes.CONFIGS / ("" if kind == "objective" else kind) / f"{name}.yaml"
        content = yaml.safe_load(path.read_text())
        named = content["encoder"]["scale"] if kind == "size" else content[kind]["name"]
        assert named == (SCALES[name] if kind == "size" else name)


def test_every_combination_resolves_to_what_its_files_name() -> None:
    for objective, encoder, size in itertools.product(*PARTS.values()):
        found = recipe(objective, encoder, size, "data=procedural:64")
        assert (found.objective.name, found.encoder.name) == (objective, encoder)
        assert abs(found.encoder.channels - ENCODERS[encoder].WIDTH * SCALES[size]) <= 4  # a multiple of 8
        last = yaml.safe_load((recipes.CONFIGS / f"size/{size}.yaml").read_text())
        assert all(getattr(found, key) == last[key] for key in ("frames", "batch_size", "epochs") if key in last)


@pytest.mark.parametrize("objective", PARTS["objective"])
def test_every_listed_recipe_plans_and_no_other(objective: str, poses: Path) -> None:
    """At the smallest width: the same parts, built within a second."""
    for encoder in PARTS["encoder"]:
        found = recipe(objective, encoder, "tiny", f"data={poses}", "encoder.width=8", "epochs=3", "batch_size=20")
        partners = [(each.name, each.stream) for each in getattr(found.objective, "partners", [])]
        if not recipes.fits(objective, encoder):
            with pytest.raises(InputError, match=f"{objective} does not train encoder .*: {OBJECTIVES[objective].why}"):
                run.plan(found)
        elif (encoder, "joint") in partners:
            with pytest.raises(InputError, match=f"{encoder} reads joint already; choose another encoder"):
                run.plan(found)
        else:
            assert f"{objective}: 6 steps of 20 clips" in run.plan(found)


@pytest.mark.parametrize("stream", ["bone", "joint_motion", "joint_bone"])
def test_streams_plan_where_they_are_listed(stream: str, poses: Path) -> None:
    for encoder in PARTS["encoder"]:
        found = recipe("vicreg", encoder, "tiny", f"data={poses}", f"stream={stream}", "encoder.width=8")
        heatmaps = encoder in ("posec3d", "x3d-shallow")
        if stream == "bone" or heatmaps == (stream == "joint_bone"):
            run.plan(found)
        else:
            with pytest.raises(InputError, match=stream):
                run.plan(found)


def test_the_list_names_all_of_them_and_why_some_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrain", "--list"]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    for objective in PARTS["objective"]:
        assert lines[objective] == [encoder for encoder in PARTS["encoder"] if recipes.fits(objective, encoder)]
    assert lines["masked_motion"] == ["transformer"]
    assert lines["sizes"] == PARTS["size"]
    assert OBJECTIVES["masked_motion"].why in recipes.listing()
