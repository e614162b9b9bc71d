import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from adapt import benchmarks, published, report, results
from adapt.report import embedding, pairs, plots, render, table, tsne
from adapt.results import Benchmark, Draws, Results
from skelcore.errors import InputError
from tests.adapt import clips as made

REPRESENTATIONS = ("pretrained", "fused", "scratch", "raw")
NASTY = "<script>alert('1')</script> & $x$ | `a_b` \\ {50 %} ~^#"


def rows(representations=REPRESENTATIONS, methods=("prototype", "laplacian"), ks=(1, 5, "10%"), draws=4, classes=3,
         inits=1, seed=0):
    random = np.random.default_rng(seed)
    found = []
    for representation in representations:
        for method in methods:
            for k in ks:
                recalls = random.uniform(0.2, 0.9, (3 if representation == "scratch" else inits, draws, classes))
                accuracy = recalls.mean(2)
                found.append(results.row(representation, method, k, accuracy, accuracy, recalls,
                                         method == "laplacian"))
    return found


def whole(found, folder, names=("a", "b", NASTY), benchmark="splits", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "splits.json").write_text("the split")
    draws = max(len(row.accuracy) for row in found)
    return Results(**{
        "command": "a command", "config": {"k_shot": [1], "draws": draws, "tune": {"steps": 3, "rate": 0.5}},
        "versions": results.versions(), "benchmark": Benchmark.of(benchmark, "a rule", folder / "splits.json"),
        "data": {"classes": list(names), "fingerprint": "f"}, "checkpoints": [],
        "draws": Draws(list(range(draws)), {str(row.k): [f"{row.k}"] * draws for row in found}), "leakage": None,
        "selection": "Nothing was chosen.", "rows": found, "differences": results.differences(found),
        "all_labels": {"raw": {"knn": 0.5, "linear": 0.625}}, "published": published.of(benchmark)} | changes)


def pictures(classes=3, confusion=True):
    random = np.random.default_rng(0)
    labels = np.arange(60) % classes
    counts = random.integers(0, 5, (classes, classes)) + 9 * np.eye(classes, dtype=int)
    return report.Pictures(counts if confusion else None, random.normal(0, 1, (60, 6)) + 5 * labels[:, None], labels,
                           lambda label: made.moving_joint(label % 17, 0))


# the numbers


def test_a_row_holds_what_a_loop_over_draws_and_initialisations_gives():
    random = np.random.default_rng(0)
    accuracy, by_class = random.uniform(size=(2, 5)), random.uniform(size=(2, 5, 3))
    by_class[:, :2, 0], by_class[..., 1] = np.nan, np.nan
    row = results.row("raw", "rbf", "5%", accuracy, accuracy / 2, by_class, True)
    draws = [sum(accuracy[i, d] for i in range(2)) / 2 for d in range(5)]
    assert row.accuracy == pytest.approx(draws)
    assert row.mean == pytest.approx(sum(draws) / 5) and row.mean_class == pytest.approx(row.mean / 2)
    deviation = (sum((each - row.mean) ** 2 for each in draws) / 4) ** 0.5
    assert row.half_width == pytest.approx(student.ppf(0.975, 4) * deviation / 5 ** 0.5)
    inits = [accuracy[0].mean(), accuracy[1].mean()]
    assert row.inits == pytest.approx(inits)
    assert row.seeds_half_width == pytest.approx(student.ppf(0.975, 1) * abs(inits[0] - inits[1]) / 2)
    known = [by_class[i, d, 0] for i in range(2) for d in range(2, 5)]
    assert row.per_class == [pytest.approx(sum(known) / 6), None, pytest.approx(by_class[..., 2].mean())]
    assert row.transductive and row.k == "5%"


def test_a_single_draw_has_no_interval_but_that_of_its_training_seeds():
    alone = results.row("raw", "rbf", 1, np.array([[0.5]]), np.array([[0.5]]))
    assert (alone.half_width, alone.seeds_half_width, alone.band, alone.per_class) == (None, None, None, None)
    seeds = results.row("pretrained", "rbf", 1, np.array([[0.5], [0.6], [0.7]]), np.zeros((3, 1)))
    assert seeds.half_width is None and seeds.band == seeds.seeds_half_width == pytest.approx(0.2484, abs=1e-4)
    difference, = results.differences([seeds, alone])
    assert difference.mean == pytest.approx(0.1) and difference.half_width is None
    assert table.accuracy([seeds, alone])[1:] == [["pretrained", "rbf", "60.0 ± 24.8"], ["raw", "rbf", "50.0"]]


def test_both_learnt_representations_are_set_against_every_control():
    found = results.differences(rows(("pretrained", "fused", "scratch", "uncalibrated", "raw")))
    assert len(found) == 2 * 3 * 2 * 3
    by_name = {(row.representation, row.method, row.k): np.array(row.accuracy)
               for row in rows(("pretrained", "fused", "scratch", "uncalibrated", "raw"))}
    for each in found:
        paired = by_name[each.representation, each.method, each.k] - by_name[each.minus, each.method, each.k]
        assert (each.mean, each.half_width) == pytest.approx(results.interval(paired))


@given(st.lists(st.one_of(st.integers(1, 200), st.integers(1, 99).map("{}%".format)), unique=True))
def test_clips_a_class_come_before_shares_of_the_labels(ks):
    ordered = sorted(ks, key=results.order)
    kinds = [isinstance(k, str) for k in ordered]
    assert kinds == sorted(kinds)
    for kind in (int, str):
        numbers = [int(str(k).rstrip("%")) for k in ordered if isinstance(k, kind)]
        assert numbers == sorted(numbers)


def test_what_is_shown_is_chosen_by_name_and_not_by_accuracy():
    for seed in range(3):
        assert results.shown(rows(methods=("laplacian", "rbf", "ridge"), seed=seed)).name == "pretrained/ridge"
        found = rows(methods=("laplacian", "rbf"), seed=seed)
        assert (results.shown(found).name, results.shown(found).k) == ("pretrained/rbf", "10%")
    assert results.shown(rows(("raw", "filled"), ks=(2, 10))).name == "raw/prototype"
    assert results.shown(rows(ks=(2, 10))).k == 10


def test_results_are_read_as_they_were_written(tmp_path):
    written = whole(rows(), tmp_path, benchmark="ntu120-one-shot", leakage=results.Leakage(5, 1, ["clip"]))
    results.write(tmp_path / "results.json", written)
    assert results.read(tmp_path) == results.read(tmp_path / "results.json") == written
    assert len((tmp_path / "results.json").read_text().splitlines()) > len(written.rows)
    broken = written.model_copy(update={"all_labels": {"raw": {"knn": float("nan")}}})
    with pytest.raises(ValueError, match="JSON compliant"):
        results.write(tmp_path / "other.json", broken)
    assert not (tmp_path / "other.json").exists()


@pytest.mark.parametrize(("change", "message"), [
    (lambda text: None, "cannot read the results: No such file"),
    (lambda text: text[:-20], "the file: Invalid JSON"),
    (lambda text: text.replace('"schema": 2', '"schema": 1'), "schema: Input should be 2"),
    (lambda text: text.replace('"method"', '"metod"'), r"rows\.0\.method: "),
    (lambda text: text.replace('"command"', '"comand"'), "command: Field required"),
    (lambda text: text.replace('"mean": 0', '"mean": "x', 1).replace(', "half', '", "half', 1), r"rows\.0\.mean: "),
])
def test_a_file_that_is_no_results_json_is_one_line(tmp_path, change, message):
    results.write(tmp_path / "results.json", whole(rows(), tmp_path))
    changed = change((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").unlink() if changed is None else (tmp_path / "results.json").write_text(changed)
    with pytest.raises(InputError, match=message) as error:
        results.read(tmp_path)
    assert "\n" not in str(error.value) and "results.json" in str(error.value)


# tables


def test_the_best_inductive_row_of_a_column_is_bold_and_transductive_rows_stand_apart(tmp_path):
    found = rows()
    inductive, transductive = table.blocks(whole(found, tmp_path))
    for column, k in enumerate((1, 5, "10%"), 2):
        best = max((row for row in found if row.k == k and not row.transductive), key=lambda row: row.mean)
        bold = [line for line in inductive.accuracy if isinstance(line[column], render.Best)]
        assert [line[column] for line in bold] == [f"{100 * best.mean:.1f} ± {100 * best.half_width:.1f}"]
        assert not any(isinstance(line[column], render.Best) for line in transductive.accuracy)
    assert [line[1] for line in inductive.accuracy[1:]] == ["prototype"] * 4
    assert [line[1] for line in transductive.accuracy[1:]] == ["laplacian"] * 4
    assert {line[2] for line in inductive.differences[1:]} == {"prototype"}
    assert {line[2] for line in transductive.differences[1:]} == {"laplacian"}


def test_rows_are_grouped_by_representation_and_what_is_missing_is_blank():
    found = rows(("raw", "filled"), ("ridge", "rbf"), ("10%", 5, 1))
    mixed = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    mixed = [row for row in mixed if (row.name, row.k) != ("raw/rbf", 5)]
    lines = table.accuracy(mixed)
    assert lines[0] == ["features", "head", "1-shot", "5-shot", "10 % of labels"]
    names = [line[0] for line in lines[1:]]
    assert set(names[::2]) == {"raw", "filled"} and names[1::2] == ["", ""]
    cells = {}
    for line in lines[1:]:
        name = line[0] or name  # noqa: F821 - the line above
        cells.update({(f"{name}/{line[1]}", k): cell for k, cell in zip((1, 5, "10%"), line[2:], strict=True)})
    assert cells.pop(("raw/rbf", 5)) == ""
    assert cells == {(row.name, row.k): f"{100 * row.mean:.1f} ± {100 * row.half_width:.1f}" for row in mixed}


def test_a_table_in_four_languages():
    lines = [["head", "1-shot"], ["a", render.Best("50.0 ± 1.0")], ["", "4.0 ± 1.0"]]
    assert render.text(lines) == "head       1-shot\na     *50.0 ± 1.0\n        4.0 ± 1.0"
    assert render.markdown(lines).splitlines() == ["| head | 1-shot |", "| --- | ---: |", "| a | **50.0 ± 1.0** |",
                                                   "|  | 4.0 ± 1.0 |"]
    latex = render.latex(lines, 1, "50 % of a_b", "x")
    assert "\\caption{50 \\% of a\\_b}" in latex and "\\begin{tabular}{lr}" in latex
    assert latex.count("\\midrule") == 1 and "a & \\textbf{50.0 $\\pm$ 1.0} \\\\" in latex
    assert "<tr class=group><td class=left>a</td><td><b>50.0 ± 1.0</b></td></tr>" in render.html(lines)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=3))
def test_no_name_breaks_out_of_its_cell(names):
    lines = [["name", "value"], *([name, "1"] for name in names)]
    for line in render.markdown(lines).splitlines():
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3
    assert len(render.markdown(lines).split("\n")) == len(names) + 2
    parsed = Page()
    parsed.feed(render.html(lines))
    assert parsed.tags.count("td") == 2 * len(names) and set(parsed.tags) <= {"div", "table", "tr", "th", "td"}
    latex = re.sub(r"\\text\w+\{\}|\\[&%$#_{}]|\$\\pm\$|\$-\$", "", render._latex("".join(names)))
    assert not set(latex) & set("\\&%$#_{}~^")


# pictures


def test_the_hardest_pairs_are_those_of_a_loop():
    counts = np.random.default_rng(0).integers(0, 20, (7, 7))
    counts[3] = 0  # a class that is never asked
    share = [[counts[i][j] / max(sum(counts[i]), 1) for j in range(7)] for i in range(7)]
    both = sorted(((share[i][j] + share[j][i], i, j) for i in range(7) for j in range(i + 1, 7)), reverse=True)
    found = pairs.hardest(counts, 5)
    assert [(each.one, each.other) for each in found] == [(i, j) for _, i, j in both[:5]]
    assert [(each.forth, each.back) for each in found] == [(share[i][j], share[j][i]) for _, i, j in both[:5]]
    assert pairs.hardest(np.diag([3, 4, 5])) == []


def inside(figure):
    """Whether all that is drawn of a figure lies within it, but for a hundredth of an inch."""
    figure.canvas.draw()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    return min(box.x0, box.y0) > -0.01 and box.x1 < width + 0.01 and box.y1 < height + 0.01


@pytest.mark.parametrize("classes", [2, 45])
def test_nothing_is_cut_off_and_names_are_no_formulas(tmp_path, monkeypatch, classes):
    figures = []
    monkeypatch.setattr(plots, "save", lambda path, figure: figures.append(plots.FigureCanvasAgg(figure).figure))
    monkeypatch.setattr(embedding, "save", plots.save)
    names = [f"{NASTY} $\\frac{i} of a very long name indeed" for i in range(classes)]
    found = rows(("pretrained", "fused", "scratch", "uncalibrated", "statistics", "raw", "filled"),
                 ("prototype", "ridge"), (1, 2, 5, 10, 20, 50, "1%", "5%", "10%"), classes=classes)
    plots.accuracy(tmp_path, found)
    plots.accuracy(tmp_path, [row for row in found if row.k == 1 and row.method == "ridge"])
    plots.confusion(tmp_path, np.eye(classes), names, "pretrained/ridge, 10 % of labels: 50.0 %")
    plots.per_class(tmp_path, found, names)
    shown = pictures(classes)
    embedding.write(tmp_path, shown.features, shown.labels, names, [])
    assert len(figures) == 5
    for figure in figures:
        assert inside(figure)


def test_bars_are_the_recalls_worst_first_and_points_the_controls(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda path, figure: figures.append(figure))
    found = rows(("pretrained", "raw"), ("ridge",), (5,), classes=50)
    plots.per_class(tmp_path, found, [str(i) for i in range(50)])
    panels = figures[0].axes
    widths = [bar.get_width() for panel in panels for bar in panel.patches]
    assert widths == pytest.approx(sorted(100 * np.array(found[0].per_class)))
    names = [int(label.get_text()) for panel in panels for label in panel.get_yticklabels()]
    assert [100 * found[0].per_class[i] for i in names] == pytest.approx(widths)
    points = np.concatenate([panel.lines[0].get_xdata() for panel in panels])
    assert points == pytest.approx([100 * found[1].per_class[i] for i in names])


def test_similarities_have_the_perplexity_that_is_asked():
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (40, 4)))
    p = tsne.similarities(x, 7.0)
    assert float(p.sum()) == pytest.approx(1) and torch.allclose(p, p.T) and not p.diagonal().any()
    for i in (0, 17):  # a naive bisection of the variance of one point
        squared = np.delete(((x - x[i]) ** 2).sum(1).numpy(), i)
        low, high = 1e-6, 1e6
        for _ in range(200):
            precision = (low * high) ** 0.5
            q = np.exp(-(squared - squared.min()) * precision)
            q /= q.sum()
            low, high = (precision, high) if -(q * np.log(q + 1e-300)).sum() > np.log(7.0) else (low, precision)
        other = np.insert(q, i, 0)
        assert (2 * 40 * p[i].numpy() - other >= -1e-9).all()  # what is left is the share of the other points


def test_the_gradient_is_that_of_the_divergence():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(9, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    p = tsne.similarities(torch.randn(9, 3, generator=generator, dtype=torch.float64), 2.0)
    near = 1 / (1 + (y[:, None] - y[None]).square().sum(-1))
    q = (near - torch.eye(9)) / (near - torch.eye(9)).sum()
    loss = torch.special.xlogy(p, p).sum() - torch.special.xlogy(p, q + torch.eye(9)).sum()
    loss.backward()
    assert torch.allclose(tsne._gradient(p, y.detach()), y.grad, atol=1e-10)


def test_clusters_stay_together_in_the_map_the_same_each_time():
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    x = random.normal(0, 0.3, (90, 12)) + 3 * random.normal(0, 1, (3, 12))[labels]
    y = tsne.tsne(x)
    np.testing.assert_array_equal(y, tsne.tsne(x))
    distance = np.linalg.norm(y[:, None] - y[None], axis=-1) + 1e9 * np.eye(90)
    assert (labels[distance.argmin(1)] == labels).all()


@pytest.mark.parametrize(("features", "method"), [(np.eye(4), "PCA"), (np.ones((30, 3)), "PCA"),
                                                  (np.arange(30.0)[:, None], "t-SNE"), (np.eye(30), "t-SNE")])
def test_a_map_of_few_or_equal_or_flat_features(tmp_path, features, method):
    labels = np.arange(len(features)) % 2
    assert embedding.write(tmp_path / "map.png", features, labels, ["a", "b"], []) == (method, len(features))


# pages


class Page(HTMLParser):
    """Counts open tags, and what would be fetched."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.links, self.text = [], [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass

    def handle_data(self, data):
        self.text += data


def test_the_folder_is_whole_and_the_page_needs_nothing_else(tmp_path):
    found = whole(rows(), tmp_path, benchmark="ntu120-one-shot")
    for _ in range(2):  # the second time in place of the first
        printed = report.write(tmp_path, found, ["data: `a <b>`", "a fact"], pictures())
    assert {path.name for path in tmp_path.iterdir()} == {
        "splits.json", "results.md", "results.tex", "report.html", "accuracy.png", "confusion.png", "per_class.png",
        "pairs.png", "embedding.png", "board"}
    text = (tmp_path / "report.html").read_text()
    parsed = Page()
    parsed.feed(text)
    assert parsed.tags.count("img") == 5
    assert all(link.startswith("data:image/png;base64,") for link in parsed.links)
    assert "alert('1')" not in re.sub(r"&#x27;", "'", "".join(re.findall(r"<script>.*?</script>", text, re.S)))
    assert "@import" not in text and "url(" not in text and "<code>a &lt;b&gt;</code>" in text
    markdown = (tmp_path / "results.md").read_text()
    assert "\n## Published by others\n" in markdown and "| APSR | 3D LSTM and text | published |" in markdown
    assert "\n* a fact\n" in markdown and "```\na command\n```" in markdown and "Nothing was chosen." in markdown
    for file in re.findall(r"\]\((\w+\.png)\)", markdown):
        assert (tmp_path / file).read_bytes().startswith(b"\x89PNG")
    tex = (tmp_path / "results.tex").read_text()
    assert tex.count("\\begin{table}") == tex.count("\\end{table}") == 4
    for block in re.findall(r"\\begin{tabular}{(\w+)}(.*?)\\end{tabular}", tex, re.S):
        for line in block[1].split("\n"):
            assert not line.endswith("\\\\") or len(re.findall(r"(?<!\\)&", line)) == len(block[0]) - 1
    assert "features (transductive)" in printed and "a fact" in printed


def test_tensorboard_has_one_row_with_every_accuracy(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = whole(rows(), tmp_path)
    for _ in range(2):
        report.board.write(tmp_path / "board", found)
    assert len(list((tmp_path / "board").iterdir())) == 1
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]} == pytest.approx(
        {f"{row.name}/{row.k}": row.mean for row in found.rows}, rel=1e-6)
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    for word in (b"tune.steps", b"k_shot", b"benchmark", b"splits"):
        assert word in start


def test_the_page_says_what_an_interval_is_of(tmp_path):
    accuracy = np.array([[0.5, 0.6], [0.58, 0.7]])  # means 0.55 and 0.64
    scratch = results.row("scratch", "rbf", 1, accuracy, accuracy)

    def page(*found, **changes):
        report.write(tmp_path, whole(list(found), tmp_path, **changes), [], pictures(confusion=False))
        return (tmp_path / "results.md").read_text()

    text = page(scratch)
    assert "over 2 nested draws of the support" in text and "confusion.png" not in text
    assert "is the mean of 2 initialisations; they lie up to 9.0 points apart" in text
    assert "| raw | 50.0 | 62.5 |" in text and "over training runs or random initialisations" in text
    one = results.row("pretrained", "rbf", 1, accuracy[:1], accuracy[:1])
    assert "over draws of one encoder; another training seed may lie outside it" in page(one)
    three = results.row("pretrained", "rbf", 1, np.full((3, 1), 0.5), np.zeros((3, 1)))
    text = page(three, all_labels={})
    assert "over 3 training seeds" in text and "is the mean of 3 training runs" in text and "all labels" not in text
    assert "over 2 episodes" in page(one, data={"classes": ["a", "b", "c"], "novel": {"clips": 5}})
    few = results.row("pretrained", "finetune", 1, np.full((1, 2), 0.5), np.zeros((1, 2)))
    assert "`finetune`: on the first 2 draws" in page(*rows(), few)


def test_published_figures_are_cited_and_stand_beside_their_own_benchmark_only():
    assert published.of("splits") == published.of("ntu120-one-shot-leak-free") == []
    for name, figures in published._FIGURES.items():
        assert name in benchmarks.BENCHMARKS and figures
        for each in figures:
            assert each.mark in {"published", "unverified", "published, informal"} and each.source
            assert 30 < each.accuracy < 100
    assert max(each.accuracy for each in published.of("ntu120-one-shot")) == 71.6
