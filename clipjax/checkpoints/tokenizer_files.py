"""Find tokenizer files that clipjax does not ship."""

from __future__ import annotations

import itertools
from pathlib import Path

from clipjax.checkpoints.card import Card
from clipjax.data.text import vocabularies
from clipjax.data.text.tokenizers import TokenizerSpec
from converters.hub import LocalCheckpoint, found_files


def find_tokenizer_files(
    spec: TokenizerSpec,
    folder: Path | None = None,
    repo: str | None = None,
    revision: str | None = None,
    *,
    download: bool = False,
) -> tuple[Path, ...]:
    """The vocabulary of a tokenizer that clipjax does not ship; else ().

    Searched in the folder, then in the hub's cache, then, with `download`, on the hub. Files with the digest
    of `spec` are preferred to nearer ones. `repo`, that of the weights, comes before the known ones.
    """
    own = vocabularies.rules().get(spec.name)
    if own is None:
        return ()
    beside = [files for names in own.files if folder and (files := vocabularies.files_in(folder, names))]
    repos = [*([repo] if repo else []), *own.repos]
    nearest: tuple[Path, ...] = ()
    revisions = {repo: revision} if repo else {}
    on_hub = found_files(repos, own.files, download=download, revisions=revisions)
    for files in itertools.chain(beside, on_hub):
        if spec.sha256 in (None, vocabularies.digest(files)):
            return files
        nearest = nearest or files
    return nearest


def with_tokenizer_files(card: Card, resolved: LocalCheckpoint) -> tuple[Card, tuple[Path, ...]]:
    """The card with its tokenizer's digest, and the files, or ()."""
    if card.tokenizer is None:
        return card, ()
    on_hub = resolved.repo is not None
    files = find_tokenizer_files(
        card.tokenizer, resolved.folder, resolved.repo, resolved.revision, download=on_hub
    )
    if files and card.tokenizer.sha256 is None:
        card = card.with_tokenizer_files(vocabularies.digest(files))
    return card, files
