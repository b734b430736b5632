"""The model card of a checkpoint: `README.md` with its metadata, for people who have never heard of the project.

`facts` holds what a card says, `render` writes it; the modules between them word one section each from the files that lie
beside the weights, and `markdown` and `numbers` say how text and figures are written. Stands at the end of a run.
"""
