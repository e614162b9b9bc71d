import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from adapt import compare, paired, results
from skelcore.errors import InputError
from tests.adapt.test_report import rows, whole


def run(folder, seed=0, change=lambda content: None, **options):
    """Write a run's results.json, after a change to what it holds."""
    results.write(folder / "results.json", whole(rows(seed=seed, **options), folder))
    content = json.loads((folder / "results.json").read_text())
    change(content)
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def accuracies(folder):
    return {(row.name, row.k): np.array(row.accuracy) for row in results.read(folder).rows}


@given(st.lists(st.floats(0, 1), max_size=6).map(np.array))
def test_holm_is_the_closed_test_by_bonferroni(p):
    """The corrected p of a difference is the largest Bonferroni p over all sets of differences that it is in."""
    corrected = paired.holm(p)
    for i in range(len(p)):
        sets = [chosen for size in range(1, len(p) + 1) for chosen in itertools.combinations(range(len(p)), size)
                if i in chosen]
        assert corrected[i] == pytest.approx(max(min(1, len(chosen) * min(p[j] for j in chosen)) for chosen in sets))


def test_holm_of_a_known_example():
    assert paired.holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_differences_are_paired_t_tests_of_what_both_runs_have(tmp_path):
    one = run(tmp_path / "one", ks=(1, 5))
    two = run(tmp_path / "two", seed=1, ks=(5, 10), representations=("pretrained", "raw", "filled"))
    found = paired.differences(paired.read([one, two]))
    first, second = accuracies(one), accuracies(two)
    assert {(each.name, each.k) for each in found} == first.keys() & second.keys() and len(found) == 4
    p = []
    for each in found:
        a, b = second[each.name, each.k], first[each.name, each.k]
        assert (each.mean, each.half_width) == pytest.approx(results.interval(a - b))
        p.append(stats.ttest_rel(a, b).pvalue)
    assert [each.p for each in found] == pytest.approx(paired.holm(np.array(p)))
    assert {each.run for each in found} == {"two"}


def test_equal_rows_and_rows_of_other_or_single_draws_have_no_difference(tmp_path):
    def fewer(content):
        for row in content["rows"]:
            if row["method"] == "prototype":
                row["accuracy"] = row["accuracy"][:2]

    assert paired.differences(paired.read([run(tmp_path / "a"), run(tmp_path / "b")])) == []
    found = paired.differences(paired.read([tmp_path / "a", run(tmp_path / "c", seed=1, change=fewer)]))
    assert {each.name.partition("/")[2] for each in found} == {"laplacian"}
    alone = paired.read([run(tmp_path / "d", draws=1), run(tmp_path / "e", draws=1, seed=1)])
    assert alone[1].unlike is None and paired.differences(alone) == []


def replace(*path, by):
    def change(content):
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = by
    return change


@pytest.mark.parametrize(("change", "reason"), [
    (replace("benchmark", "name", by="penn"), "benchmark penn, not splits"),
    (replace("data", "fingerprint", by="g"), "other data"),
    (replace("data", "classes", by=["a", "b", "d"]), "other classes"),
    (replace("data", "query", by={"split": "val", "clips": 3}), "other queries"),
    (replace("draws", "sha256", "5", by=["x"] * 4), "their sha256 differ at k = 5"),
    (replace("draws", "sha256", by={"7": ["x"]}), "no k in common"),
])
def test_runs_that_cannot_be_compared_are_marked_with_the_reason(tmp_path, change, reason, capsys):
    one, two, three = run(tmp_path / "one"), run(tmp_path / "two", 1, change), run(tmp_path / "three", 2)
    assert compare.main([str(one), str(two), str(three), f"output={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out
    assert "† two: not comparable: " in printed and reason in printed
    assert "two †" in printed and "three †" not in printed
    runs = paired.read([one, two, three])
    assert {each.run for each in paired.differences(runs)} == {"three"}
    for lines in (lines for _, lines in compare._tables(runs)):
        assert not any(isinstance(cell, compare.render.Best) for line in lines if line[2] == "two †" for cell in line)
    assert "two †" in (tmp_path / "out/compare.md").read_text()


def test_where_draws_leave_the_queries_another_largest_k_asks_others(tmp_path):
    def same_split(content):
        content["data"] |= {"support": {"split": "all", "clips": 9}, "query": {"split": "all", "clips": 9}}

    one, two = (run(tmp_path / f"{ks}", change=same_split, ks=ks) for ks in ((1, 5), (1, 10)))
    assert "the largest k leaves" in paired.read([one, two])[1].unlike
    assert paired.read([one, run(tmp_path / "other", 1, same_split, ks=(1, 5))])[1].unlike is None


def test_the_folder_holds_table_latex_and_picture(tmp_path, capsys):
    folders = [run(tmp_path / name / "result_s", seed) for seed, name in enumerate(("a", "b"))]
    words = [str(folders[0]), str(folders[1] / "results.json")]
    assert compare.main([*words, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    text, tex = ((tmp_path / "out" / name).read_text() for name in ("compare.md", "compare.tex"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"compare.md", "compare.tex", "compare.png"}
    assert "a/result_s" in printed and "| b/result\\_s |" in text and "b/result\\_s" in tex
    best = max((row for folder in folders for row in results.read(folder).rows if not row.transductive and row.k == 1),
               key=lambda row: row.mean)
    assert f"**{100 * best.mean:.1f} ± {100 * best.half_width:.1f}**" in text
    inductive, transductive = compare._tables(paired.read(folders))
    assert (inductive[0], transductive[0]) == (True, False)
    assert {line[1] for line in inductive[1][1:]} <= {"prototype", ""}
    assert {line[1] for line in transductive[1][1:]} <= {"laplacian", ""}
    assert [line[2] for line in inductive[1][1:]] == ["a/result_s", "b/result_s"] * 4
    assert "(p = " in text and (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_is_of_encoders_if_there_are_any(tmp_path):
    runs = paired.read([run(tmp_path / "a"), run(tmp_path / "b", 1)])
    assert list(compare._panels(runs)) == ["pretrained/prototype", "pretrained/laplacian (transductive)",
                                           "fused/prototype", "fused/laplacian (transductive)"]
    runs = paired.read([run(tmp_path / "c", representations=("raw",)), run(tmp_path / "d", representations=("raw",))])
    assert list(compare._panels(runs)) == ["raw/prototype", "raw/laplacian (transductive)"]


def test_bad_words_are_one_line_and_status_2(tmp_path, capsys):
    one = run(tmp_path / "one")
    old = run(tmp_path / "old", change=replace("schema", by=1))
    for words, message in (([], "RUN"), ([one], "at least two runs"), ([one, one], "named twice"),
                           ([one, tmp_path / "none"], "cannot read the results"), ([one, old], "schema"),
                           ([one, "colour=red"], "colour=red: cannot read")):
        assert compare.main(list(map(str, words))) == 2
        printed = capsys.readouterr().err
        assert message in printed and printed.count("\n") == 1
    assert compare.main(["--help"]) == 0
    with pytest.raises(InputError, match="twice"):
        paired.read([one, one])
