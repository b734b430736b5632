"""Labels: class names, the label map's syntax, and the example in the error message."""

import shlex

import pytest

from realfake.labels import class_indices, format_label_map, parse_overrides, resolve


def example_in(message: str) -> list[str]:
    """The words of the option that an error message proposes, as a shell would read them."""
    option = message.split("for example ", 1)[1].split(" (replace each ?", 1)[0]
    return shlex.split(option)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["AI generated", "echt real"], {"AI generated": "ai", "echt real": "real"}),
        (["vraiment real", "all fake, sadly"], {"vraiment real": "real", "all fake, sadly": "ai"}),
        (["it's a photo!", "$(rm) fake"], {"it's a photo!": "real", "$(rm) fake": "ai"}),
    ],
)
def test_the_example_is_guessed_from_the_words_and_can_be_pasted(names, expected):
    with pytest.raises(ValueError) as error:
        resolve(names)
    option, value = example_in(str(error.value))
    assert option == "--label_map"
    assert resolve(names, parse_overrides(value)) == expected


@pytest.mark.parametrize(
    ("names", "unknown"),
    [
        (["0", "1"], ["0", "1"]),
        (["LABEL_0", "fake"], ["LABEL_0"]),
        (["not really real", "generated"], ["not really real"]),
        (["real fake", "photo"], ["real fake"]),
        (["only", "one, and a comma"], ["only", "one, and a comma"]),
    ],
)
def test_a_class_that_the_words_do_not_tell_is_not_guessed(names, unknown):
    with pytest.raises(ValueError, match="replace each \\?") as error:
        resolve(names)
    _, value = example_in(str(error.value))
    with pytest.raises(ValueError, match="must be 'real' or 'ai'"):
        parse_overrides(value)
    known = {name: "ai" if name in ("fake", "generated") else "real" for name in names}
    known = {name: "?" if name in unknown else label for name, label in known.items()}
    assert value == format_label_map(known)


def test_a_corpus_of_one_class_gets_no_guess():
    with pytest.raises(ValueError, match="'ai'.*--label_map") as error:
        resolve(["real", "photo"])
    assert example_in(str(error.value))[1] == "real=?,photo=?"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nature=real,midjourney=ai", {"nature": "real", "midjourney": "ai"}),
        (" my photos = Real , a=b=AI ", {"my photos": "real", "a=b": "ai"}),
        ('{"a, b": "real", " c ": "AI"}', {"a, b": "real", " c ": "ai"}),
        (None, {}),
        ("", {}),
    ],
)
def test_label_maps(text, expected):
    assert parse_overrides(text) == expected
    assert parse_overrides(format_label_map(expected)) == expected


@pytest.mark.parametrize("text", ["nature", "=real", "a=maybe", '{"a": "b"}', '{"a"', "{1: 2}"])
def test_a_label_map_that_cannot_be_read_names_the_option(text):
    with pytest.raises(ValueError, match="^--dataset_label_map: ") as error:
        parse_overrides(text, "--dataset_label_map")
    assert "\n" not in str(error.value)


def test_an_override_of_no_class_is_refused():
    with pytest.raises(ValueError, match="--label_map names 'b'"):
        resolve(["a"], {"b": "real"})


def test_class_indices_are_found_by_name():
    names = {0: "sdxl", 1: "Human", 2: "flux"}
    assert class_indices(names, {"sdxl": "ai", "flux": "ai"}) == {"real": [1], "ai": [0, 2]}
