"""Checkpoints of other programs: read without running anything in them, checked key by key."""
