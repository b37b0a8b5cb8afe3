"""Weights from elsewhere become runs: layouts of checkpoints, what does not fit, masks, and what may follow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Prune
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from pruning import PlanError, engine
from pruning.engine.fit_names import fit
from pruning.masks import Masks
from pruning.record import runs
from pruning.record.foreign import Foreign, read

MODEL = ("--model", "nets.py:tiny", "--data", "sets.py:blobs", "--device", "cpu")


def tiny() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def trained() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return tiny().state_dict()


def save(value: Any, name: str) -> str:
    torch.save(value, name)
    return name


def weights_of(run: str | Path) -> dict[str, Tensor]:
    return engine.load_model(Path(run)).state_dict()


def adopted(prune: Prune, *args: str) -> Path:
    return prune("adopt", *args, *MODEL).run


# --- layouts of checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [
        lambda sd: sd,
        lambda sd: {"state_dict": {f"module.{k}": v for k, v in sd.items()}, "epoch": 3, "optimizer": {"state": {}}},
        lambda sd: {"pytorch-lightning_version": "2.6", "state_dict": {f"model.{k}": v for k, v in sd.items()}},
        lambda sd: {"model": {f"_orig_mod.module.{k}": v for k, v in sd.items()}, "args": {"lr": 0.1}},
        lambda sd: {"arch": "tiny", "state_dict_ema": sd},
        lambda sd: {f"net.body.{k}": v for k, v in sd.items()},
        lambda sd: {k: v.double() for k, v in sd.items()},
    ],
    ids=["plain", "ddp", "lightning", "compiled", "timm ema", "prefix", "float64"],
)
def test_torch_files_of_training_loops_give_the_weights(
    workspace: Path, prune: Prune, trained: dict[str, Tensor], layout: Callable[[dict[str, Tensor]], Any]
) -> None:
    run = adopted(prune, save(layout(trained), "w.pt"))
    found = weights_of(run)
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], value) for name, value in trained.items())


def test_safetensors_and_folders_of_shards_give_the_weights(
    workspace: Path, prune: Prune, trained: dict[str, Tensor]
) -> None:
    save_file(trained, "w.safetensors")
    one = adopted(prune, "w.safetensors")
    folder = Path("hub")
    folder.mkdir()
    names = list(trained)
    files = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: trained[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    two = adopted(prune, "hub")
    assert one != two
    assert all(torch.equal(value, weights_of(two)[name]) for name, value in weights_of(one).items())


def test_an_adopted_run_is_measured_named_by_its_file_and_made_once(
    workspace: Path, prune: Prune, trained: dict[str, Tensor]
) -> None:
    file = save(trained, "w.pt")
    run = adopted(prune, file)
    summary = runs.read_summary(run)
    assert (summary["phase"], summary["epochs"], summary["sparsity"]) == ("train", 0, 0.0)
    train = runs.train_settings(run)
    assert train.adopted is not None
    assert len(train.adopted.sha256) == 64
    assert prune("verify", "runs").code == 0
    stamp = (run / "summary.json").stat().st_mtime_ns
    assert adopted(prune, file) == run
    assert (run / "summary.json").stat().st_mtime_ns == stamp
    measured = prune("eval", run, "--json").json
    assert measured["accuracy"] == summary["accuracy"]
    trained["1.weight"] = trained["1.weight"] + 1
    assert adopted(prune, save(trained, "other.pt")) != run
    shown = prune("show", run, "--json").json
    assert shown["log"] == []


def test_one_of_several_state_dicts_is_chosen_and_the_others_are_told(
    workspace: Path, prune: Prune, trained: dict[str, Tensor]
) -> None:
    ema = {name: value + 1 for name, value in trained.items()}
    file = save({"state_dict": trained, "state_dict_ema": ema}, "w.pt")
    first = prune("adopt", file, *MODEL)
    assert "taken is 'state_dict' of the file; --key takes another: state_dict_ema" in first.err
    run = adopted(prune, file, "--key", "state_dict_ema")
    assert run != first.run
    assert torch.equal(weights_of(run)["1.weight"], ema["1.weight"])
    wrong = prune("adopt", file, "--key", "state_dict_em", *MODEL)
    assert "key 'state_dict_em' is no state dict in 'w.pt' (did you mean 'state_dict_ema'?)" in wrong.err


def test_tied_weights_and_counters_of_batches_may_be_missing() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.head = nn.Embedding(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight

    state = Tied().state_dict()
    for name in ("head.weight", "norm.num_batches_tracked"):
        del state[name]
    found = fit(Tied(), Foreign(state, "0" * 64, "w"))
    assert found.describe() == ""


# --- what does not fit --------------------------------------------------------------------------------------


def test_what_does_not_fit_is_listed_with_the_nearest_names_and_partial_takes_the_rest(
    workspace: Path, prune: Prune, trained: dict[str, Tensor]
) -> None:
    other = {
        "1.weigth": trained["1.weight"],
        "1.bias": trained["1.bias"],
        "3.weight": torch.ones(7, 8),
        "3.bias": torch.ones(7),
    }
    file = save(other, "w.pt")
    refused = prune("adopt", file, *MODEL)
    assert refused.code == 1
    assert "it lacks '1.weight' (did you mean '1.weigth'?)" in refused.err
    assert "the network lacks its '1.weigth'" in refused.err
    assert "shapes differ: '3.weight' [7, 8] for [3, 8], '3.bias' [7] for [3]; --partial takes what fits" in refused.err
    assert not list(Path("runs").glob("*")) if Path("runs").exists() else True
    taken = prune("adopt", file, "--partial", *MODEL)
    assert "taken are 1 tensors; the rest of the network is at its initialization" in taken.err
    assert torch.equal(weights_of(taken.run)["1.bias"], trained["1.bias"])


def test_a_backbone_without_its_wrapper_fits_under_the_networks_prefix() -> None:
    network = nn.ModuleDict({"backbone": tiny(), "head": nn.Linear(3, 2)})
    found = fit(network, Foreign(tiny().state_dict(), "0" * 64, "w"))
    assert sorted(found.tensors) == [f"backbone.{name}" for name in sorted(tiny().state_dict())]
    assert found.missing == ["head.weight", "head.bias"]


class Coded:
    """What only code can load."""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "weights 'w.pt' do not exist"),
        (b"", "weights 'w.pt' are an empty file"),
        (b"some text of no kind", "neither a safetensors nor a torch file"),
        (b"PK\x03\x04 but no archive", "damaged or no torch file"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{not json at all", "are damaged"),
        ({"model": Coded()}, r"hold objects that only code can load \(.*Coded\), which is refused"),
        ({"epoch": 3}, r"hold no state dict; their keys are \[\"epoch\"\]"),
        ([torch.ones(3)], "hold a list, not a state dict"),
        ({"a.weight": torch.ones(2), "a.bias": torch.ones(2)}, "are of another network: none of their 2 tensors"),
        ({"1.weight": torch.ones(8, 16, dtype=torch.int8)}, "'1.weight' is int8, of a quantized network"),
        ({"1.weight": torch.full((8, 16), float("nan"))}, "'1.weight' holds values that are not finite"),
        ({"1.weight": torch.ones(8, 16).to_sparse()}, "'1.weight' has layout torch.sparse_coo; save it dense"),
    ],
)
def test_what_cannot_be_adopted_is_one_line_before_work(workspace: Path, prune: Prune, content: Any, says: str) -> None:
    import re

    if isinstance(content, bytes):
        Path("w.pt").write_bytes(content)
    elif content is not None:
        save(content, "w.pt")
    result = prune("adopt", "w.pt", *MODEL)
    assert result.code == 1
    assert re.search(says, result.err), result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "name a file of WEIGHTS, or give --pretrained NAME"),
        (("w.pt", "--set", "method=gmp"), "'method' is not used by adopt"),
        (("w.pt", "--set", "lr=0.1"), "the original training's lr is given without its epochs"),
        (("w.pt", "--key", "x"), "key 'x' is no state dict in 'w.pt'"),
        (("--pretrained", "default"), "--pretrained is for models of torchvision and timm, not for 'nets.py:tiny'"),
        ((".",), "weights '.' are a folder without model.safetensors"),
    ],
)
def test_bad_arguments_are_refused_by_name(
    workspace: Path, prune: Prune, trained: dict[str, Tensor], args: tuple[str, ...], says: str
) -> None:
    save(trained, "w.pt")
    result = prune("adopt", *args, *MODEL)
    assert result.code == 1
    assert says in result.err


# --- masks --------------------------------------------------------------------------------------------------


def test_masks_of_torch_prune_are_taken_over(workspace: Path, prune: Prune) -> None:
    model = tiny()
    torch_prune.random_unstructured(model[1], "weight", 0.5)
    torch_prune.random_unstructured(model[1], "bias", 0.25)
    file = save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, "w.pt")
    run = adopted(prune, file)
    masks = Masks.load(run / "masks.safetensors")
    assert torch.equal(masks["1.weight"], model[1].weight_mask.bool())
    assert bool(masks["3.weight"].all())
    assert torch.equal(masks.extra["1.bias"], model[1].bias_mask.bool())
    assert runs.read_summary(run)["sparsity"] == pytest.approx(64 / (128 + 24))
    further = prune("prune", run, "--sparsity", "0.8", "--json").json
    assert further["sparsity"] == pytest.approx(0.8, abs=0.01)
    less = prune("prune", run, "--sparsity", "0.2")
    assert "sparsity 0.2 is less than the present sparsity" in less.err
    retrained = prune("retrain", run, "--technique", "fine-tune", "--lr", "0.01", "--epochs", "1").run
    assert Masks.load(retrained / "masks.safetensors").kept == masks.kept


def test_zeros_without_masks_are_told_and_taken_as_pruned_where_asked(
    workspace: Path, prune: Prune, trained: dict[str, Tensor]
) -> None:
    trained["1.weight"][:, :8] = 0
    file = save(trained, "w.pt")
    dense = prune("adopt", file, *MODEL)
    assert "42.1 % of the prunable weights are 0 and there are no masks: --masks-from-zeros takes them" in dense.err
    assert "0.4211 of the prunable weights are 0 already" in prune("prune", dense.run, "--sparsity", "0.3").err
    sparse = adopted(prune, file, "--masks-from-zeros")
    assert runs.read_summary(sparse)["sparsity"] == pytest.approx(64 / 152)


# --- what may follow ----------------------------------------------------------------------------------------


def test_without_the_original_schedule_only_tuned_schedules_follow(
    workspace: Path, prune: Prune, trained: dict[str, Tensor]
) -> None:
    pruned = prune("prune", adopted(prune, save(trained, "w.pt")), "--sparsity", "0.5").run
    for wanted in (
        ("--technique", "lr-rewind"),
        ("--schedule", "llr"),
        ("--schedule", "allr"),
        ("--technique", "fine-tune"),
    ):
        result = prune("retrain", pruned, *wanted, "--epochs", "1")
        assert result.code == 1
        assert "this run was adopted without them: give --technique fine-tune --lr" in result.err
    assert (
        "follows the length of the training" in prune("retrain", pruned, "--technique", "fine-tune", "--lr", "0.1").err
    )
    assert prune("retrain", pruned, "--technique", "fine-tune", "--lr", "0.1", "--epochs", "1").code == 0
    cosine = ("--schedule", "cosine", "--set", "schedule_lr=0.1", "--epochs", "1")
    assert prune("retrain", pruned, *cosine).code == 0
    assert "--lr is for --technique fine-tune" in prune("retrain", pruned, "--lr", "0.1").err


def test_with_the_original_schedule_its_learning_rates_follow_but_no_state_of_it(
    workspace: Path, prune: Prune, trained: dict[str, Tensor]
) -> None:
    schedule = ("--set", "epochs=4", "--set", "lr=0.1", "--set", "milestones=[3]", "--set", "batch_size=20")
    pruned = prune("prune", adopted(prune, save(trained, "w.pt"), *schedule), "--sparsity", "0.5").run
    run = prune("retrain", pruned, "--technique", "lr-rewind", "--epochs", "2").run
    rates = [json.loads(line)["lr"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([0.1, 0.01])
    assert prune("retrain", pruned, "--schedule", "allr", "--epochs", "1").code == 0
    assert prune("retrain", pruned, "--technique", "reinit", "--epochs", "1").code == 0
    for technique in ("weight-rewind", "low-lr-rewind"):
        refused = prune("retrain", pruned, "--technique", technique, "--epochs", "1")
        assert f"{technique} sets weights back to a state of the training, and this run was adopted" in refused.err
    iterated = prune(
        "iterate", pruned, "--sparsity", "0.8", "--cycles", "1", "--technique", "lr-rewind", "--epochs", "1"
    )
    assert iterated.code == 0, iterated.err


def test_a_dry_run_writes_nothing_and_says_what_does_not_fit(
    workspace: Path, prune: Prune, trained: dict[str, Tensor]
) -> None:
    file = save(trained, "w.pt")
    row = prune("adopt", file, *MODEL, "--dry-run", "--json").json["phases"][0]
    assert (row["phase"], row["epochs"], row["steps"], row["done"]) == ("train", 0, 0, False)
    assert not Path("runs").exists()
    assert adopted(prune, file) == Path(row["run"])
    del trained["1.bias"]
    assert "it lacks '1.bias'" in prune("adopt", save(trained, "w.pt"), *MODEL, "--dry-run").err


def test_a_run_without_its_file_is_not_made_again(workspace: Path, prune: Prune, trained: dict[str, Tensor]) -> None:
    run = adopted(prune, save(trained, "w.pt"))
    train = runs.train_settings(run)
    shutil.rmtree(run)
    with pytest.raises(PlanError, match=r"was adopted from weights of SHA-256 .*: prune adopt makes it"):
        engine.advance(train, None, Path("runs"), device="cpu")


# --- libraries ----------------------------------------------------------------------------------------------


def test_pretrained_weights_of_torchvision_come_from_its_cache(
    workspace: Path, prune: Prune, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(workspace / "hub"))
    cache = workspace / "hub" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.manual_seed(0)
    source = torchvision.models.squeezenet1_1()
    torch.save(source.state_dict(), cache / "squeezenet1_1-b8a52dc0.pth")
    (workspace / "rgb.py").write_text(
        "import torch\n\ndef load():\n    x, y = torch.randn(12, 3, 32, 32), torch.arange(12) % 4\n"
        "    return (x, y), None, (x, y)\n"
    )
    args = (
        "--pretrained",
        "IMAGENET1K_V1",
        "--model",
        "torchvision:squeezenet1_1",
        "--data",
        "rgb.py:load",
        "--device",
        "cpu",
    )
    refused = prune("adopt", *args)
    assert "shapes differ: 'classifier.1.weight' [1000, 512, 1, 1] for [4, 512, 1, 1]" in refused.err
    run = prune("adopt", *args, "--partial").run
    assert torch.equal(weights_of(run)["features.0.weight"], source.state_dict()["features.0.weight"])
    wrong = prune("adopt", "--pretrained", "IMAGENET1K_V3", *args[2:])
    assert "torchvision has no weights 'IMAGENET1K_V3' for 'squeezenet1_1'" in wrong.err


def test_unknown_tags_of_timm_are_refused_before_any_download(workspace: Path, prune: Prune) -> None:
    pytest.importorskip("timm")
    result = prune("adopt", "--pretrained", "a1_in2k", "--model", "timm:resnet18", "--data", "sets.py:blobs")
    assert "timm has no weights 'a1_in2k' for 'resnet18' (did you mean 'a1_in1k'?)" in result.err


def test_a_folder_of_transformers_is_a_model_and_its_weights(workspace: Path, prune: Prune) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=3,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    source = transformers.BertForSequenceClassification(config)
    source.save_pretrained("bert")
    (workspace / "tokens.py").write_text(
        "import torch\n\ndef load():\n    x, y = {'input_ids': torch.randint(1, 30, (12, 8))}, torch.arange(12) % 3\n"
        "    return {'train': (x, y), 'validation': None, 'test': (x, y), 'classes': 3}\n"
    )
    args = ("--model", "transformers:bert", "--data", "tokens.py:load", "--device", "cpu")
    run = prune("adopt", "bert", *args).run
    found = weights_of(run)
    assert all(torch.equal(found[name], value) for name, value in source.state_dict().items())
    pruned = prune("prune", run, "--sparsity", "0.8").run
    assert "bert.encoder.layer.0.attention.self.query.weight" in runs.read_summary(pruned)["layers"]
    table = json.loads(Path("bert/config.json").read_text())
    Path("bert/config.json").write_text(json.dumps({**table, "hidden_act": "relu"}))
    assert "config.json has changed since the run was made" in prune("eval", run).err
    Path("bert/config.json").write_text(json.dumps({**table, "auto_map": {"AutoModel": "mine.Net"}}))
    assert "names code of its own (auto_map)" in prune("adopt", "bert", *args).err
    gone = prune("adopt", "bert", "--model", "transformers:nowhere", *args[2:])
    assert "needs a folder with a config.json; nowhere/config.json does not exist" in gone.err


def test_reading_leaves_prefixes_alone_where_the_names_fit(workspace: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    save(Wrapped().state_dict(), "w.pt")
    found = fit(Wrapped(), read(Path("w.pt")))
    assert sorted(found.tensors) == ["module.bias", "module.weight"]
