"""The `realfake` command."""
