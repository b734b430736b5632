"""The settings that programs for generating images leave in their files: which program, which settings.

Works on the text blocks that [`realfake.provenance.metadata_blocks`] found and on EXIF's user comment, where the same text lies in
JPEG and WebP files. Such text is written by anybody who likes: it tells how a file presents itself, and proves nothing.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

_LONGEST = 2000
# The last line that Stable Diffusion web UI and its relatives write: "Steps: 20, Sampler: Euler a, CFG scale: 7, …".
# The space before it stays within its line: across lines, a text of nothing but line ends would take the square of its
# length.
_SETTINGS = re.compile(r"^[^\S\n]*(Steps: \d{1,5}, [^\n]{0,4000})", re.MULTILINE)


@dataclass(frozen=True)
class Generator:
    """A program that a file says it was generated with.

    Attributes:
        name: Of the program or its family.
        where: The block that says so, such as `"PNG text “parameters”"`.
        settings: What it says, at most 2,000 characters.
    """

    name: str
    where: str
    settings: str


def find_generator(
    text: Sequence[tuple[str, str]], comment: str | None = None, container: str = "PNG"
) -> Generator | None:
    """Recognise the settings of a generator.

    Args:
        text: `(keyword, text)` of the file's text blocks.
        comment: *optional*. EXIF's user comment or description.
        container: The file's format, for `where`.
    """
    blocks = dict(reversed(text))  # the first of a keyword counts
    for keyword, name in (
        ("invokeai_metadata", "InvokeAI"), ("invokeai_graph", "InvokeAI"), ("sd-metadata", "InvokeAI"),
        ("fooocus_scheme", "Fooocus"),
    ):  # fmt: skip
        if keyword in blocks:
            return _found(name, container, keyword, blocks.get("parameters", blocks[keyword]))
    for keyword in ("workflow", "prompt"):
        if _is_graph(blocks.get(keyword)):
            return _found("ComfyUI", container, keyword, blocks[keyword])
    if blocks.get("Software", "").strip() == "NovelAI":
        return _found(
            "NovelAI", container, "Software", blocks.get("Comment") or blocks.get("Description") or "NovelAI"
        )
    if "parameters" in blocks:
        return _found(_web_ui(blocks["parameters"]), container, "parameters", blocks["parameters"])
    if re.search(r"\bJob ID: [0-9a-f]{8}-[0-9a-f]{4}-", blocks.get("Description", "")):
        return _found("Midjourney", container, "Description", blocks["Description"])
    for keyword, words in (("UserComment", comment), ("comment", blocks.get("comment"))):
        if words and _SETTINGS.search(words):
            where = f"EXIF “{keyword}”" if keyword == "UserComment" else f"{container} comment"
            return Generator(_web_ui(words), where, _shown(words))
    return None


def _found(name: str, container: str, keyword: str, settings: str) -> Generator:
    return Generator(name, f"{container} text “{keyword}”", _shown(settings))


def _web_ui(text: str) -> str:
    return "Stable Diffusion web UI or a relative" if _SETTINGS.search(text) else "a generator of images"


def _is_graph(text: str | None) -> bool:
    """Whether it is a graph of ComfyUI: an object of nodes that each have a class, or a `nodes` list."""
    if not text or not text.lstrip().startswith("{"):
        return False
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if isinstance(graph.get("nodes"), list):
        return True
    return any(isinstance(node, dict) and "class_type" in node for node in graph.values())


def _shown(text: str) -> str:
    text = "".join(c if c.isprintable() or c in "\n\t" else " " for c in text).strip()
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
