"""What the JSON files of a run folder hold: types that a reader may rely on, whoever wrote them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=4096)]
TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "bool",
         "complex64", "complex128")  # fmt: skip


def _shapes(value: Any) -> Any:
    """Returns the shape of one input, or lists and dicts of such; ValueError for anything else."""
    if isinstance(value, list) and all(type(size) is int for size in value):
        if len(value) > 8 or not all(0 <= size < 2**31 for size in value):
            raise ValueError("a shape has at most 8 sizes from 0")
    elif isinstance(value, (list, dict)):
        for inner in value if isinstance(value, list) else value.values():
            _shapes(inner)
    else:
        raise ValueError("it must be a shape, or lists and objects of shapes")
    return value


def _types(value: Any) -> Any:
    """Returns the name of one input's dtype, or lists and dicts of such; ValueError for anything else."""
    if isinstance(value, (list, dict)):
        for inner in value if isinstance(value, list) else value.values():
            _types(inner)
    elif value not in TYPES:
        raise ValueError(f"it must be one of {', '.join(TYPES)}, or lists and objects of such")
    return value


Shapes = Annotated[Any, AfterValidator(_shapes)]
Types = Annotated[Any, AfterValidator(_types)]


class File(BaseModel):
    """A file of tensors as it was when the run was done."""

    model_config = ConfigDict(strict=True)

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Count


class PhaseRecord(BaseModel):
    """phase.json."""

    model_config = ConfigDict(strict=True, extra="allow")

    settings: dict[str, Any]
    parent: Name | None = None
    digest: Name
    code: dict[str, Name] | None = None
    data_dir: Name | None = None
    seal: Name | None = None


class Unpruned(BaseModel):
    """A module's parameters of two or more dimensions that have no mask."""

    model_config = ConfigDict(strict=True)

    module: Name
    type: Name
    weights: Count
    why: Name = ""
    parameters: list[Name]


class Neurons(BaseModel):
    """What masks leave of filters and neurons: by layer [dead, all]; how many have at least 0, 1 ... 100 % of weights pruned."""

    model_config = ConfigDict(strict=True)

    dead: dict[str, Annotated[list[Count], Field(min_length=2, max_length=2)]]
    by_sparsity: Annotated[list[Count], Field(min_length=101, max_length=101)]


class Summary(BaseModel):
    """summary.json: what readers of results rely on."""

    model_config = ConfigDict(strict=True, extra="allow")

    phase: Name
    model: Name | None = None
    data: Name | None = None
    seed: int | None = None
    device: Name | None = None
    backend: Name | None = None
    epochs: Number | None = None
    accuracy: Number | None = None
    val_accuracy: Number | None = None
    loss: Number | None = None
    metric: Number | None = None
    metric_name: Name | None = None
    metric_scale: Number | None = None
    val_metric: Number | None = None
    sparsity: Number | None = None
    model_sparsity: Number | None = None
    compression: Number | None = None
    params: Count | None = None
    nonzero: Count | None = None
    macs: Count | None = None
    sparse_macs: Count | None = None
    speedup: Number | None = None
    seconds: Number | None = None
    images_per_second: Number | None = None
    layers: dict[str, Annotated[list[Count], Field(min_length=2, max_length=2)]] | None = None
    neurons: Neurons | None = None
    unpruned: list[Unpruned] | None = None
    classes: Annotated[int, Field(ge=1)] | None = None
    task: Name = "classification"
    input: Shapes = None
    input_types: Types = None
    files: dict[str, File] | None = None


class Resume(BaseModel):
    """The notes of a resume file."""

    model_config = ConfigDict(strict=True, extra="forbid")

    epoch: Annotated[int, Field(ge=1)]
    content: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # of the tensors' names, types, shapes and values


class LogRecord(BaseModel):
    """A line of log.jsonl: an epoch, or a part of one."""

    model_config = ConfigDict(strict=True, extra="allow")

    epoch: int
    step: Count | None = None
    seconds: Number | None = None
    train_seconds: Number | None = None


class Shrunk(BaseModel):
    """shrink.json."""

    model_config = ConfigDict(strict=True, extra="allow")

    run: Name
    model: Name
    model_code: Name | None = None
    model_options: dict[str, bool | int | float | str]
    input: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=8)]
    classes: Annotated[int, Field(ge=1)]
    task: Name = "classification"
    difference: Number
    examples: Count
    params: Annotated[list[Count], Field(min_length=2, max_length=2)]
    macs: Annotated[list[Count], Field(min_length=2, max_length=2)]
    layers: dict[str, Annotated[list[list[Count] | None], Field(min_length=2, max_length=2)]]
    files: dict[str, File] | None = None
