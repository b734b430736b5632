"""A corpus as folders of images that are named after their class, with splits and generators above or below them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, Features, Image, Value

from realfake.corpus.rows import Source, listed
from realfake.corpus.splits import TRAIN, split_role
from realfake.labels import REAL, canonical


@dataclass
class Layout:
    """What the folders above the images mean: `{split name: [(image, class, generator or None)]}`."""

    path: Path
    splits: dict[str, list[tuple[Path, str, str | None]]]
    known: bool  # whether a class folder's name says what it holds
    generators: bool


def layout_of(path: Path, images: Sequence[Path], label_map: Mapping[str, str]) -> Layout:
    """Read `[split/]class/…`, `generator/[split/]class/…`, and either of them inside folders that hold nothing else."""

    def is_class(name: str) -> bool:
        return name in label_map or canonical(name) is not None

    parts = {image: image.relative_to(path).parts[:-1] for image in images}
    while True:
        heads = {part[:1] for part in parts.values()}
        if (
            len(heads) != 1
            or heads == {()}
            or split_role(next(iter(heads))[0])
            or is_class(next(iter(heads))[0])
        ):
            break
        if any(
            len(part) == 1 for part in parts.values()
        ):  # the lone folder holds images: it is a class
            break
        parts = {image: part[1:] for image, part in parts.items()}
    loose = [
        image for image, part in parts.items() if not part or len(part) == 1 and split_role(part[0])
    ]
    if loose:
        raise ValueError(
            f"{len(loose)} images lie outside any class folder, {listed(loose, path)} for one; put each image in a "
            "folder named after its class, such as real/ or ai/."
        )
    generators = not any(
        split_role(part[0]) or is_class(part[0]) for part in parts.values()
    ) and all(
        len(part) > 1 and (split_role(part[1]) or is_class(part[1])) for part in parts.values()
    )
    splits: dict[str, list] = {}
    for image, part in parts.items():
        generator, part = (part[0], part[1:]) if generators else (None, part)
        split, part = (part[0], part[1:]) if split_role(part[0]) else ("", part)
        if not part:
            raise ValueError(
                f"{listed([image], path)} lies outside any class folder; put it in one, such as real/."
            )
        # The real images of a folder named after a generator were not made by it.
        made_by = None if label_map.get(part[0], canonical(part[0])) == REAL else generator
        splits.setdefault(split, []).append((image, part[0], made_by))
    if "" in splits and len(splits) > 1:
        stray = sorted({name for _, name, _ in splits[""]})
        named = sorted(name for name in splits if name)
        raise ValueError(
            f"{path} holds folders of splits ({', '.join(named)}) and others beside them ({', '.join(stray)}); "
            "move the others into a split or out of the corpus."
        )
    if "" in splits:
        splits[TRAIN] = splits.pop("")
    known = any(is_class(name) for rows in splits.values() for _, name, _ in rows)
    return Layout(path, splits, known, generators)


def read_class_folders(layout: Layout, streaming: bool) -> Source:
    found = Source({}, "class folders", "image")
    for name, rows in layout.splits.items():
        columns = {
            "image": [{"bytes": None, "path": str(image)} for image, _, _ in rows],
            "label": [label for _, label, _ in rows],
        }
        features = Features({"image": Image(decode=False), "label": Value("string")})
        if layout.generators:
            columns["generator"] = [generator for _, _, generator in rows]
            features["generator"] = Value("string")
        dataset = Dataset.from_dict(columns, features=features)
        found.splits[name] = dataset.to_iterable_dataset() if streaming else dataset
    return found
