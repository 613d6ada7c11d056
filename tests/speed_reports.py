"""Results of a speed benchmark that nobody measured, for tests of what reads them."""

from dataclasses import replace

from comosvc.benchmarks.report import Provenance
from comosvc.benchmarks.speed.results import (
    TOTAL,
    Ceilings,
    CellNoise,
    FullCheck,
    NotMeasured,
    SpeedReport,
    SystemFacts,
    Timing,
)

MACHINE = {"cpu": "Test 9000", "cores": 2, "os": "Linux x86_64", "flags": ["avx2"], "memory_gb": 24}


CEILINGS = Ceilings(
    threads=1,
    device="cpu",
    fp32_torch_gflop_s=90.0,
    fp32_onnx_gflop_s=100.0,
    bf16_torch_gflop_s=400.0,
    copy_gb_s=20.0,
)


def timing(system, seconds, rtf, stage=TOTAL, *, scatter=0.01, n=5, **rest):
    """A row whose repetitions scatter evenly about `rtf`."""
    rest = {"engine": "onnx", "precision": "fp32", "threads": 1, "batch": 1, **rest}
    middle = rtf * seconds * rest["batch"]
    walls = tuple(middle * (1.0 + scatter * (k - (n - 1) / 2)) for k in range(n))
    return Timing(system=system, seconds=seconds, stage=stage, wall_s=walls, cpu_s=walls, **rest)


def report(rows, **rest):
    provenance = Provenance(command="comosvc-bench rtf", machine=MACHINE, versions={"comosvc": "0"}, commit="abc")
    return SpeedReport(provenance=provenance, options={"device": "cpu"}, rows=tuple(rows), **rest)


def facts(system, **rest):
    return SystemFacts(
        **{"engine": "onnx", "precision": "fp32", "threads": 1, "title": f"the {system}", "sample_rate": 8000, **rest},
        system=system,
    )


def rich_report():
    """Two systems, two lengths, stages, ceilings, a disturbed size, a check, something not measured."""
    rows = []
    for seconds in (1.0, 10.0):
        rows += [
            timing("comosvc", seconds, 0.2, peak_mb=900.0, gflop=10.0 * seconds, ceiling_gflop_s=100.0),
            timing("comosvc", seconds, 0.05, "acoustic"),
            timing("comosvc", seconds, 0.15, "vocoder"),
        ]
    rows += [
        timing("sovits-diff", 10.0, 6.0, evaluations=100, timed=10),
        timing("sovits-diff", 10.0, 5.0, "acoustic", evaluations=100, timed=10),
        timing("sovits-diff", 10.0, 1.0, "vocoder", scatter=0.2),
    ]
    return report(
        rows,
        systems=(
            facts(
                "comosvc",
                load_s=1.5,
                libraries_mb=50.0,
                parameters={"acoustic": 2_000_000},
                gflop_per_s={"acoustic": 7.5, "vocoder": 2.5},
            ),
            facts("sovits-diff"),
        ),
        ceilings=(CEILINGS,),
        noise=(
            CellNoise(threads=1, batch=1, seconds=1.0, others_cores=0.02, load_average=1.0),
            CellNoise(threads=1, batch=1, seconds=10.0, others_cores=0.7, load_average=2.5),
        ),
        full_checks=(
            FullCheck(
                **{"system": "sovits-diff", "engine": "onnx", "precision": "fp32", "threads": 1, "seconds": 10.0},
                full_s=60.0,
                extrapolated_s=66.0,
                within=0.05,
            ),
        ),
        not_measured=(NotMeasured(what="diffsvc (onnx fp32)", why="it broke"),),
    )


def faster(result, factor):
    """The same, every row faster by that."""
    return replace(
        result, rows=tuple(replace(row, wall_s=tuple(wall / factor for wall in row.wall_s)) for row in result.rows)
    )
