"""A run on a two-node Ray cluster, one node of which is killed midway, leaves what a run in one process leaves."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from factory import filtering
from tests import corpora

ray = pytest.importorskip("ray", reason="Ray is not installed; pip install 'synthetic-dataset-factory[ray]'")


def test_a_node_dies_midway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    from factory.filtering import ray_engine
    from tests.conftest import ROOT

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # what else this machine runs must not end the test's workers
    monkeypatch.chdir(ROOT)
    corpus = f"{{dataset: {corpora.parquet(tmp_path / 'c' / '0.parquet', 120, group=10)}, image: photo}}"
    log = tmp_path / "log"
    filters = f"[{{kind: tests.corpora.Brightness, min: 100, log: {log}, seconds: 0.05}}]"
    recipe = filtering.load(corpora.recipe(tmp_path / "ray.yaml", corpus=corpus, filters=filters))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        nodes = len([node for node in ray.nodes() if node["Alive"]])
        out, done = tmp_path / "run", list[int]()

        def kill() -> None:
            while len(list(out.glob("marks/*.json"))) < 2:
                time.sleep(0.05)
            cluster.remove_node(second, allow_graceful=False)
            done.append(len(list(out.glob("marks/*.json"))))

        killer = threading.Thread(target=kill, daemon=True)  # a run that fails must not wait for marks that never come
        killer.start()
        report = ray_engine.run(recipe, out, device="cpu")
        killer.join()
        assert nodes == 2 and not second.any_processes_alive() and 2 <= done[0] < 12  # it died between the first shard and the last
    finally:
        ray.shutdown()
        cluster.shutdown()
    local = filtering.run(recipe, tmp_path / "local", "cpu")
    assert local is not None and report["kept"] == local["kept"] > 0 and report["read"] == 120 and report["refused"] == local["refused"]
    for name in ("selection.parquet", "kept.parquet"):
        assert (out / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
