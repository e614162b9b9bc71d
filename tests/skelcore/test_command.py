from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Literal

import pytest

from skelcore import command, config
from skelcore.errors import InputError, RunError


class Job(config.Config):
    data: str = "none"
    checkpoint: str | None = None
    k_shot: tuple[int, ...] = (1,)
    names: list[str] | None = None
    mode: Literal["fast", "slow"] = "fast"
    limit: int | None = None


def run(*argv: str, execute: Callable[[Job], None] | None = None) -> tuple[int, list[Job]]:
    seen: list[Job] = []
    status = command.run(argv, Job, "Does things.", lambda job: f"plan for {job.data}", execute or seen.append)
    return status, seen


@pytest.mark.parametrize(("argv", "expected"), [
    (["--k-shot", "1", "5", "10", "checkpoint=x"], {"k_shot": (1, 5, 10), "checkpoint": "x"}),
    (["--k-shot", "5", "--data", "a b.pkl"], {"k_shot": (5,), "data": "a b.pkl"}),
    (["--k-shot=5"], {"k_shot": (5,)}),
    (["--k-shot=[1, 5]"], {"k_shot": (1, 5)}),
    (["--k_shot", "2", "3"], {"k_shot": (2, 3)}),
    (["--names", "one"], {"names": ["one"]}),
    (["--names", "a, b", "c: d"], {"names": ["a, b", "c: d"]}),
    (["--mode", "slow"], {"mode": "slow"}),
    (["--limit", "3"], {"limit": 3}),
    (["k_shot=[7]", "data=s3://bucket/*.tar"], {"k_shot": (7,), "data": "s3://bucket/*.tar"}),
])
def test_arguments(argv: list[str], expected: dict[str, object]) -> None:
    status, (job,) = run(*argv)
    assert status == 0
    assert {key: getattr(job, key) for key in expected} == expected


def test_file_then_overrides(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("data: file\nlimit: 1\n")
    status, (job,) = run("limit=2", str(path))
    assert status == 0 and job.data == "file" and job.limit == 2
    another = tmp_path / "another.yaml"
    another.write_text("limit: 7\n")
    status, (job,) = run(str(path), str(another))
    assert status == 0 and job.data == "file" and job.limit == 7
    assert run(str(path), "another") == (2, [])
    assert "unexpected argument 'another'" in capsys.readouterr().err


def test_default_file_is_read_when_none_is_named(tmp_path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("data: default\n")
    seen: list[Job] = []
    assert command.run([], Job, "", str, seen.append, default_file=str(path)) == 0
    assert seen[0].data == "default"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_shows_the_schema_and_runs_nothing(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gone.yaml", flag) == (0, [])
    shown = capsys.readouterr().out
    assert "Does things." in shown and "k_shot:" in shown


def test_dry_run_shows_configuration_and_plan_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--dry-run", "data=x", "limit=4") == (0, [])
    shown = capsys.readouterr().out
    assert "limit: 4" in shown and "plan for x" in shown


@pytest.mark.parametrize(("argv", "said"), [
    (["--k-shott", "1"], "did you mean 'k_shot'"),
    (["limit=few"], "limit"),
    (["--mode", "medium"], "'fast' or 'slow'"),
    (["--limit"], "option --limit needs a value"),
    (["gone.yaml"], "gone.yaml: cannot read"),
])
def test_bad_input_is_one_line_and_status_2(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argv) == (2, [])
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


@pytest.mark.parametrize(("raised", "status", "said"), [
    (InputError("x.pkl: no"), 2, "error: x.pkl: no\n"),
    (RunError("disk full"), 1, "failed: disk full\n"),
    (KeyboardInterrupt(), 130, "interrupted\n"),
    (MemoryError(), 1, "failed: too little memory; smaller sizes or a smaller batch need less\n"),
    (RuntimeError("[x.cpp:1]\nDefaultCPUAllocator: can't allocate memory: you tried"), 1,
     "failed: too little memory; smaller sizes or a smaller batch need less\n"),
    (RuntimeError("CUDA out of memory."), 1,
     "failed: too little memory; smaller sizes or a smaller batch need less\n"),
])
def test_failures_have_their_status(raised: BaseException, status: int, said: str,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    def execute(job: Job) -> None:
        raise raised

    assert run(execute=execute) == (status, [])
    assert capsys.readouterr().err == said


def test_an_unforeseen_failure_shows_its_traceback_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    def execute(job: Job) -> None:
        raise ZeroDivisionError("surprise")

    assert run(execute=execute) == (1, [])
    error = capsys.readouterr().err
    assert "Traceback" in error and "surprise" in error


def test_a_parsers_errors_and_help_are_those_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    made = command.Parser("job")
    made.add_argument("--size", type=int)
    seen: list[int] = []
    assert made.run(["--size", "3"], lambda arguments: seen.append(arguments.size)) == 0 and seen == [3]
    assert made.run(["--size", "x\n" * 1000], lambda _: pytest.fail("run")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: argument --size: invalid") and error.count("\n") == 1 and len(error) < 330
    assert made.run(["--size", "x", "--help"], lambda _: pytest.fail("run")) == 0
    assert "--size" in capsys.readouterr().out


@pytest.mark.parametrize("flush", [True, False])
def test_a_reader_who_leaves_early_is_no_traceback(flush: bool) -> None:
    code = f"""
import sys
from skelcore import command
sys.stdin.read()
sys.exit(command.guarded(lambda: print("row", flush={flush})))"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b"" and process.wait() == 1
