"""Images: decoding, URLs, archives, size limits and degradations."""
