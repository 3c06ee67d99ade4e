"""timm 1.0 `resnet.ResNet`, and SimCLR's widened ones built with its blocks."""

from __future__ import annotations

from typing import Any

from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from converters.golden.recording import RecordedTower, recording
from converters.golden.weights import BRANCH_GAIN, SE_GAIN, measure_batch_norms, scaled_normal

EXPANSION = 4


def timm_sizes(record: dict[str, Any]) -> dict[str, Any]:
    expansion = EXPANSION if record["block"] == "bottleneck" else 1
    channels = tuple(width // expansion for width in record["widths"])
    return {"layers": tuple(record["layers"]), "channels": channels}


def simclr_model(name: str, sizes: dict[str, Any] | None) -> ResNet:
    """SimCLR's ResNet-50, "resnet50xWIDTH": the stem is widened too, which timm cannot do.

    Source: bethgelab/model-vs-human, `simclr/zoo`: torchvision's, with `width_per_group` and all
    planes multiplied.
    """
    width = int(name.rpartition("x")[2])
    layers, stem, classes = (3, 4, 6, 3), 64 * width, 1000
    channels = tuple(stem * 2**i for i in range(4))
    if sizes is not None:
        vision, classes = sizes["vision"], sizes["num_classes"]
        layers, stem = tuple(vision["layers"]), vision["stem_width"]
        channels = timm_sizes(vision)["channels"]
    block: Any = Bottleneck
    model: Any = ResNet(block, layers=layers, channels=channels, num_classes=classes)
    model.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
    model.bn1 = nn.BatchNorm2d(stem)
    first = model.layer1[0]
    first.conv1 = nn.Conv2d(stem, channels[0], 1, bias=False)
    first.downsample[0] = nn.Conv2d(stem, EXPANSION * channels[0], 1, bias=False)
    return model


def blocks_of(model: Any) -> dict[str, Any]:
    return {
        f"layer{s}.{j}": block for s in (1, 2, 3, 4) for j, block in enumerate(getattr(model, f"layer{s}"))
    }


def stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    with recording({"stem": model.maxpool, **blocks_of(model), "pooled": model.global_pool}) as tensors:
        model(images)
    return tensors


def condition(model: Any, seed: int) -> None:
    gains: dict[str, float] = {}
    for name, block in blocks_of(model).items():
        gains[f"{name}.bn{3 if isinstance(block, Bottleneck) else 2}"] = BRANCH_GAIN
        se: Any = block.se
        if se is not None:
            for conv in (se.fc1, se.fc2):
                scaled_normal(conv.weight, SE_GAIN)
    measure_batch_norms(model, 64, seed, gains)


def takes(module: nn.Module) -> bool:
    return isinstance(module, ResNet)


TOWERS = [RecordedTower(takes, stages, condition)]
