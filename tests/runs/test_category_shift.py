"""Runs whose tasks lack classes in training say how these are predicted."""

import json
from collections.abc import Callable
from pathlib import Path

import pyro_vmtl as pv
from pyro_vmtl.runs import report_tables
from pyro_vmtl.runs.finished import read_run

SHIFT = ("accuracy_seen", "accuracy_missing", "harmonic_mean")


def test_a_run_scores_seen_and_missing_classes_of_every_task(
    train: Callable[..., Path],
) -> None:
    model = ("model=deterministic", "model.encoder.latent_dim=3", "pool=nested")
    data = ("data=digit_domains", "data.category_shift=0.3")
    run = train(*data, *model, "temperature_scaling=true")
    metrics = json.loads((run / "metrics.json").read_text())
    splits = pv.digit_domains(shots=3, category_shift=0.3)
    counts = splits.test.class_counts
    for scored in (metrics["test"], metrics["calibrated"]["after"]["test"]):
        for t, name in enumerate(splits.test.names):
            seen = splits.train.class_counts[t] > 0
            row = scored[name]
            assert row["harmonic_mean"] <= max(row["accuracy_seen"], row["accuracy_missing"])
            share = float(counts[t][seen].sum() / counts[t].sum())
            mixed = share * row["accuracy_seen"] + (1 - share) * row["accuracy_missing"]
            assert abs(row["accuracy"] - mixed) < 1e-6
    assert "harmonic_mean" not in metrics["validation"]["mean"]  # it lacks the same classes
    assert any("has no training sample of the class" in told for told in metrics["warnings"])
    table = report_tables.scores_table(read_run(run))
    assert [label for label, _ in table.groups[-3:]] == [
        report_tables.METRICS[name][0] for name in SHIFT
    ]
