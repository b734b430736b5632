"""The demo page: a detector behind a Gradio page of five tabs, an HTTP API and MCP tools.

`loading` opens the detectors, `page` builds and serves the page, `api` and `routes` answer
programs, `limits` bounds every request.
"""

import os
import secrets
import tempfile

VARIABLE = "GRADIO_TEMP_DIR"
PREFIX = "realfake-page-"


def claim_folder() -> None:
    """Set `GRADIO_TEMP_DIR` to a folder for this process, unless it is set already.

    All Gradio programs of a machine share Gradio's default folder.
    """
    if not os.environ.get(VARIABLE):
        os.environ[VARIABLE] = os.path.join(tempfile.gettempdir(), PREFIX + secrets.token_hex(8))


# Gradio reads both when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
claim_folder()
