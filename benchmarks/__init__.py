"""Measurements of the whole chain, and the demo."""
