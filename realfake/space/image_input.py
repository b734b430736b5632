"""The image component of the page: it hands over the uploaded file as it is.

`gr.Image` decodes the upload with Pillow before the handler runs, so a broken file ends in a generic error and the
limits of `realfake.imaging.images` are passed by. Here the handler gets the path, and the project's one decoder does the rest.
"""

from abc import ABCMeta

import gradio as gr
from gradio.data_classes import ImageData


class _WithoutStub(type(gr.Image)):
    """Gradio's metaclass writes a `.pyi` beside the source of every subclass; this one writes no files."""

    def __new__(cls, name, bases, attrs):
        return ABCMeta.__new__(cls, name, bases, attrs)


class ImageInput(gr.Image, metaclass=_WithoutStub):
    """A `gr.Image` whose value reaches the handler as the path of the original, undecoded file."""

    def preprocess(self, payload: ImageData | None) -> str | None:
        return None if payload is None else payload.path

    def get_block_name(self) -> str:
        # The browser looks the component up by this name; without it there is no widget for the subclass.
        return "image"
