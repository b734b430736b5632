"""The demo page: a detector behind a Gradio page of five tabs, an HTTP API and MCP tools.

`loading` opens the detectors, `page` builds and serves the page, `api` and `routes` answer
programs, `limits` bounds every request.
"""

import os

from realfake.space.tidying import claim_folder

# Gradio reads both when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
claim_folder()
