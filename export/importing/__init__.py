"""From other people's CoMoSVC checkpoints to a bundle."""
