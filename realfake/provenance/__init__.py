"""What an image file records about its origin: Content Credentials, XMP, EXIF, generator settings.

`reading.read_provenance` is the entry point. The results are not part of the score.
"""
