"""The Space: a detector behind a page and an API.

    python app.py
    REALFAKE_MODEL=user/name@revision python app.py

`REALFAKE_MODEL` is a Hub id or a folder; without it the bundled detector answers.
`realfake/space/README.md` lists all environment variables; Gradio's own, such as
`GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT`, work as usual.
"""

from realfake.space import log
from realfake.space.feedback import Feedback
from realfake.space.loading import load
from realfake.space.page import build, launch
from realfake.space.zero_gpu import lend

log.set_up()

try:
    loaded = load()
    lend(loaded.detector)
    page = build(loaded, Feedback.from_environ())
except (OSError, ValueError) as error:
    raise SystemExit(f"The page cannot start: {error}") from None
demo = page.blocks

if __name__ == "__main__":
    try:
        launch(page)
    except (OSError, ValueError) as error:
        raise SystemExit(f"The page cannot start: {error}") from None
