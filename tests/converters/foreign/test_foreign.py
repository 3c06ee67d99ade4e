"""Which configuration lies beside weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from _foreign import card, write

from clipjax.errors import DataError
from converters.foreign import read_foreign_card
from converters.golden import model_config


def test_kinds_are_told_apart_by_their_fields(tmp_path: Path) -> None:
    assert read_foreign_card(tmp_path) is None
    write(tmp_path, {"model_cfg": model_config("ViT-B-32"), "preprocess_cfg": {}}, "config.json")
    assert card(tmp_path)["source"]["library"] == "open_clip"
    write(tmp_path, {"model_type": "bert"}, "config.json")
    with pytest.raises(
        DataError, match="neither open_clip's, nor a CLIPModel's, SiglipModel's or LLaVA's, nor Prismatic's"
    ):
        read_foreign_card(tmp_path)
    write(tmp_path, {"model_cfg": model_config("ViT-B-16"), "preprocess_cfg": {}})
    assert card(tmp_path)["arch"]["vision"]["patch_size"] == 16  # open_clip's own file goes first
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        read_foreign_card(tmp_path)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"config\.json is not JSON we read: brackets are nested too deeply"):
        read_foreign_card(tmp_path)
    config.write_text("[1]")
    with pytest.raises(DataError, match="is not a JSON object"):
        read_foreign_card(tmp_path)
    config.write_text('{"model_type": ["clip"]}')
    with pytest.raises(DataError, match="neither open_clip's"):
        read_foreign_card(tmp_path)
