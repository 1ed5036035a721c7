"""The benchmark of losses on small batches: what it checks, what it records, and its table."""

import pytest
import torch

from benchmarks import losses
from benchmarks import peers_losses as peers

CPU = torch.device("cpu")
SMALL = {"NT-Xent": ((12, 5),), "Barlow Twins": ((12, 5), (5, 12)), "VICReg": ((12, 5), (5, 12)), "SIGReg": ((12, 5),)}


@pytest.mark.long
def test_records_hold_times_and_disagreements(monkeypatch):
    monkeypatch.setattr(losses, "peak_bytes", lambda name, shape, side, device: None if side == "ours" else 3 * 2**20)
    records = losses.run(CPU, 1, SMALL, slices=16, target=1e-3)
    assert [(row["loss"], tuple(row["shape"])) for row in records] == [(k, s) for k, v in SMALL.items() for s in v]
    for row in records:
        assert set(row["seconds"]) == {"ours", *row["ratio_to_ours"]} and len(row["ratio_to_ours"]) == 2
        assert all(0 < error < 1e-5 for error in row["disagreement"].values())
        assert ("peak_bytes" in row) == (row["loss"] == "NT-Xent") and row.get("slices", 16) == 16
    lines = losses.markdown([{"device": "some CPU", "records": records}])
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 + len(records)
    assert "3 MiB solo-learn" in lines[2] and "MiB ours" not in lines[2] and "16 slices" in lines[-1]


def test_nothing_is_timed_where_losses_disagree(monkeypatch):
    right = peers.vicreg_solo
    monkeypatch.setattr(peers, "vicreg_solo", lambda *arguments: 1.25 * right(*arguments))
    with pytest.raises(RuntimeError, match=r"VICReg \(6, 4\) and solo-learn disagree by 0\.2; nothing was timed"):
        losses.run(CPU, 1, {"VICReg": ((6, 4),)}, target=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not losses.STATUS.exists(), reason="the system does not tell a process its peak")
def test_memory_is_that_of_the_call():
    """solo-learn's form keeps at least the similarities and their exponentials, 2 (2n)^2 float32."""
    assert losses.peak_bytes("NT-Xent", (512, 8), "solo-learn", CPU) > 2 * 1024**2 * 4
