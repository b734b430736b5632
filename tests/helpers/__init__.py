"""Helpers of the tests: tiny models, drawn corpora, damaged and signed files, servers, clocks."""
