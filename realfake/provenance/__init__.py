"""What a file says of its own origin, read by structure: Content Credentials, XMP, EXIF,
generators' settings.

`reading` puts it together; none of it is ever part of the score.
"""
