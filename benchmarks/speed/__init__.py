"""Speed, measured: systems stage by stage, in turns, on the same work."""
