"""Conversations as one text: chat templates, and the sandbox that strangers' templates run in."""
