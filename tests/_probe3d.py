"""probe3d's dense features over open_clip's and timm's modules, written from a description of its wrappers.

Images are [B, 3, H, W]; a map is [B, C, h, w]. Position tables are read from the model at every call.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch.nn.functional import interpolate, pad


def padded(images: torch.Tensor, patch: int) -> torch.Tensor:
    height, width = images.shape[2:]
    if height % patch == 0 and width % patch == 0:
        return images
    more_height, more_width = patch - height % patch, patch - width % patch
    top, left = more_height // 2, more_width // 2
    return pad(images, (left, more_width - left, top, more_height - top))


# ------------------------------------------------------------------------------------- position tables


def by_count(table: torch.Tensor, prefix: int, height: int, width: int) -> torch.Tensor:
    """Rule (a): CLIP's and DeiT's. `table` is [N, D]."""
    patches = table[prefix:]
    if len(patches) == height * width:
        return table
    return torch.cat([table[:prefix], _resized(patches, size=(height, width), antialias=True)])


def by_factor(table: torch.Tensor, prefix: int, height: int, width: int) -> torch.Tensor:
    """Rule (b): DINOv2's."""
    patches = table[prefix:]
    if len(patches) == height * width and height == width:
        return table
    side = int(len(patches) ** 0.5)
    factors = (height + 0.1) / side, (width + 0.1) / side
    return torch.cat([table[:prefix], _resized(patches, scale_factor=factors)])


def by_timm(table: torch.Tensor, prefix: int, height: int, width: int) -> torch.Tensor:
    """Rule (c): SigLIP's; with a prefix of 0, also that of DINOv2's models with registers."""
    return resample_abs_pos_embed(table[None], [height, width], num_prefix_tokens=prefix)[0]


def _resized(patches: torch.Tensor, **options: Any) -> torch.Tensor:
    side = int(len(patches) ** 0.5)
    grid = patches.T.reshape(1, -1, side, side)
    resized = interpolate(grid, mode="bicubic", align_corners=False, **options)
    return resized[0].flatten(1).T


# -------------------------------------------------------------------------------------------- wrappers


def clip_vit(visual: Any, images: torch.Tensor, blocks: list[int], over_batch: bool = False) -> torch.Tensor:
    """open_clip's; `over_batch` as with its version 2.23, whose blocks take the sequence first."""
    grid = visual.conv1(images)
    x = _with_tokens(grid, [visual.class_embedding])
    x = visual.ln_pre(x + by_count(visual.positional_embedding, 1, *grid.shape[2:]))

    def run(block: Any, x: torch.Tensor) -> torch.Tensor:
        return block(x.transpose(0, 1)).transpose(0, 1) if over_batch else block(x)

    return _maps([lambda x, b=b: run(b, x) for b in visual.transformer.resblocks], x, blocks, 1, grid)


def deit3(model: Any, images: torch.Tensor, blocks: list[int]) -> torch.Tensor:
    grid = model.patch_embed.proj(images)
    table = by_count(model.pos_embed[0], 0, *grid.shape[2:])
    x = _with_tokens(grid + _as_grid(table, grid), [model.cls_token[0, 0]])
    return _maps(model.blocks, x, blocks, 1, grid)


def dinov2(model: Any, images: torch.Tensor, blocks: list[int]) -> torch.Tensor:
    grid = model.patch_embed.proj(images)
    x = _with_tokens(grid, [model.cls_token[0, 0]]) + by_factor(model.pos_embed[0], 1, *grid.shape[2:])
    return _maps(model.blocks, x, blocks, 1, grid)


def dinov2_registers(model: Any, images: torch.Tensor, blocks: list[int]) -> torch.Tensor:
    """timm keeps the class token's row of the table in the token."""
    grid = model.patch_embed.proj(images)
    table = by_timm(model.pos_embed[0], 0, *grid.shape[2:])
    tokens = [model.cls_token[0, 0], *model.reg_token[0]]
    return _maps(model.blocks, _with_tokens(grid + _as_grid(table, grid), tokens), blocks, len(tokens), grid)


def siglip(visual: Any, images: torch.Tensor, blocks: list[int]) -> torch.Tensor:
    trunk = getattr(visual, "trunk", visual)
    grid = trunk.patch_embed.proj(images)
    table = by_timm(trunk.pos_embed[0], 0, *grid.shape[2:])
    return _maps(trunk.blocks, _with_tokens(grid + _as_grid(table, grid), []), blocks, 0, grid)


def convnext(visual: Any, images: torch.Tensor, stages: list[int]) -> torch.Tensor:
    trunk = getattr(visual, "trunk", visual)
    return _of_stages([trunk.stem, *trunk.stages], images, stages)


def modified_resnet(visual: Any, images: torch.Tensor, stages: list[int]) -> torch.Tensor:
    """probe3d has no wrapper: clipjax reads the net as ConvNeXt."""
    layers = [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
    return _of_stages([visual.stem, *layers], images, stages)


def _of_stages(modules: list[Any], images: torch.Tensor, stages: list[int]) -> torch.Tensor:
    """The stem is the first module. 16 pixels make one pixel of the map."""
    size = images.shape[2] // 16, images.shape[3] // 16
    x, maps = modules[0](images), []
    for index, stage in enumerate(modules[1:]):
        x = stage(x)
        if index in stages:
            maps.append(interpolate(x, size=size, mode="bilinear", align_corners=False))
    return torch.cat(maps, dim=1)


def _with_tokens(grid: torch.Tensor, tokens: list[torch.Tensor]) -> torch.Tensor:
    x = grid.flatten(2).transpose(1, 2)
    return torch.cat([*(token.expand(len(x), 1, -1) for token in tokens), x], dim=1)


def _as_grid(table: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return table.T.reshape(1, -1, *grid.shape[2:])


def _maps(blocks: Any, x: torch.Tensor, wanted: list[int], prefix: int, grid: torch.Tensor) -> torch.Tensor:
    maps = []
    for index, block in enumerate(blocks):
        x = block(x)
        if index in wanted:
            maps.append(x[:, prefix:].transpose(1, 2).reshape(grid.shape))
    return torch.cat(maps, dim=1)
