"""Header facts, spectrum, hashes, probes and matching of sizes, against worked answers."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from realfake.audit.duplicates import dhash, near_hashes, same_files, similar_pictures, thumbnail
from realfake.audit.equalize import match_sizes
from realfake.corpus.write import equalized
from realfake.evaluation import probes
from realfake.imaging.decode import open_image
from realfake.imaging.file_facts import container_facts, estimated_quality, radial_spectrum


def pixels(width=40, height=24, seed=0, mode="RGB"):
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(array).convert(mode)


def save(image, format, **options):
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


# Container


@pytest.mark.parametrize("quality", [1, 10, 30, 49, 50, 75, 90, 95, 99])
def test_jpeg_quality(quality):
    assert container_facts(save(pixels(), "JPEG", quality=quality)).jpeg_quality == quality


def test_quality_of_another_encoders_table():
    # The table of quality 50 with one step changed is still nearest to 50.
    table = list(Image.open(BytesIO(save(pixels(), "JPEG", quality=50))).quantization[0])
    table[5] += 3
    assert estimated_quality(table) == 50


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpeg_facts(subsampling):
    exif = Image.Exif()
    exif[274] = 6
    data = save(
        pixels(),
        "JPEG",
        subsampling=subsampling,
        progressive=True,
        exif=exif.tobytes(),
        icc_profile=b"p" * 200,
        comment=b"hi",
        xmp=b"<x/>",
    )
    facts = container_facts(data)
    assert (facts.format, facts.mode, facts.subsampling, facts.progressive) == (
        "JPEG",
        "RGB",
        subsampling,
        True,
    )
    assert facts.exif and facts.icc and facts.text and facts.xmp and facts.turned
    assert (facts.width, facts.height, facts.upright_size) == (40, 24, (24, 40))
    assert facts.upright_size == open_image(data).size
    assert facts.bytes_per_pixel == pytest.approx(len(data) / 960)
    assert facts.megapixels == pytest.approx(0.00096) and facts.aspect_ratio == pytest.approx(
        40 / 24
    )


def test_bare_files_have_no_metadata():
    for format in ("JPEG", "PNG", "WEBP"):
        facts = container_facts(save(pixels(), format))
        assert facts.format == format
        assert not (
            facts.exif or facts.icc or facts.xmp or facts.text or facts.turned or facts.progressive
        )
    assert container_facts(save(pixels(mode="L"), "JPEG")).subsampling == "grey"


def test_png_text_is_text_and_xmp_is_not():
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat, steps 20")
    facts = container_facts(save(pixels(mode="P"), "PNG", pnginfo=info))
    assert (facts.text, facts.xmp, facts.mode, facts.jpeg_quality, facts.jpeg_tables) == (
        True,
        False,
        "P",
        None,
        "none",
    )
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<x/>")
    facts = container_facts(save(pixels(), "PNG", pnginfo=info))
    assert (facts.text, facts.xmp) == (False, True)


def test_the_digest_tells_tables_apart():
    first, second = (
        container_facts(save(pixels(), "JPEG", quality=quality)) for quality in (80, 81)
    )
    assert first.jpeg_tables != second.jpeg_tables
    assert (
        first.jpeg_tables == container_facts(save(pixels(seed=3), "JPEG", quality=80)).jpeg_tables
    )


def test_a_file_that_is_no_image():
    with pytest.raises(ValueError, match="notes.txt"):
        container_facts(b"hello there", "notes.txt")


# Spectrum


@pytest.mark.parametrize("side", [32, 100, 256, 400])
def test_white_noise_has_a_flat_spectrum_of_its_variance(side):
    noise = np.random.default_rng(0).normal(128, 20, (side, side)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(np.repeat(noise[..., None], 3, axis=2))
    spectrum = radial_spectrum(image)
    assert spectrum.shape == (24,)
    assert spectrum[3:].mean() == pytest.approx(np.log10(400), abs=0.1)


def test_a_wave_peaks_in_its_ring():
    x = np.arange(128)
    wave = np.broadcast_to(128 + 60 * np.sin(2 * np.pi * 0.25 * x), (128, 128)).astype(np.uint8)
    spectrum = radial_spectrum(Image.fromarray(np.repeat(wave[..., None], 3, axis=2)))
    assert spectrum.argmax() in (11, 12)  # 0.25 cycles per pixel is the edge between them


def test_flat_pictures_are_finite_and_blur_takes_the_high_frequencies():
    assert np.isfinite(radial_spectrum(Image.new("RGB", (9, 50), "grey"))).all()
    array = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(float)
    sharp, soft = (
        radial_spectrum(Image.fromarray(np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)))
        for values in (array, gaussian_filter(array, 1))
    )
    assert soft[-1] < sharp[-1] - 2


# Duplicates


def test_near_hashes_finds_what_comparing_all_pairs_finds():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 400, dtype=np.uint64)
    for index in range(0, 200):  # a copy with 0 to 8 bits turned
        bits = rng.choice(64, index % 9, replace=False)
        hashes[index + 200] = hashes[index] ^ np.bitwise_or.reduce(
            np.uint64(1) << bits.astype(np.uint64), initial=np.uint64(0)
        )
    hashes[:5] = 0  # a crowded band
    expected = [
        (i, j)
        for i in range(400)
        for j in range(i + 1, 400)
        if int(hashes[i] ^ hashes[j]).bit_count() <= 5
    ]
    assert [tuple(pair) for pair in near_hashes(hashes)] == expected
    assert near_hashes(hashes[:0]).shape == (0, 2)


def smooth(seed, size=(96, 72)):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def test_recompressed_and_resized_pictures_are_similar_others_and_flat_ones_are_not():
    images = [smooth(seed) for seed in range(20)]
    images += [open_image(save(images[3], "JPEG", quality=40)), images[5].resize((200, 150))]
    images += [Image.new("RGB", (40, 40), (value, 90, 90)) for value in (10, 11, 200)]  # flat
    noisy = np.random.default_rng(0).normal(100, 1, (2, 60, 60, 3)).astype(np.uint8)
    images += [Image.fromarray(array) for array in noisy]
    hashes = np.array([dhash(image) for image in images])
    pairs, correlations = similar_pictures(hashes, np.array([thumbnail(image) for image in images]))
    assert sorted(map(tuple, pairs)) == [(3, 20), (5, 21)]
    assert (correlations > 0.98).all()


def test_a_near_hash_alone_is_not_enough():
    thumbnails = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    pairs, _ = similar_pictures(np.array([7, 7], dtype=np.uint64), thumbnails)
    assert len(pairs) == 0


def test_dhash_by_hand():
    row = np.array([0, 50, 40, 60, 60, 80, 10, 20, 30], dtype=np.uint8)  # + - + = + - + +
    image = Image.fromarray(np.repeat(np.tile(row, (8, 1))[..., None], 3, axis=2))
    assert int(dhash(image)) == int("10101011" * 8, 2)


def test_same_files():
    assert same_files(["a", "b", "a", "c", "a", "b"]) == [(0, 2), (0, 4), (1, 5)]


# Probes


def test_fold_auroc_is_the_folds_mean_weighted_by_pairs():
    rng = np.random.default_rng(0)
    scores, is_ai, folds = rng.normal(size=60), rng.random(60) < 0.4, rng.integers(0, 3, 60)
    parts = [(folds == f) for f in range(3)]
    pairs = [is_ai[p].sum() * (~is_ai[p]).sum() for p in parts]
    expected = np.average([roc_auc_score(is_ai[p], scores[p]) for p in parts], weights=pairs)
    assert probes.fold_auroc(scores, is_ai, folds) == pytest.approx(expected)
    weights = rng.integers(0, 3, (4, 60)).astype(float)
    each = [probes.fold_auroc(scores, is_ai, folds, row) for row in weights]
    assert probes.fold_auroc(scores, is_ai, folds, weights) == pytest.approx(each)


def test_probes_of_constant_and_of_telling_facts():
    rng = np.random.default_rng(0)
    is_ai = rng.random(300) < 0.3
    groups = np.arange(300)
    folds = probes.assign_folds(is_ai, groups, 0)
    constant, telling = np.zeros(300), np.where(is_ai, 7.0, np.nan)
    middle = np.where(is_ai, 0.5, rng.choice([0.0, 1.0], 300))  # not monotonic
    assert probes.cross_validate(probes.rates, constant, is_ai, folds, groups).auc == 0.5
    assert probes.cross_validate(probes.rates, telling, is_ai, folds, groups).auc == 1
    assert probes.cross_validate(probes.rates, middle, is_ai, folds, groups).auc == 1
    features = np.stack([constant, middle], axis=1)
    probe = probes.cross_validate(probes.trees([False, False], 0), features, is_ai, folds, groups)
    assert probe.low > 0.99 and (probe.real, probe.ai) == ((~is_ai).sum(), is_ai.sum())


def test_a_group_is_in_one_fold():
    groups = np.repeat(np.arange(40), 5)
    is_ai = groups % 2 == 0
    folds = probes.assign_folds(is_ai, groups, 0)
    assert all(len(set(folds[groups == group])) == 1 for group in range(40))
    # A fact that only names the group then says nothing: chance, not 1.
    probe = probes.cross_validate(probes.rates, groups.astype(float), is_ai, folds, groups)
    assert probe.low < 0.6
    assert probes.assign_folds(is_ai[:10], groups[:10], 0) is None


def test_categories_are_numbered_by_frequency():
    assert probes.categories(["b", "a", "b", "c", "b", "a"]).tolist() == [0, 1, 0, 2, 0, 1]
    assert probes.categories([str(number) for number in range(100)]).max() == 59


# Matching of sizes


def test_matched_sizes_have_one_distribution_and_fit_into_the_images():
    rng = np.random.default_rng(0)
    is_ai = np.r_[np.ones(90, bool), np.zeros(270, bool)]
    sizes = np.where(is_ai[:, None], [512, 512], rng.integers(100, 700, (360, 2)))
    targets, matches = match_sizes(sizes, is_ai)
    assert (targets <= sizes).all() and (targets % 8 == 0).all() and targets.all()
    kinds = {tuple(size) for size in targets}
    # Three real images for each ai image, so the shares are the same.
    for kind in kinds:
        mine = (targets == kind).all(axis=1)
        assert (mine & ~is_ai).sum() == 3 * (mine & is_ai).sum()
    for match in np.unique(matches):
        mine = matches == match
        assert (mine & is_ai).sum() == 1 and len(np.unique(targets[mine], axis=0)) == 1


def test_equal_sizes_stay_and_small_images_are_left_out():
    sizes = np.array([[32, 32]] * 6 + [[8, 40], [12, 12]])
    is_ai = np.array([True, False] * 4)
    targets, matches = match_sizes(sizes, is_ai)
    assert targets.tolist() == [[32, 32]] * 6 + [[0, 0], [0, 0]]
    assert matches.tolist()[6:] == [-1, -1] and matches.max() < 6
    assert not match_sizes(sizes[:1], is_ai[:1])[0].any()


def test_equalized_is_the_centre_at_native_size():
    image = smooth(1)
    data = equalized({"bytes": save(image, "PNG"), "path": None}, 48, 40)
    result = open_image(data)
    assert result.size == (48, 40)
    expected = np.asarray(image.crop((24, 16, 72, 56)), dtype=float)
    assert np.abs(np.asarray(result, dtype=float) - expected).mean() < 3
    assert equalized({"bytes": save(image, "PNG"), "path": None}, 400, 40) is None
