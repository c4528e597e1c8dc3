"""The page of `factory report`: what stands in it, that it needs nothing else, and that its sliders decide like `factory select`."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from factory import build, filtering, finished, plan, recipe, reselect, select
from factory.errors import UserError
from factory.evaluate import made
from factory.page import charts, pictures, render, scores
from tests import corpora

RECIPE = """
name: birds
seed: 3
source: {{dataset: {source}}}
generator: {{kind: tests.paint.Paint, batch: 8}}
condition: {{kind: augmented_image, mix: none}}
prompts: {{text: "a {{label}} {{place}}", axes: {{place: ["at </script><script>sea", "& in <b>woods"]}}}}
amount: {{per_class: 30, rounds: 1}}
filters:
  - undecodable
  - {{kind: tests.measured.Brightness, between: [0.2, 0.62]}}
  - {{kind: tests.measured.Contrast, keep_top: 80%}}
  - {{kind: tests.measured.Twins, max: 0.995, floor: 0.5}}
shard: 16
threads: 1
"""
VOID = {"meta", "img", "input", "br", "rect", "line", "circle", "polyline"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of sixty rows; a class name and the prompts are hostile to a careless page."""
    folder = tmp_path_factory.mktemp("page")
    noise = np.random.default_rng(0)
    for name in ("finch", "heron <i>& co"):
        (folder / "birds" / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.clip(noise.normal(40 + 30 * i, 30, (24, 20, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "birds" / name / f"{i}.png")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(source=folder / "birds"), encoding="utf-8")
    loaded = recipe.load(path, environ={})
    table = loaded.source.open()
    build.run(loaded, plan.make(loaded, table), table, folder / "run", "cpu")
    return folder / "run"


@pytest.fixture
def evaluated(run: Path, tmp_path: Path) -> Path:
    """The run with an evaluation beside it."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "evaluation").mkdir()
    Image.new("RGB", (60, 30), "red").save(folder / "evaluation" / "pair_000.png")
    (folder / "evaluation.json").write_text(json.dumps({**evaluation(), "selection": kept_of(folder)}), encoding="utf-8")
    return folder


def kept_of(folder: Path) -> str:
    """Names the rows that a run keeps."""
    return select.digest(pq.read_table(folder / "selection.parquet")["keep"].to_numpy())


def evaluation() -> dict[str, Any]:
    row = {"classifier": "small_network", "labels": 5, "ci95": 0.01, "per_class": [0.5, 0.7], "many": None, "medium": None, "few": 0.6}
    return {
        "version": 1,
        "seconds": 75.0,
        "verdict": {"use": False, "ratio": None, "gain": -0.021, "ci95": 0.013, "text": "Do not use it: it hurts by <2.1> points."},
        "utility": {
            "metric": "balanced_accuracy",
            "classifier": "small_network",
            "seeds": 5,
            "protocol": {"classes": ["heron <i>& co", "finch"], "seeds_vary": "training"},
            "rows": [
                {**row, "arm": "real", "ratio": 0, "accuracy_mean": 0.60},
                {**row, "arm": "real_strong", "ratio": 0, "accuracy_mean": 0.641},
                {**row, "arm": "real_synthetic", "ratio": 1, "accuracy_mean": 0.62},
                {**row, "arm": "real_synthetic", "ratio": 10, "accuracy_mean": 0.61, "per_class": [0.4, 0.82]},
                {**row, "arm": "synthetic", "ratio": 1, "accuracy_mean": 0.43},
            ],
        },
        "fidelity": {"backbone": "small", "rows": [{"class": None, "frechet": 3.21, "frechet_real": 1.5, "coverage": 0.77}]},
        "memorisation": {
            "ratio_median": 1.4,
            "share_closer_than_real": 0.05,
            "gate": {"passed": False, "threshold": 0.01, "text": "Too close."},
            "pairs": [
                {"id": "<s>a1", "real": 3, "distance": 0.1, "ratio": 0.62, "picture": "evaluation/pair_000.png"},
                {"id": "b2", "real": 4, "distance": 0.1, "ratio": 0.8, "picture": "../../outside.png"},
            ],
        },
        "guards": {"passed": True, "checks": [{"name": "synthetic_in_test", "passed": True, "ids": []}]},
    }


class Page(HTMLParser):
    """Elements with their attributes, and the text of each id's element; fails where tags do not close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[tuple[str, str | None]] = []
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open and self._open.pop()[0] == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        for _, name in self._open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [own for name, own in self.elements if name == tag]


def test_a_run_without_evaluation_says_so(run: Path, tmp_path: Path) -> None:
    result = render.write(run, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert result["rows"] == result["rows_in_page"] == 60 and result["bytes"] < 1_000_000
    assert "Not measured yet" in page.texts["verdict"] and "run --real TRAIN --test TEST" in page.texts["verdict"]
    assert {"families", "selection", "classes", "prompts", "cost", "made-by"} <= page.texts.keys()
    assert not {"utility", "fidelity", "memorisation"} & page.texts.keys()
    assert "100% of the cells" in page.texts["prompts"]
    real = [own for own in page.all("img") if "real" in (own["class"] or "")]
    assert len(real) == pictures.FAMILIES, "one parent for each child, and none missing"
    report = finished.read(run).report
    rows = [own for own in page.all("figure") if "data-row" in own]
    assert len(rows) == min(report["kept"], pictures.THUMBNAILS) + report["generated"] - report["kept"]
    assert str(run) not in (tmp_path / "report.html").read_text(encoding="utf-8"), "a local path is nobody else's business"


def test_an_evaluation_comes_first_and_in_full(evaluated: Path) -> None:
    render.write(evaluated, evaluated / "report.html")
    page = Page((evaluated / "report.html").read_text(encoding="utf-8"))
    assert page.texts["verdict"].count("Do not use it") == 1 and "It hurts by <2.1> points." in page.texts["verdict"]
    assert "-2.1 ± 1.3" in page.texts["verdict"] and "memorisation gate failed" in page.texts["verdict"]
    assert "95% interval over trainings and images, for this one draw of real images, against" in page.texts["utility"]
    assert "64.1 ± 1.0" in page.texts["utility"] and "3.21" in page.texts["fidelity"] and "1.5" in page.texts["fidelity"]
    assert "no picture" in page.texts["memorisation"], "a picture outside the run is not read"
    assert sum(own.get("alt", "") == "synthetic image beside its nearest real one" for own in page.all("img")) == 1
    assert len(page.all("circle")) == 3, "one point for each ratio of each arm that has one"
    assert "1 min 15 s" in page.texts["cost"]


def test_classes_that_nobody_tests_are_named(evaluated: Path) -> None:
    stored = evaluation()
    for untested, said in (([], ""), (["heron <i>& co"], "There is no test image of heron <i>& co: nothing here is told of it.")):
        stored["utility"]["protocol"] = {"untested": untested}
        (evaluated / "evaluation.json").write_text(json.dumps(stored), encoding="utf-8")
        render.write(evaluated, evaluated / "report.html")
        shown = Page((evaluated / "report.html").read_text(encoding="utf-8")).texts["utility"]
        assert said in shown and ("no test image" in shown) is bool(untested)


def test_tables_of_many_classes_scroll_in_themselves(evaluated: Path) -> None:
    for count, tall in ((1, 0), (40, 1)):
        stored = evaluation()
        stored["fidelity"]["rows"] = [{**stored["fidelity"]["rows"][0], "class": f"c{i}" if i else None} for i in range(count + 1)]
        (evaluated / "evaluation.json").write_text(json.dumps(stored), encoding="utf-8")
        render.write(evaluated, evaluated / "report.html")
        page = Page((evaluated / "report.html").read_text(encoding="utf-8"))
        assert sum(own.get("class") == "scroll tall" for own in page.all("div")) == tall


def test_it_needs_no_network_and_escapes_what_it_shows(evaluated: Path) -> None:
    render.write(evaluated, evaluated / "report.html")
    text = (evaluated / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    linked = [own[key] for _, own in page.elements for key in ("src", "href", "srcset", "action", "data") if own.get(key)]
    assert linked and all(value and value.startswith("data:image/") for value in linked)
    assert not page.all("link") and not page.all("iframe") and not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", text)
    policy = next(own["content"] for own in page.all("meta") if own.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'")
    assert len(page.all("script")) == 2, "the scores and the page's own"
    assert "sea" in page.texts["families"] and "<script>sea" not in text and "<b>woods" not in text
    assert "heron <i>& co" in page.texts["classes"] and "heron <i>" not in text and "<s>a1" not in text
    assert json.loads(page.texts["scores"])["classes"][1]["name"] == "heron <i>& co"


def test_accuracies_are_drawn_in_percent() -> None:
    utility = evaluation()["utility"]
    chart = charts.accuracy(utility)[0]
    ticks = [float(tick["text"]) for tick in chart["y_ticks"]]
    assert ticks[0] <= 42 and 65.1 <= ticks[-1] <= 100
    points = next(s["points"] for s in chart["series"] if s["arm"] == "real_synthetic")
    assert [p["text"] for p in points] == ["62.0 ± 1.0", "61.0 ± 1.0"] and points[0]["y"] < points[1]["y"] < points[1]["bottom"]
    assert charts.per_class(utility)["finch"] == ("70.0", "70.0"), "the best ratio is compared, here 1"


@pytest.mark.parametrize(("low", "high"), [(0, 100), (90, 100), (100, 100), (0, 0), (50, 50), (33.3, 33.3), (40, 72.3)])
def test_no_accuracy_is_marked_beyond_a_hundred(low: float, high: float) -> None:
    ticks = charts._ticks(low, high)
    assert 0 <= ticks[0] <= low and high <= ticks[-1] <= 100 and ticks[0] < ticks[-1] and len(ticks) <= 8


def test_groups_of_classes_are_columns_where_there_are_several(evaluated: Path) -> None:
    whole = evaluation()
    assert charts.shot_groups(whole["utility"]) == []
    whole["utility"]["rows"][0]["many"] = 0.7
    (evaluated / "evaluation.json").write_text(json.dumps(whole), encoding="utf-8")
    render.write(evaluated, evaluated / "report.html")
    said = Page((evaluated / "report.html").read_text(encoding="utf-8")).texts["utility"]
    assert charts.shot_groups(whole["utility"]) == ["many", "few"] and "many" in said and "70.0" in said and "medium" not in said


def test_accuracies_stand_beside_their_own_class_whatever_the_order(evaluated: Path) -> None:
    lines = render._balance(finished.read(evaluated), charts.per_class(evaluation()["utility"]))
    assert {line["name"]: line["accuracy"][1] for line in lines} == {"finch": "70.0", "heron <i>& co": "50.0"}


def test_classes_are_compared_with_the_real_images_that_the_gain_is_over() -> None:
    utility = evaluation()["utility"]
    utility["rows"][0]["per_class"] = [0.1, 0.9]  # of real images without augmentation
    for rival, without in (("real_strong", "70.0"), ("real", "90.0")):
        rows = [{**row, "rival": rival} if row["arm"] == "real_synthetic" else row for row in utility["rows"]]
        assert charts.per_class({**utility, "rows": rows})["finch"][0] == without
    swept = [{**row, "accuracy_mean": 0.9 if row["arm"] == "real" else 0.5} for row in utility["rows"]]  # by a version that named no rival
    assert charts.per_class({**utility, "sweep": swept})["finch"][0] == "90.0"


def test_an_evaluation_of_another_selection_is_out_of_date(evaluated: Path) -> None:
    kept = kept_of(evaluated)
    for named, headline in ((select.digest(np.ones(3, bool)), "Out of date"), (None, "Out of date"), (kept, "Do not use it")):
        stored = {**evaluation(), **({"selection": named} if named else {})}
        (evaluated / "evaluation.json").write_text(json.dumps(stored), encoding="utf-8")
        found = render._verdict(finished.read(evaluated))
        assert found["headline"] == headline and "hurts by <2.1>" in found["text"]
        assert (found["tone"] == "unsure") is (named != kept)


def test_a_large_run_is_sampled_and_stays_small(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = finished.read(run)
    monkeypatch.setattr(scores, "MOST_ROWS", 20)
    monkeypatch.setattr(pictures, "BYTES", 2000)
    rows = scores.sample(whole)
    assert len(rows) == 20 and (np.diff(rows) > 0).all() and (rows == scores.sample(whole)).all()
    album = pictures.album(whole, rows)
    assert 0 < len(album.families) + len(album.kept) + len(album.refused) < 10
    text = render.html(whole, rows, "run", album)
    assert "even sample of 20 of 60 rows" in text and "Decided over all rows" in text
    carried = json.loads(Page(text).texts["scores"])
    assert sum(c["all"] for c in carried["classes"]) == 60 and sum(c["here"] for c in carried["classes"]) == 20
    assert carried["reasons"][0] == whole.report["kept"], "what is shown before a move is counted over all rows"


def test_faults_say_what_to_do(run: Path, evaluated: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        render.write(tmp_path, tmp_path / "x.html")
    (evaluated / "evaluation.json").write_text('{"version": 9}', encoding="utf-8")
    with pytest.raises(UserError, match="factory evaluate"):
        render.write(evaluated, tmp_path / "x.html")
    (evaluated / "evaluation.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not JSON"):
        render.write(evaluated, tmp_path / "x.html")


# ---- in a browser

MOVES: list[list[tuple[int, str, float, str]]] = [
    [],
    [(1, "low", 0.35, "filters[1].between=[0.35, 0.62]")],
    [(1, "low", 0.3, "filters[1].between=[0.3, 0.5]"), (1, "high", 0.5, "")],
    [(2, "top", 35, "filters[2].keep_top=35%")],
    [(3, "high", 0.9, "filters[3].max=0.9")],
    [(3, "high", 0.97, "filters[3].max=0.97"), (2, "top", 60, "filters[2].keep_top=60%"), (1, "high", 0.55, "filters[1].between=[0.2, 0.55]")],
]  # fmt: skip

DRIVER = """
<script>
const seen = [], settled = () => new Promise((done) => setTimeout(done, 50));
(async () => {
  for (const moves of %s) {
    document.querySelector("[data-reset]").click();
    await settled();
    for (const [rule, end, value, kind] of moves) {
      const input = document.querySelector(`[data-rule="${rule}"] input[type=${kind}][data-end=${end}]`);
      input.value = value;
      input.dispatchEvent(new Event("input", { bubbles: true }));
    }
    await settled();
    const texts = (selector) => [...document.querySelectorAll(selector)].map((e) => e.textContent);
    seen.push({
      kept: texts("[data-count=kept]")[0], classes: texts("[data-class] [data-kept]"), command: texts("[data-command]")[0],
      reasons: Object.fromEntries([...document.querySelectorAll("[data-reason]")].map((e) => [e.dataset.reason, e.querySelector("b").textContent])),
      rows: [...document.querySelectorAll("[data-pane=kept] .thumb")].map((e) => Number(e.dataset.row)).sort((a, b) => a - b),
      wide: document.documentElement.scrollWidth, inner: innerWidth, dark: getComputedStyle(document.body).backgroundColor,
    });
  }
  document.title = "done";
})().catch((error) => seen.push(String(error))).finally(() => {
  document.body.innerHTML = "<pre id=seen></pre>";
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>
"""


def browse(page: Path, *options: str) -> str:
    """The page as headless Chromium holds it once its scripts have run."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here: `apt-get install chromium` brings Debian's")
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=5000", *options]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run([*command, profile, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def drive(source: Path, moves: list[list[tuple[int, str, float, str]]], *options: str) -> list[dict[str, Any]]:
    """What the page shows after each list of moves (rule, end, value, kind of input), each from a reset page."""
    page = source.with_name("driven.html")
    text = source.read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", DRIVER % json.dumps(moves) + "</body>"), encoding="utf-8")
    found = re.search(r'<pre id="seen">(.*?)</pre>', browse(page, *options), re.S)
    assert found, "the page's script did not run to its end"
    seen: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    assert len(seen) == len(moves) and all(isinstance(step, dict) for step in seen), seen
    return seen


def test_sliders_decide_like_select(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    render.write(folder, tmp_path / "report.html")
    moves = [[(rule, end, value, "number") for rule, end, value, _ in moved] for moved in MOVES]
    seen = drive(tmp_path / "report.html", moves)
    thumbs = {int(row) for row in re.findall(r'data-row="(\d+)"', (tmp_path / "report.html").read_text(encoding="utf-8"))}
    counts: list[int] = []
    for moved, step in zip(MOVES, seen, strict=True):
        sets = [setting for *_, setting in moved if setting]
        result = reselect.run(folder, None, sets, export=False)
        keep = pq.read_table(folder / "selection.parquet")["keep"].to_numpy()
        assert step["kept"] == str(result["kept"]), moved
        assert step["classes"] == [str(n) for n in result["per_class"].values()]
        assert [step["reasons"][str(i + 1)] for i in range(5)] == [str(n) for n in result["refused"].values()]
        assert step["rows"] == sorted(thumbs & set(np.flatnonzero(keep).tolist())), "pictures move with the decision"
        assert all(f"--set '{setting}'" in step["command"] for setting in sets) and ("--set" in step["command"]) == bool(sets)
        counts.append(result["kept"])
    assert all(count != counts[0] for count in counts[1:]), "each move changes the count, or this test shows nothing"


@pytest.fixture
def filtered(tmp_path: Path) -> Path:
    """A filtered corpus with rows that cannot be read, rows without a score, and a cascade that has not seen all."""
    corpora.folder(tmp_path / "corpus", 50)
    for name, data in corpora.hostile().items():
        (tmp_path / "corpus" / "dark" / name).write_bytes(data)
    filters = (
        "[undecodable, {kind: tests.corpora.Brightness, min: 40, nan_above: 240}, "
        "{kind: tests.corpora.Brightness, keep_top: 60%, nan_above: 230, after: 1}]"
    )
    path = corpora.recipe(
        tmp_path / "filter.yaml", corpus=f"{{dataset: {tmp_path / 'corpus'}, label: folder, caption: .txt}}", filters=filters
    )
    filtering.run(filtering.load(path, environ={}), tmp_path / "filtered", "cpu")
    return tmp_path / "filtered"


def test_a_filtered_corpus_has_its_page(filtered: Path) -> None:
    render.write(filtered, filtered / "report.html")
    page = Page((filtered / "report.html").read_text(encoding="utf-8"))
    report = finished.read(filtered).report
    assert f"{report['kept'] / report['read']:.0%} kept" in page.texts["verdict"] and "factory evaluate" not in page.texts["verdict"]
    assert "read" in page.texts["classes"] and "wanted" not in page.texts["classes"] and "families" not in page.texts
    assert sum("data-row" in own for own in page.all("figure")) > 20, "pictures come from the corpus where it stands"
    shutil.rmtree(filtered.parent / "corpus")
    render.write(filtered, filtered / "report.html")
    page = Page((filtered / "report.html").read_text(encoding="utf-8"))
    assert "could not be read" in page.texts["selection"] or not [own for own in page.all("img")]


def test_a_filtered_corpus_cannot_be_evaluated(filtered: Path) -> None:
    with pytest.raises(UserError, match="is a filter run, which has generated nothing"):
        made.open(filtered)


def test_sliders_decide_like_select_on_a_corpus(filtered: Path) -> None:
    render.write(filtered, filtered / "report.html")
    moves: list[list[tuple[int, str, float, str]]] = [
        [],
        [(1, "low", 120, "filters[1].min=120")],
        [(1, "low", 10, "filters[1].min=10")],  # rows that the cascade has not scored
        [(2, "top", 20, "filters[2].keep_top=20%")],
    ]
    seen = drive(filtered / "report.html", [[(*move[:3], "number") for move in moved] for moved in moves])
    slugs = json.loads(Page((filtered / "report.html").read_text(encoding="utf-8")).texts["scores"])["slugs"]
    counts = []
    for moved, step in zip(moves, seen, strict=True):
        result = reselect.run(filtered, None, [setting for *_, setting in moved], export=False)
        assert step["kept"] == str(result["kept"]) and step["classes"] == [str(n) for n in result["per_class"].values()], moved
        told = {slugs[int(code)]: int(n) for code, n in step["reasons"].items() if int(n)}
        assert told == {slug: n for slug, n in result["refused"].items() if n}, moved
        counts.append(result["kept"])
    assert counts[0] != counts[1] and counts[0] != counts[3]
    assert any(slug.startswith("unscored") for slug in slugs) and any(slug.endswith("no_score") for slug in slugs)


def test_dragging_a_handle_and_narrow_and_dark_screens(evaluated: Path) -> None:
    render.write(evaluated, evaluated / "report.html")
    drag = [[(1, "low", 0.5, "range")], [(1, "low", 0.0, "range")], [(2, "top", 30, "range")]]
    light, whole, best = drive(evaluated / "report.html", drag, "--blink-settings=preferredColorScheme=1", "--window-size=1280,900")
    assert int(light["kept"]) < int(whole["kept"]) and "between=[0.5, 0.62]" in light["command"]
    assert int(best["kept"]) < int(whole["kept"]) and "keep_top=30%" in best["command"]
    dark = drive(evaluated / "report.html", [[]], "--blink-settings=preferredColorScheme=0", "--window-size=1280,900")[0]
    assert light["dark"] != dark["dark"] and light["wide"] <= 1280
    page, outer = (evaluated / "report.html").read_text(encoding="utf-8"), evaluated / "phone.html"
    measure = "document.title = frame.contentDocument.documentElement.scrollWidth + ' of ' + frame.contentWindow.innerWidth"
    outer.write_text(
        f'<title></title><iframe id="frame" style="width:390px;height:800px;border:0" onload="{measure}" srcdoc="{html.escape(page)}"></iframe>',
        encoding="utf-8",
    )
    assert "<title>390 of 390</title>" in browse(outer, "--hide-scrollbars"), "something is wider than a phone"
