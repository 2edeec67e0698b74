"""Tokenizers to ship: the files that others publish, opened, checked and written."""
