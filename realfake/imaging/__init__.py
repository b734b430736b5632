"""From files, URLs and archives to upright RGB pixels, and what happens to them on their way through the web.

`images` is the only place where files are decoded; `file_limits` stands before it, `fetch` and `archive` bring what it reads.
"""
