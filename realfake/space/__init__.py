"""The demo page: a detector behind a Gradio page of five tabs, an API and MCP tools.

`loading` opens the detector, `page` puts the tabs together (`check`, `batch`, `compare`, `quality`, `code`), `handlers` answers,
`render` and `text` turn answers into HTML and words without knowing of any widget, `languages` holds the words.
"""

from realfake.space.tidying import claim_folder

# Gradio reads where it may write when it is imported.
claim_folder()
