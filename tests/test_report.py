"""Reports: exact numbers from hand-made runs, missing shown as missing, a page that a real browser shows without a network."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pruning.plan import SCHEMA, PlanError
from pruning.study import report
from pruning.study.report import groups, plots, reported, rows, tables
from pruning.study.report.page import STYLE
from pruning.study.spread import Spread, spread

SUMMARY = {
    "schema": SCHEMA, "model": "lenet-5", "data": "digits", "device": "cpu", "backend": "reference", "epochs": 2, "loss": 0.1,
    "params": 100, "nonzero": 50, "macs": 1000, "sparse_macs": 500, "speedup": 2.0, "seconds": 1.0, "images_per_second": 5.0,
}  # fmt: skip


def write(folder: Path, settings: dict[str, Any], parent: str | None, **summary: Any) -> str:
    folder.mkdir(parents=True)
    record = {"schema": SCHEMA, "settings": settings, "parent": parent, "digest": "0", "code": {}, "data_dir": None}
    (folder / "phase.json").write_text(json.dumps(record))
    (folder / "env.json").write_text(json.dumps({"schema": SCHEMA, "torch": "2.15", "threads": 1, "device": "cpu"}))
    if summary:
        (folder / "summary.json").write_text(json.dumps({**SUMMARY, "phase": settings["phase"], **summary}))
    log = [{"epoch": e, "val_accuracy": 0.5 + e / 10, "train_accuracy": 0.4} for e in (1, 2)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return folder.name


TECHNIQUES, SPARSITIES, EPOCHS, SEEDS = ("fine-tune", "lr-rewind"), (0.5, 0.8, 0.9), (2, 4), (0, 1, 2)


def accuracy(technique: str, sparsity: float, epochs: int, seed: int) -> float:
    """Returns made-up accuracies: rewinding is better, and 4 epochs but for fine-tuning at 90 %."""
    late = epochs == 4 and not (technique == "fine-tune" and sparsity == 0.9)
    return round(0.95 - sparsity / 10 + 0.01 * (technique == "lr-rewind") + 0.02 * late + 0.001 * seed, 6)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the record of a study of 36 results, one of which is missing."""
    out = tmp_path_factory.mktemp("studied")
    points = []
    for seed in SEEDS:
        facts = {"accuracy": 0.97, "val_accuracy": 0.96, "sparsity": 0.0, "compression": 1.0, "seed": seed}
        settings = {"phase": "train", "model": "lenet-5", "data": "digits"}
        root = write(out / f"train-{seed}", settings, None, **facts, layers={"a": [60, 60], "b": [40, 40]})
        for s in SPARSITIES:
            pruned = write(out / f"prune-{seed}-{s}", {"phase": "prune", "sparsity": s}, root,
                           accuracy=0.5, val_accuracy=0.5, sparsity=s, compression=1 / (1 - s), seed=seed, layers={})  # fmt: skip
            for t in TECHNIQUES:
                for e in EPOCHS:
                    name = f"retrain-{seed}-{s}-{t}-{e}"
                    value = accuracy(t, s, e, seed)
                    facts = {} if (seed, s, t, e) == (2, 0.9, "fine-tune", 4) else {
                        "accuracy": value, "val_accuracy": value - 0.01, "sparsity": s, "compression": 1 / (1 - s), "seed": seed,
                        "speedup": 1 / (1 - s), "layers": {"a": [30, 60], "b": [10, 40]},
                    }  # fmt: skip
                    write(out / name, {"phase": "retrain", "technique": t, "epochs": e}, pruned, **facts)
                    goal = {"sparsity": s, "cycles": 1, "retrain_epochs": e}
                    labels = {"technique": t, "prune.sparsity": s, "retrain.epochs": e}
                    points.append(
                        {
                            "labels": labels,
                            "seed": seed,
                            "runs": [root, pruned, name],
                            "results": [name],
                            "goals": [goal],
                        }
                    )
    record = {
        "schema": SCHEMA, "study": "made-up", "title": "A study <made> & up", "summary": "", "citation": "after Nobody 2020",
        "source": "Figure 9", "notes": "", "convention": "median", "best_over": ["retrain.epochs"],
        "figures": ["accuracy-retraining"], "scale": 0.05, "points": points,
        "axes": {"technique": list(TECHNIQUES), "prune.sparsity": list(SPARSITIES), "retrain.epochs": list(EPOCHS)},
    }  # fmt: skip
    (out / "studies").mkdir()
    (out / "studies" / "made-up.json").write_text(json.dumps(record))
    return out


@pytest.fixture(scope="module")
def section(studied: Path) -> report.Section:
    return report.sections([studied])[0]


# --- numbers ----------------------------------------------------------------------------------------------------


def test_spread_by_both_conventions() -> None:
    assert spread([], "median") is None
    assert spread([3.0, 1.0, 2.0], "median") == Spread(3, 2.0, 1.0, 3.0)
    mean = spread([1.0, 3.0], "mean")
    assert mean is not None
    assert (mean.n, mean.middle, round(mean.half, 6)) == (2, 2.0, 1.414214)
    assert spread([1.0], "mean") == Spread(1, 1.0, 1.0, 1.0, None)


def test_groups_hold_one_result_per_seed(section: report.Section) -> None:
    found = groups.groups(section)
    assert len(found) == 12
    assert {group.expected for group in found} == {3}
    assert {(g.series, g.sparsity, g.retrain_epochs): len(g.done) for g in found}["fine-tune", 0.9, 4] == 2


def test_best_over_retraining_times_is_chosen_by_validation(section: report.Section) -> None:
    chosen = {(g.series, g.sparsity): g.retrain_epochs for g in groups.envelope(section)}
    assert chosen == {(t, s): 2 if (t, s) == ("fine-tune", 0.9) else 4 for t in TECHNIQUES for s in SPARSITIES}


def test_matrix_is_exact_and_shows_what_is_missing(section: report.Section) -> None:
    table = tables.matrix(section)
    assert table.columns == ["", "50.00 %, 2 epochs", "50.00 %, 4 epochs", "80.00 %, 2 epochs", "80.00 %, 4 epochs",
                             "90.00 %, 2 epochs", "90.00 %, 4 epochs"]  # fmt: skip
    assert table.rows[0][1] == "90.10 (90.00 to 90.20), n = 3"
    assert table.rows[0][6] == "86.05 (86.00 to 86.10), n = 2 of 3"
    assert table.rows[1][6] == "89.10 (89.00 to 89.20), n = 3"


def test_a_combination_without_any_result_is_missing(section: report.Section) -> None:
    gone = [rows.Row(**{**vars(r), "summary": None}) if r.sparsity == 0.8 else r for r in section.rows]
    table = tables.matrix(rows.Section(section.name, section.title, gone, section.axes))
    assert table.rows[0][3:5] == [tables.MISSING, tables.MISSING]
    assert 'class="missing">missing</td>' in table.html()


def test_results_state_density_compression_and_speedup(section: report.Section) -> None:
    table = tables.results(section)
    line = next(row for row in table.rows if row[:2] == ["lr-rewind", "80.00"] and row[4] == "4")
    assert line == ["lr-rewind", "80.00", "20.00", "5.00", "4", "1", "3", "90.10 (90.00 to 90.20)", "89.10 (89.00 to 89.20)",
                    "5.00 (5.00 to 5.00)", "500"]  # fmt: skip


def test_an_axis_that_is_tuned_leaves_the_lines(section: report.Section) -> None:
    decays = [1e-4, 5e-4]
    both = [
        rows.Row(**{**vars(r), "labels": {**r.labels, "train.weight_decay": d}, "summary": {**r.summary, "val_metric": d * 100}})
        for r in section.rows if r.summary for d in decays
    ]  # fmt: skip
    wide = rows.Section(
        "x", "x", both, {**section.axes, "train.weight_decay": decays}, best_over=("train.weight_decay",)
    )
    assert {g.series for g in groups.groups(wide)} == {f"{t}, weight_decay {d}" for t in TECHNIQUES for d in decays}
    assert {(g.series, g.chosen) for g in groups.tuned(wide)} == {(t, "0.0005") for t in TECHNIQUES}


def test_reported_numbers_stand_beside_ours_in_units_of_the_spread(section: report.Section) -> None:
    number = lambda **more: reported.Reported(**{  # noqa: E731
        "source": "X, Table 1", "study": "made-up", "series": "lr-rewind", "sparsity": 0.8, "retrain_epochs": "4", "cycles": None,
        "metric": "accuracy", "value": 90.0, "spread": None, "n": "3", **more,
    })  # fmt: skip
    told = [number(value=90.05), number(value=90.25), number(value=95.0, spread=0.5), number(metric="speedup", value=5.0),
            number(sparsity=0.99), number(value=90.05, retrain_epochs="best"),
            number(series="fine-tune", sparsity=0.9, retrain_epochs="best")]  # fmt: skip
    table = reported.compare(section, told)
    assert table is not None
    assert [row[8] for row in table.rows] == ["+0.05", "-0.15", "-4.90", "+0.00", "", "+0.05", "-3.90"]
    assert [row[9] for row in table.rows] == ["+0.5", "-1.5", "-9.6", "", "", "+0.5", "-39.0"]
    assert table.rows[4][7] == tables.MISSING
    assert [table.marks.get((i, 9)) for i in range(7)] == ["inside", "near", "outside", None, None, "inside", "outside"]
    assert reported.compare(section, []) is None


# --- reading ----------------------------------------------------------------------------------------------------


def test_runs_without_a_study_are_told_apart_by_what_differs(studied: Path, tmp_path: Path) -> None:
    for folder in studied.iterdir():
        if folder.name != "studies":
            shutil.copytree(folder, tmp_path / folder.name)
    plain = report.sections([tmp_path])[0]
    assert plain.axes == {"retrain.technique": list(TECHNIQUES)} or set(plain.axes) == {"retrain.technique"}
    assert len(plain.rows) == 35
    assert {(r.sparsity, r.retrain_epochs) for r in plain.rows} == {(s, e) for s in SPARSITIES for e in EPOCHS}
    one = report.sections([tmp_path / "retrain-0-0.5-lr-rewind-2"])[0]
    assert [(r.run, r.sparsity) for r in one.rows] == [("retrain-0-0.5-lr-rewind-2", 0.5)]


def test_bad_input_is_refused_by_name(studied: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="'no-such' does not exist"):
        report.sections([Path("no-such")])
    with pytest.raises(PlanError, match="has no study 'made-upp' .did you mean 'made-up'"):
        report.sections([studied], "made-upp")
    with pytest.raises(PlanError, match="nothing to report"):
        report.sections([tmp_path])


@pytest.mark.parametrize(
    "file", ["studies/made-up.json", "retrain-0-0.5-lr-rewind-2/summary.json", "train-0/phase.json"]
)
def test_another_schema_is_refused_and_never_misread(studied: Path, tmp_path: Path, file: str) -> None:
    out = tmp_path / "copy"
    shutil.copytree(studied, out)
    path = out / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 0}))
    with pytest.raises(PlanError, match=r"has schema 0; this version reads schema"):
        report.sections([out])


# --- the page ---------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects what a page holds and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.described: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [str(given["id"])] if "id" in given else []
        self.described += [str(given.get("aria-labelledby"))] if tag == "svg" else []
        for key in ("src", "href", "xlink:href", "data", "action"):
            if (value := given.get(key)) and not value.startswith("#"):
                self.fetched.append(value)


@pytest.fixture(scope="module")
def made(studied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    out = tmp_path_factory.mktemp("report")
    told = report.write_report([studied], out)
    assert (told["runs"], told["missing"], told["notes"]) == (35, 1, [])
    return out


def test_the_page_fetches_nothing_and_describes_every_figure(made: Path) -> None:
    text = (made / "index.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.fetched == []
    assert not {"script", "link", "iframe", "object", "img"} & set(reader.tags)
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.tags.count("svg") == reader.tags.count("figure") == 8
    assert all(part in reader.ids for pair in reader.described for part in pair.split())
    assert "A study &lt;made&gt; &amp; up" in text
    assert "SHORTENED: every training and retraining ran 0.05 of its epochs" in text
    assert 'name="viewport"' in text


def test_a_table_that_goes_on_has_a_shadow_at_its_edge_that_cells_let_through() -> None:
    (shadows,) = re.findall(r"^\.table, figure\.wide div \{(.*?)\}", STYLE, re.DOTALL | re.MULTILINE)
    assert (shadows.count("local"), shadows.count("scroll")) == (2, 2)
    cells = re.findall(r"\.(?:inside|near|outside|missing) \{ background: (#\w+);", STYLE)
    assert len(cells) == 4
    soft = re.findall(r"--soft: (#\w+);", STYLE)
    assert all(len(colour) == len("#rrggbbaa") for colour in cells + soft)


def test_figures_are_files_of_their_own_with_letters_as_text(made: Path) -> None:
    names = {path.stem for path in made.glob("*.svg")}
    assert (
        names
        == {path.stem for path in made.glob("*.png")}
        == set(plots.FIGURES) - {"envelope-budget", "accuracy-time", "accuracy-budget", *plots.ASKED}
    )
    for path in made.glob("*.svg"):
        root = ElementTree.parse(path).getroot()
        words = " ".join("".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text"))
        assert "lr-rewind" in words
    spoken = next(ElementTree.parse(made / "envelope.svg").getroot().iter("{http://www.w3.org/2000/svg}desc")).text
    assert spoken is not None
    assert "lr-rewind: from 93.1 at 2 to 89.1 at 10, highest 93.1 at 2." in spoken
    assert "dense (n = 3) 97." in spoken


def test_the_studys_own_figures_come_first(section: report.Section) -> None:
    assert next(iter(plots.figures(section))).name == "accuracy-retraining"


def test_tables_are_csv_and_markdown(made: Path) -> None:
    lines = list(csv.DictReader((made / "runs.csv").read_text().splitlines()))
    assert len(lines) == 36
    assert sum(line["accuracy"] == "" for line in lines) == 1
    assert (made / "accuracy.md").read_text().startswith("Test accuracy % by sparsity\n\n|  | 50.00 %, 2 epochs |")


def test_the_same_runs_make_the_same_report(studied: Path, made: Path, tmp_path: Path) -> None:
    report.write_report([studied], tmp_path)
    for path in made.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_without_matplotlib_there_are_tables_and_a_word_on_it(
    studied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    told = report.write_report([studied], tmp_path)
    assert told["figures"] == []
    assert told["notes"] == ["figures need the extra: pip install 'pruning[plot]'"]
    assert (tmp_path / "accuracy.csv").exists()


BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium or google-chrome on the PATH")
@pytest.mark.parametrize("width", [1200, 500])  # 500 is the narrowest window that headless Chromium makes
def test_a_browser_shows_the_page_within_its_width(made: Path, tmp_path: Path, width: int) -> None:
    page = tmp_path / "index.html"
    text = (made / "index.html").read_text()
    # the page's own policy allows no script, so the copy that is measured goes without it
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    measure = """<script>addEventListener('load', () => {
      const svgs = [...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect());
      const size = t => parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getBoundingClientRect().width
        / t.ownerSVGElement.viewBox.baseVal.width;
      const letters = [...document.querySelectorAll('figure svg text')].map(size);
      const range = document.createRange(); range.selectNodeContents(document.querySelector('figure svg text'));
      document.title = JSON.stringify({scroll: document.documentElement.scrollWidth, inner: innerWidth,
        drawn: svgs.filter(b => b.width > 250 && b.height > 150).length, smallest: Math.min(...letters),
        selectable: range.toString().length > 0, large: parseFloat(getComputedStyle(document.querySelector('.short')).fontSize)});
    })</script>"""
    page.write_text(text.replace("</body>", measure + "</body>"))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
               f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    match = re.search(r"<title>(\{.*?\})</title>", dom)
    assert match
    seen = json.loads(match[1])
    assert seen["scroll"] <= seen["inner"] <= width  # nothing sticks out sideways
    assert seen["drawn"] == 8
    assert seen["smallest"] >= 7.5  # pixels
    assert seen["selectable"]
    assert seen["large"] >= 28


def test_a_thousand_runs_are_reported_quickly_and_without_torch(studied: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    out = tmp_path / "many"
    record = json.loads((studied / "studies" / "made-up.json").read_text())
    points = record["points"]
    for i in range(28):
        for source in points[: 36 if i else 0]:
            name = source["results"][0]
            copy = {**source, "labels": {**source["labels"], "technique": f"{source['labels']['technique']} {i % 4}"}}
            copy |= {
                "results": [f"{name}-{i}"],
                "runs": [*source["runs"][:-1], f"{name}-{i}"],
                "seed": 3 * i + source["seed"],
            }
            record["points"] = [*record["points"], copy]
    shutil.copytree(studied, out)
    for point in record["points"][36:]:
        folder = out / point["results"][0]
        shutil.copytree(studied / point["results"][0].rpartition("-")[0], folder)
    (out / "studies" / "made-up.json").write_text(json.dumps(record))
    assert len(record["points"]) > 1000
    code = f"""
import json, sys, time
from pathlib import Path
from pruning.study.report import write_report
told = write_report([Path({str(out)!r})], Path({str(tmp_path / "report")!r}))
print(json.dumps([told["runs"], time.process_time(), "torch" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    number, seconds, torch = json.loads(done.stdout)
    assert number > 970
    assert seconds < 10
    assert not torch
