"""Train a voice: features, teacher, student, content encoder, vocoder. Needs torch."""
