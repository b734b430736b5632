"""Helpers shared by the tests: tiny checkpoints, drawn corpora, damaged files, signed files, servers, clocks."""
