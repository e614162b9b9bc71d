"""Splits as rules: from sample names (and labels) to lists of ids with hashes, the same on every machine."""
