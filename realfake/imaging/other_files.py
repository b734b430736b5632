"""Describe a file that is not a readable image, such as a video or a web page."""

import codecs

from PIL import features

from realfake.imaging.heif import is_heif

AGAIN = "Download or export it again."


def other_kind(data: bytes) -> str | None:
    """Describe a file that is not a readable image, with advice; `None` if unknown."""
    head = data[:1024]
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not data:
        return f"empty (0 bytes). {AGAIN[:-1]}"
    if head[4:8] == b"ftyp":
        if is_heif(head):
            return None  # it is an image, so it must be damaged
        if head[8:12] in (b"avif", b"avis"):
            if features.check("avif"):
                return None
            return "an AVIF file, which this Pillow build cannot read. Save it as JPEG or PNG"
        return "a video, not an image. Save one frame as JPEG or PNG"
    if head.startswith((b"\xff\n", b"\0\0\0\x0cJXL ")):
        return "a JPEG XL file, which is not supported. Save it as JPEG or PNG"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image itself. Run `git lfs pull`"
    if b"<svg" in text:
        return "an SVG drawing, not a raster image. Export it as PNG"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page, not an image. Download the image itself"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")):
        return "an archive, not an image. Unpack it and use the images inside"
    if head.startswith(b"%PDF"):
        return "a PDF document, not an image. Export the image as JPEG or PNG"
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        try:
            # Incremental, because 1024 bytes can end inside a character.
            codecs.getincrementaldecoder("utf-8")().decode(head)
        except UnicodeDecodeError:
            return None
        return "a text file, not an image. Choose a JPEG or PNG file"
    return None
