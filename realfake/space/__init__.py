"""The demo page: a detector behind a Gradio page and two API endpoints.

`loading` opens the detector, `page` lays out the widgets and wires them, `render` and `text` turn predictions into
HTML and words without knowing of any widget.
"""
