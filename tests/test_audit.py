"""The audit of a corpus: planted leaks are found and named, and a clean corpus passes."""

import json
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from realfake.audit.audit import audit, quick_audit
from realfake.audit.leaks import LEAK
from realfake.audit.report import write_report
from realfake.cli.main import main
from realfake.corpus.load import load_corpus


@pytest.fixture
def run(tmp_path, capsys):
    def run(*arguments):
        code = main(["corpus", "audit", *arguments, "--cache_dir", tmp_path / "cache"])
        return code, capsys.readouterr()

    return run


def picture(rng, width=48, height=48):
    """Draw blobs and a little noise, different for each seed."""
    coarse = PILImage.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(
        coarse.resize((width, height), PILImage.Resampling.BICUBIC), dtype=np.float64
    )
    return PILImage.fromarray(
        (smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)
    )


def encode(image, format="JPEG", **options):
    buffer = BytesIO()
    if format == "JPEG":
        options = {"quality": 85, **options}
    image.save(buffer, format, **options)
    return buffer.getvalue()


def plain(rng, is_ai):
    """A file whose size and quality do not depend on the label."""
    width, height = (int(side) for side in rng.choice([40, 48, 56], 2))
    return encode(picture(rng, width, height), quality=int(rng.choice([75, 85, 95])))


def by_format(rng, is_ai):
    return encode(picture(rng), "PNG" if is_ai else "JPEG")


def by_quality(rng, is_ai):
    return encode(picture(rng), quality=75 if is_ai else 95)


def by_size(rng, is_ai):
    return encode(
        picture(
            rng, *((64, 64) if is_ai else (int(rng.integers(48, 90)), int(rng.integers(40, 70))))
        )
    )


def by_exif(rng, is_ai):
    exif = PILImage.Exif()
    exif[271] = "Camera"
    return encode(picture(rng), **({} if is_ai else {"exif": exif.tobytes()}))


def make_corpus(folder, make, train=120, test=60, seed=0, change=None, extra=()):
    """Write a corpus of Parquet files; `change(split, rows)` may edit the rows."""
    rng = np.random.default_rng(seed)
    features = {"image": Image(), "label": ClassLabel(names=["real", "ai"])} | {
        n: Value("string") for n in extra
    }
    for split, number in (("train", train), ("validation", 20), ("test", test)):
        rows = []
        for index in range(number):
            is_ai = index % 2 == 1
            row = {
                "image": {"bytes": make(rng, is_ai), "path": f"{split}-{index}.img"},
                "label": int(is_ai),
            }
            rows.append(row | dict.fromkeys(extra))
        if change:
            change(split, rows)
        columns = {name: [row[name] for row in rows] for name in features}
        folder.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(columns, features=Features(features)).to_parquet(
            folder / f"{split}.parquet"
        )
    return folder


def load(folder, tmp_path):
    return load_corpus(folder, cache_dir=str(tmp_path / "cache"))


def codes(result, severity=None):
    return [finding.code for finding in result.findings if severity in (None, finding.severity)]


PLANTED = {
    "format": (by_format, "format"),
    "quality": (by_quality, "jpeg_quality"),
    "size": (by_size, "width"),
    "exif": (by_exif, "exif"),
}


@pytest.mark.parametrize("leak", PLANTED)
def test_a_planted_leak_is_found_and_removed_by_equalizing(leak, run, tmp_path):
    make, fact = PLANTED[leak]
    source = make_corpus(tmp_path / "corpus", make)
    code, printed = run(
        source, "--output", tmp_path / "out", "--strict", "--equalize", tmp_path / "equal"
    )
    assert code == 0, "with --equalize, --strict judges the copy"
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    finding = next(each for each in found["findings"] if each["code"] == "container")
    assert finding["severity"] == LEAK
    assert fact in finding["message"]
    for where in ("train", "test", "train to test"):
        assert found["probes"]["container"][where]["low"] > 0.8

    copy = found["equalized"]
    assert "container" not in [
        each["code"] for each in copy["findings"] if each["severity"] == LEAK
    ]
    for where in ("train", "test", "train to test"):
        assert 0.45 <= copy["probes"]["container"][where]["auc"] <= 0.55, where
    assert (
        copy["written"]["train"]["rows"] + sum(copy["written"]["train"]["unmatched"].values())
        == 120
    )
    assert "equalized" in (tmp_path / "out" / "audit.html").read_text()
    assert "no leak found" in printed.out

    # In the copy all images have the same encoding, and none was resampled.
    equal = load(tmp_path / "equal", tmp_path)
    again = audit(equal)  # as anybody would, without knowing what was matched
    assert "container" not in codes(again, LEAK)
    facts = again.facts["train"]
    assert {(f.format, f.mode, f.jpeg_quality, f.subsampling, f.exif) for f in facts} == {
        ("JPEG", "RGB", 90, "4:2:0", False)
    }
    is_ai = np.asarray(equal.splits["train"]["label"][:]) == 1
    sizes = np.array([(f.width, f.height) for f in facts])
    assert sorted(map(tuple, sizes[is_ai])) == sorted(map(tuple, sizes[~is_ai]))


def test_a_clean_corpus_passes(run, tmp_path):
    source = make_corpus(tmp_path / "corpus", plain, train=240, test=120)
    code, printed = run(source, "--output", tmp_path / "out", "--strict")
    assert code == 0
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert not [each for each in found["findings"] if each["severity"] != "note"]
    for name in ("container", "file_size"):
        for where in ("train", "test", "train to test"):
            probe = found["probes"][name][where]
            assert probe["low"] <= 0.5 <= probe["high"], (name, where)
    assert found["duplicates"]["same_file"]["pairs"] == found["duplicates"]["similar"]["pairs"] == 0
    assert "no leak found" in printed.out
    assert quick_audit(load(source, tmp_path)) == []


def test_strict_exit_statuses(run, tmp_path):
    source = make_corpus(tmp_path / "corpus", by_format, train=40, test=24)
    assert run(source, "--output", tmp_path / "out")[0] == 0
    assert run(source, "--output", tmp_path / "out", "--strict")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--max_auc", "1.5"], "--max_auc"),
        (["--sample", "1"], "--sample"),
        (["--label_map", "nonsense"], "--label_map"),
        (["--equalize", "corpus"], "not empty"),
    ],
)
def test_mistakes_end_in_one_line(arguments, expected, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_corpus(tmp_path / "corpus", plain, train=8, test=8)
    code, printed = run("corpus", "--output", "out", *arguments)
    assert code == 2
    assert printed.err.strip().splitlines()[-1].startswith("realfake: error: ")
    assert expected in printed.err
    assert not (tmp_path / "out").exists()


def test_a_source_that_does_not_exist(run, tmp_path):
    code, printed = run(tmp_path / "nothing", "--output", tmp_path / "out")
    assert code == 2
    assert printed.err.strip().splitlines()[-1].startswith("realfake: error: ")


def test_duplicates_across_splits_and_labels(run, tmp_path):
    kept = {}

    def plant(split, rows):
        if split == "train":
            kept["same"] = rows[3]["image"]["bytes"]
            kept["alike"] = rows[5]["image"]["bytes"]
            rows[11]["image"]["bytes"] = rows[9]["image"]["bytes"]  # within a split
        if split == "test":
            rows[7]["image"]["bytes"] = kept["same"]  # ai in both
            again = PILImage.open(BytesIO(kept["alike"]))
            rows[8]["image"]["bytes"] = encode(
                again.resize((64, 64)), quality=60
            )  # ai there, real here

    source = make_corpus(tmp_path / "corpus", plain, change=plant)
    code, _ = run(source, "--output", tmp_path / "out", "--strict")
    assert code == 1
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert found["duplicates"]["same_file"] == {
        "pairs": 2,
        "across_splits": 1,
        "across_labels": 0,
        "images_seen_elsewhere": {"train": 1, "validation": 0, "test": 1},
    }
    assert found["duplicates"]["similar"]["across_splits"] == 1
    assert found["duplicates"]["similar"]["across_labels"] == 1
    severities = {each["code"]: each["severity"] for each in found["findings"]}
    assert severities["duplicates_same_file"] == severities["duplicates_similar"] == LEAK
    assert severities["labels_similar"] == "warning"
    assert severities["repeated_same_file"] == "note"
    ends = [(pair["first"]["path"], pair["second"]["path"]) for pair in found["pairs"]]
    assert set(ends) == {
        ("train-5.img", "test-8.img"),
        ("train-3.img", "test-7.img"),
        ("train-9.img", "train-11.img"),
    }
    assert ends[0] == ("train-5.img", "test-8.img"), "across splits and labels comes first"


def test_the_equalized_copy_holds_no_image_of_a_later_split(run, tmp_path):
    kept = {}

    def plant(split, rows):
        if split == "train":
            kept["same"], kept["alike"] = rows[3]["image"]["bytes"], rows[5]["image"]["bytes"]
        if split == "validation":
            rows[2]["image"]["bytes"] = kept["same"]
        if split == "test":
            rows[7]["image"]["bytes"] = kept["same"]
            again = PILImage.open(BytesIO(kept["alike"]))
            rows[8]["image"]["bytes"] = encode(again.resize((64, 64)), quality=60)

    source = make_corpus(tmp_path / "corpus", plain, train=60, test=40, change=plant)
    code, printed = run(
        source, "--output", tmp_path / "out", "--strict", "--equalize", tmp_path / "equal"
    )
    assert code == 0, printed.out
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    leaks = {each["code"] for each in found["findings"] if each["severity"] == LEAK}
    assert leaks >= {"duplicates_same_file", "duplicates_similar"}
    copy = found["equalized"]
    assert {split: counts["seen_later"] for split, counts in copy["written"].items()} == {
        "train": {"real": 0, "ai": 2},
        "validation": {"real": 1, "ai": 0},
        "test": {"real": 0, "ai": 0},
    }
    for kind in ("same_file", "similar"):
        assert copy["duplicates"][kind]["across_splits"] == 0
    assert copy["written"]["test"]["unmatched"] == {"real": 0, "ai": 0}, "test is left as it is"


def test_groups_sources_generators_and_dropped_rows_are_reported(tmp_path):
    def plant(split, rows):
        for index, row in enumerate(rows):
            is_ai = row["label"] == 1
            row["group"] = f"{split}{index // 4}"
            row["source"] = "site" if is_ai else "camera"
            row["generator"] = (
                ("old" if split != "test" or index % 4 == 1 else "new") if is_ai else None
            )
        if split == "train":
            rows[0]["group"] = "test0"
            rows[1]["image"]["bytes"] = rows[1]["image"]["bytes"][:80]

    source = make_corpus(
        tmp_path / "corpus",
        plain,
        train=60,
        test=40,
        change=plant,
        extra=("group", "source", "generator"),
    )
    result = audit(load(source, tmp_path))
    found = {finding.code: finding for finding in result.findings}
    assert "drops 1 row." in found["groups"].message
    assert "1 image " in found["unreadable"].message
    assert "100 %" in found["single_class_sources"].message
    assert "10 of 20 ai images" in found["generators"].message
    assert result.results["origins"]["generator"][0]["name"] in ("none", "old")
    new = next(row for row in result.results["origins"]["generator"] if row["name"] == "new")
    assert new["test"] == {"real": 0, "ai": 10}
    assert any("100 %" in line for line in quick_audit(load(source, tmp_path)))


def test_the_quick_audit_names_the_leak_and_decodes_nothing(tmp_path, monkeypatch):
    corpus = load(make_corpus(tmp_path / "corpus", by_format), tmp_path)
    monkeypatch.setattr("realfake.audit.audit.open_image", None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    lines = quick_audit(corpus, n=80)
    assert len(lines) == 1
    assert "format 1.00" in lines[0] and "\n" not in lines[0]


def test_a_streamed_corpus_is_refused(tmp_path):
    corpus = load(make_corpus(tmp_path / "corpus", plain, train=20, test=20), tmp_path)
    corpus.splits = DatasetDict({**corpus.splits})
    dict.__setitem__(corpus.splits, "train", corpus.splits["train"].to_iterable_dataset())
    with pytest.raises(ValueError, match="streamed"):
        audit(corpus)
    assert quick_audit(corpus) == []


def test_too_few_images_are_reported(tmp_path):
    result = audit(load(make_corpus(tmp_path / "corpus", by_format, train=12, test=8), tmp_path))
    assert "too_few" in codes(result)
    assert not result.leaks
    write_report(result, tmp_path / "out")
    assert "too few images" in (tmp_path / "out" / "audit.html").read_text()


class _Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.urls, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.urls += [value for name, value in attributes if name in ("src", "href")]
        assert not [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data):
        self.text.append(data)


def test_names_from_the_corpus_are_escaped_and_the_page_is_self_contained(tmp_path):
    nasty = '"><script>alert(1)</script><img src=x onerror=alert(2)> | `a` [b](c) {{ 7 * 7 }}'

    def plant(split, rows):
        for row in rows:
            row["source"] = nasty
            row["generator"] = nasty if row["label"] else None
            row["image"]["path"] = nasty + ".jpg"
        rows[4]["image"]["bytes"] = rows[2]["image"]["bytes"]
        if split == "train":
            rows[6]["image"]["bytes"] = b"\xff\xd8\xff nothing"

    source = make_corpus(
        tmp_path / "corpus", plain, train=40, test=30, change=plant, extra=("source", "generator")
    )
    result = audit(load(source, tmp_path))
    write_report(result, tmp_path / "out")
    html = (tmp_path / "out" / "audit.html").read_text()
    page = _Page()
    page.feed(html)
    assert "script" not in page.tags
    assert page.urls and all(url.startswith("data:image/") for url in page.urls)
    assert nasty in "".join(page.text)  # shown as it is
    for name in ("sample-real", "sample-ai"):
        assert (tmp_path / "out" / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
