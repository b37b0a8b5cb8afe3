"""MACs of networks are those of torch's counter, and fvcore's but for what it counts besides or leaves out."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "count_peers.py"
QUICK = (
    "torchvision:resnet18", "torchvision:mobilenet_v3_small", "torchvision:squeezenet1_1", "torchvision:shufflenet_v2_x1_0",
    "timm:ghostnet_100", "timm:nf_resnet26", "timm:edgenext_xx_small", "timm:mobilevit_xxs", "timm:xcit_nano_12_p16_224",
    "transformers:bert", "transformers:gpt2", "transformers:llama", "transformers:mixtral", "transformers:t5",
)  # fmt: skip


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    pytest.importorskip("fvcore", reason="the comparison needs fvcore (extra test)")
    spec = importlib.util.spec_from_file_location("count_peers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["count_peers"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", QUICK)
def test_counts_are_those_of_torch_and_fvcore_or_differ_for_a_reason(peers: ModuleType, name: str) -> None:
    pytest.importorskip(name.partition(":")[0])
    row = peers.compare(name, *dict(peers.networks())[name]())
    assert row.explained, row
    if name != "transformers:mixtral":
        assert row.torch == row.ours
    assert row.fvcore is not None


def test_at_least_forty_networks_are_compared(peers: ModuleType) -> None:
    names = [name for name, _ in peers.networks()]
    assert len(names) == len(set(names)) >= 40
