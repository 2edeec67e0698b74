"""Tokenizers to be read: every step in plain Python, told and drawn as it happens."""
