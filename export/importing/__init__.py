"""From other people's checkpoints to a bundle: read without running anything in them, checked key by key."""
