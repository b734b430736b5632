"""What stands on the page from the start, in every language at once: the browser puts in the reader's.

Gradio translates labels, and whole pieces of HTML as well, by key in the browser. `page` makes one [`Localised`], the tabs add
their pieces to it, and `launch` hands it to Gradio.
"""

from collections.abc import Callable

import gradio as gr
from gradio.i18n import I18nData

from realfake.space.languages import ALSO, LANGUAGES
from realfake.space.text import Words, words


class Localised:
    """The strings of all languages, and the HTML made of them."""

    def __init__(self):
        self._entries = {language: dict(strings) for language, strings in LANGUAGES.items()}
        self._entries |= {tag: self._entries[language] for tag, language in ALSO.items()}
        self.i18n = gr.I18n(**self._entries)

    def __call__(self, key: str) -> str:
        """The string of this key, for a label, a placeholder or a value."""
        return marker(key)

    def html(self, name: str, drawn: Callable[[Words], str]) -> str:
        """A piece of HTML, for a value.

        Args:
            name: Told apart from other pieces by it, as `html.name`.
            drawn: Makes it in one language.
        """
        for language in LANGUAGES:
            self._entries[language][f"html.{name}"] = drawn(words(language))
        return self(f"html.{name}")


def marker(key: str) -> str:
    """What the browser replaces by the reader's language's string, wherever Gradio shows a string."""
    return str(I18nData(key))
