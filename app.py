"""The Space: the detector named by `REALFAKE_MODEL`, or the bundled one, behind a page and an API.

    python app.py
    REALFAKE_MODEL=user/name@revision python app.py

`REALFAKE_MODEL` is a Hub id or a folder, `REALFAKE_REVISION` a branch, tag or commit. Gradio's own variables
(`GRADIO_SERVER_NAME`, `GRADIO_SERVER_PORT`, …) work as usual; `realfake.feedback`, `realfake.provenance.content_credentials` and
`realfake.space.rate_limit` say what else the environment sets.
"""

import os

from realfake.feedback import Feedback
from realfake.space import log
from realfake.space.loading import load
from realfake.space.page import build, launch
from realfake.space.zero_gpu import lend

log.set_up()

try:
    loaded = load(os.environ)
    lend(loaded.detector)
    page = build(loaded, Feedback.from_environ())
except (OSError, ValueError) as error:
    raise SystemExit(f"The page has no detector to show: {error}") from None
demo = page.blocks

if __name__ == "__main__":
    try:
        launch(page)
    except (OSError, ValueError) as error:
        raise SystemExit(f"The page cannot be served: {error}") from None
