"""The rows of the quality table with their goals. L1 is that of log-mels."""

from ..install import MAX_IMPORT_S, MAX_SIZE_MB
from ..report import Row

GOALS: dict[str, Row] = {
    "student": Row(
        what="student as shipped, one step: L1 to the true target over the unconverted source's", at_most=0.55
    ),
    "audio": Row(what="… of the audio that comes out, vocoder and all", at_most=0.55),
    "smoothed": Row(what="… of the student's mel, smoothed over 9 frames"),
    "two_steps": Row(what="… of the student's mel, two steps"),
    "four_steps": Row(what="… of the student's mel, four steps"),
    "published": Row(what="student by the published recipe, one step: the same ratio", at_most=0.65),
    "teacher": Row(what="teacher at its best step count: the same ratio", at_most=0.62),
    "texture": Row(what="texture of the shipped student's mel, over the truth's", at_least=0.9, at_most=1.1),
    "texture_audio": Row(what="texture of the audio that comes out, over the truth's"),
    "ode": Row(
        what="student(z) to the teacher's ODE end from z, over the undistilled network's distance", at_most=0.35
    ),
    "ode_fine": Row(what="… to the end on the published ladder, 24 Euler steps"),
    "ode_published": Row(what="… of the student by the published recipe"),
    "other_z": Row(what="student(z) to the ODE end from z, over the distance to that from another z", at_most=1.0),
    "f0_gross": Row(what="F0 of the output: gross errors (> 50 cents)", unit="%", at_most=1.0),
    "f0_rmse": Row(what="F0 of the output: RMSE of the rest", unit="cents", at_most=15.0),
    "f0_voicing": Row(what="F0 of the output: voicing errors", unit="%", at_most=3.0),
    "identified": Row(what="target singer identified from the output", unit="%", at_least=95.0),
    "copy": Row(what="vocoder copy-synthesis: L1", unit="nepers", at_most=0.12),
    "content_synthetic": Row(what="content encoder, frame accuracy: held-out synthetic singers", at_least=0.92),
    "content_recorded": Row(what="content encoder, frame accuracy: a held-out recorded voice", at_least=0.70),
    "content_low_synthetic": Row(what="… of the encoder for live use: held-out synthetic singers"),
    "content_low_recorded": Row(what="… of the encoder for live use: a held-out recorded voice"),
    "parity": Row(what="ONNX against torch, worst graph, relative error", at_most=1e-5),
    "size": Row(what="slim install: size of the environment", unit="MB", at_most=MAX_SIZE_MB),
    "import": Row(what="slim install: import time", unit="s", at_most=MAX_IMPORT_S),
    "rtf": Row(what="whole chain on one core: RTF", at_most=0.04),
    "lookahead": Row(what="look-ahead of all parts, live", unit="ms", at_most=60.0),
    "bounded_gross": Row(what="F0 with 16 ms of look-ahead, held: gross errors", unit="%"),
    "bounded_rmse": Row(what="F0 with 16 ms of look-ahead, held: RMSE of the rest", unit="cents"),
    "bounded_voicing": Row(what="F0 with 16 ms of look-ahead, held: voicing errors", unit="%"),
}
"""In the order of the table."""
