"""The page's sentences, one module a language, all with the same keys.

`text` words answers with them on the server, and `page` hands them to `gr.I18n`, which puts them into labels in the browser.
Another language is one more module and one more line here.
"""

from realfake.space.languages import en, nb

LANGUAGES = {"en": en.STRINGS, "nb": nb.STRINGS}
DEFAULT = "en"
# Tags of browsers whose readers are served by another language's strings.
ALSO = {"no": "nb", "nn": "nb"}
