"""The Space: the detector named by `REALFAKE_MODEL`, or the bundled one, behind a page and an API.

    python app.py
    REALFAKE_MODEL=user/name@revision python app.py

`REALFAKE_MODEL` is a Hub id or a folder, `REALFAKE_REVISION` a branch, tag or commit. Gradio's own variables
(`GRADIO_SERVER_NAME`, `GRADIO_SERVER_PORT`, …) work as usual; `realfake.feedback` and `realfake.provenance.content_credentials` say what else
the environment sets.
"""

import logging
import os

from realfake.feedback import Feedback
from realfake.space.loading import load
from realfake.space.page import build, launch
from realfake.space.zero_gpu import lend

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")

try:
    loaded = load(os.environ)
    lend(loaded.detector)
    page = build(loaded, Feedback.from_environ())
except (OSError, ValueError) as error:
    raise SystemExit(f"The page has no detector to show: {error}") from None
demo = page.blocks

if __name__ == "__main__":
    launch(page)
