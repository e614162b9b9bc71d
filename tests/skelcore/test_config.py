from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from skelcore import config
from skelcore.errors import InputError


class Optimiser(config.Config):
    rate: float = Field(0.1, description="learning rate")
    name: Literal["sgd", "adamw"] = "sgd"
    title: str = ""


class Source(config.Config):
    path: str
    limit: int | None = None


class Job(config.Config):
    data: str = Field(description="what to read")
    epochs: int = 10
    optimiser: Optimiser = Optimiser()
    sources: list[Source] = Field(default_factory=list)
    shots: tuple[int, ...] = (1, 5)
    note: str | None = None
    either: str | int = 0


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def fails(*args: object, **kwargs: object) -> str:
    with pytest.raises(InputError) as caught:
        config.load(Job, *args, **kwargs)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "data: x.pkl\nepochs: 3\noptimiser: {rate: 0.2}\n")
    job = config.load(Job, path, ["epochs=7", "optimiser.name=adamw", "shots=[2, 3]"])
    assert (job.data, job.epochs, job.shots) == ("x.pkl", 7, (2, 3))
    assert (job.optimiser.rate, job.optimiser.name) == (0.2, "adamw")


def test_an_exponent_without_a_point_is_a_number() -> None:
    assert config.load(Job, None, ["data=x", "optimiser.rate=1e-3"]).optimiser.rate == 1e-3


def test_base_is_relative_to_its_file_and_nests(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, "root.yaml", "data: root\nepochs: 1\noptimiser: {rate: 0.5, name: adamw}\n")
    write(tmp_path, "mid.yaml", "base: root.yaml\nepochs: 2\n")
    top = write(tmp_path / "deep", "top.yaml", "base: ../mid.yaml\noptimiser: {rate: 0.25}\n")
    job = config.load(Job, top)
    assert (job.data, job.epochs, job.optimiser.rate, job.optimiser.name) == ("root", 2, 0.25, "adamw")


def test_base_that_leads_back_or_is_no_name_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "base: b.yaml\ndata: x\n")
    write(tmp_path, "b.yaml", "base: a.yaml\n")
    assert "leads back" in fails(tmp_path / "a.yaml")
    assert "must name a file" in fails(write(tmp_path, "c.yaml", "base: 5\n"))
    assert "gone.yaml" in fails(write(tmp_path, "d.yaml", "base: gone.yaml\n"))


def test_section_is_used_where_the_file_has_it(tmp_path: Path) -> None:
    cluster = write(tmp_path, "cluster.yaml", "max_workers: 3\nmetadata:\n  job: {data: here, epochs: 4}\n")
    assert config.load(Job, cluster, section=("metadata", "job")).epochs == 4
    plain = write(tmp_path, "plain.yaml", "data: there\n")
    assert config.load(Job, plain, section=("metadata", "job")).data == "there"


@pytest.mark.parametrize(("override", "said"), [
    ("epoch=3", "did you mean 'epochs'"),
    ("optimiser.rat=3", "unknown key 'optimiser.rat'; did you mean 'rate'"),
    ("sources=[{pathe: x}]", "did you mean 'path'"),
    ("zzzzzz=3", "see --help"),
    ("epochs=many", "epochs: "),
    ("optimiser.name=adam", "'sgd' or 'adamw'"),
    ("epochs", "must read key=value"),
    ("=3", "must read key=value"),
    ("data=*.tar", "not valid YAML; quote it"),
    ("data.part=3", "data is 'x' already"),
])
def test_wrong_overrides_are_explained(override: str, said: str) -> None:
    assert said in fails(None, ["data=x", override])


def test_missing_value_names_the_field() -> None:
    assert fails(None, ["epochs=12345"]) == "command line: data: field required"


@pytest.mark.parametrize("text", ["2024", "010", "2024-05-01", "2024-05-01 10:00:00", "true", "1.50", "12:30"])
def test_a_text_on_the_command_line_stays_as_it_was_typed(text: str) -> None:
    job = config.load(Job, None, [f"data={text}", f"note={text}", f"optimiser.title={text}"])
    assert (job.data, job.note, job.optimiser.title) == (text, text, text)


def test_only_overrides_of_text_are_taken_as_typed(tmp_path: Path) -> None:
    job = config.load(Job, None, ["data='2024'", "note=null", "either=5", "epochs=7"])
    assert (job.data, job.note, job.either, job.epochs) == ("2024", None, 5, 7)
    assert "epochs: " in fails(None, ["data=x", "epochs=2024-05-01"])
    assert "valid string" in fails(None, ["data=[2024]"])
    assert "valid string" in fails(write(tmp_path, "a.yaml", "data: 2024\n"))


@pytest.mark.parametrize(("text", "said"), [
    ("data: [1\n", "not valid YAML"),
    ("- 1\n- 2\n", "top level"),
    ("data: x\nepochs: 1\nepochz: 2\n", "unknown key 'epochz'; did you mean 'epochs'"),
    ("data: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
])
def test_wrong_files_are_explained(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, "a.yaml", text)
    message = fails(path)
    assert said in message and message.startswith(str(path))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "gone.yaml: cannot read" in fails(tmp_path / "gone.yaml")
    assert "cannot read" in fails(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    assert "not valid YAML" in fails(tmp_path / "binary.yaml")


def test_resolved_yaml_reads_back_equal_and_digest_tells_changes_apart(tmp_path: Path) -> None:
    job = config.load(Job, None, ["data=x", "sources=[{path: a, limit: 2}]", "optimiser.rate=0.3"])
    again = config.load(Job, write(tmp_path, "r.yaml", config.to_yaml(job)))
    assert again == job and config.digest(again) == config.digest(job)
    other = job.model_copy(update={"epochs": 11})
    assert config.digest(other) != config.digest(job)
    assert config.digest(other, {"epochs"}) == config.digest(job, {"epochs"})


def test_schema_lists_nested_keys_with_defaults() -> None:
    text = config.schema(Job)
    for line in ("data: str = required", "what to read", "epochs: int = 10", "optimiser.rate: float = 0.1",
                 "learning rate", "'adamw'"):
        assert line in text


class Circle(config.Config):
    """Round."""

    name: Literal["circle"] = Field("circle", description="a round one")
    radius: float = Field(1.0, gt=0, description="half its width")
    label: str = ""


class Square(config.Config):
    """Angular."""

    name: Literal["square"] = "square"
    side: int = 2
    corners: list[Source] = Field(default_factory=list)


class Drawing(config.Config):
    shape: Annotated[Circle | Square, Field(discriminator="name")] = Circle()
    inner: Circle | None = None
    sources: tuple[Source, ...] = ()


def draws(*overrides: str) -> Drawing:
    return config.load(Drawing, None, overrides)


def test_a_union_is_told_by_its_name_and_takes_the_keys_of_that_kind() -> None:
    assert draws().shape == Circle()
    assert draws("shape.name=square", "shape.side=5").shape == Square(side=5)
    assert draws("shape={name: circle, radius: 2}").shape == Circle(radius=2)
    assert draws("inner.radius=3").inner == Circle(radius=3)
    assert config.load(Drawing, None, ["shape.name=circle", "shape.label=010"]).shape == Circle(label="010")


@pytest.mark.parametrize(("overrides", "said"), [
    (["shape.name=squar"], "shape.name: unknown 'squar'; did you mean 'square'?"),
    (["shape.name=xyz"], "shape.name: unknown 'xyz'; known: circle, square"),
    (["shape.name=square", "shape.sid=3"], "unknown key 'shape.sid'; did you mean 'side'?"),
    (["shape.name=square", "shape.radius=3"], "unknown key 'shape.radius'"),
    (["shape.name=square", "shape.side=long"], "shape.side: input should be a valid integer"),
    (["shape.name=circle", "shape.radius=-1"], "shape.radius: input should be greater than 0 (got -1)"),
    (["shape={name: square, corners: [{path: a}, {pth: b}]}"], "'shape.corners.1.pth'; did you mean 'path'?"),
    (["inner.radus=3"], "unknown key 'inner.radus'; did you mean 'radius'?"),
    (["shape.side=3"], "shape: "),
    (["shape=3"], "shape: "),
])
def test_wrong_members_of_a_union_are_explained_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        draws(*overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_later_files_change_what_earlier_ones_say(tmp_path: Path) -> None:
    write(tmp_path, "root.yaml", "epochs: 1\noptimiser: {rate: 0.5, title: root}\n")
    first = write(tmp_path, "first.yaml", "base: root.yaml\ndata: a\noptimiser: {name: adamw}\n")
    second = write(tmp_path, "second.yaml", "epochs: 2\noptimiser: {rate: 0.25}\n")
    job = config.load(Job, [first, second], ["optimiser.title=typed"])
    assert (job.data, job.epochs) == ("a", 2)
    assert job.optimiser == Optimiser(rate=0.25, name="adamw", title="typed")
    assert config.load(Job, [second, first]).optimiser.rate == 0.5
    assert fails([first, write(tmp_path, "bad.yaml", "epoch: 2\n")]).startswith(f"{first} + {tmp_path / 'bad.yaml'}: ")
    assert "gone.yaml: cannot read" in fails([first, tmp_path / "gone.yaml"])


def test_schema_lists_each_member_of_a_union() -> None:
    text = config.schema(Drawing)
    for line in ("shape.name=circle: Round.", "shape.name=square: Angular.", "shape.radius: float = 1.0",
                 "half its width", "shape.side: int = 2", "sources.path: str = required", "inner.radius: float"):
        assert line in text, text
    assert "tests." not in text and "__main__" not in text


def test_types_are_told_as_a_user_would_write_them() -> None:
    class Settings(config.Config):
        runs: list[list[Annotated[str, Field(min_length=1)]]] | None = None
        counts: Annotated[list[Annotated[int, Field(ge=1)]], Field([1], min_length=1)]
        kind: Literal["a", "b"] = "a"

    text = config.schema(Settings)
    assert "runs: list[list[str]] | None = None" in text and "counts: list[int] = [1]" in text
    assert "kind: Literal['a', 'b'] = 'a'" in text
