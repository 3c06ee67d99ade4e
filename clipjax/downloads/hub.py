"""Files of data sets on the Hugging Face hub: hf://datasets/ORG/NAME[@REVISION]/PATH.

huggingface_hub is asked for the commit, the size and the SHA-256; the bytes come over https like any
other file's, since `hf_hub_download` starts anew after its process was killed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from clipjax.storage.remote.web import MayPass, Refused, check_status
from converters.hub import hub_refusal, is_offline, quiet

_PARTS = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+?)(?:@([\w.-]+))?/(\S+)", re.ASCII)


@dataclass(frozen=True)
class HubFile:
    """A file of one commit.

    Attributes:
        url: over https.
        headers: those of the user's login.
        commit: 40 hexadecimal digits.
        size: in bytes; None: the hub does not state it.
        sha256: that of a large file; None: the hub has none.
    """

    url: str
    headers: dict[str, str]
    commit: str
    size: int | None
    sha256: str | None


def hub_file(address: str) -> HubFile:
    """The file at an address, of its revision, else of main's commit.

    Raises:
        Refused: the hub does not give the file, or it may not be asked.
        MayPass: the hub does not answer.
    """
    import huggingface_hub
    from huggingface_hub import errors, utils

    match = _PARTS.fullmatch(address)
    assert match is not None, address  # `CardFile` has checked it
    repo, revision, path = match.groups()
    if is_offline():
        raise Refused("the hub is not asked (HF_HUB_OFFLINE is set)")
    try:
        with quiet():
            url = huggingface_hub.hf_hub_url(repo, path, repo_type="dataset", revision=revision)
            found = huggingface_hub.get_hf_file_metadata(url)
    except Exception as error:  # also of the HTTP library, which changed with huggingface_hub's versions
        if isinstance(error, errors.EntryNotFoundError):
            raise Refused(f"the repository has no file {path}") from None
        if refusal := hub_refusal(error, repo, revision, "the data card"):
            raise Refused(str(refusal)) from None
        if isinstance(error, errors.HfHubHTTPError):
            check_status(error.response.status_code, error.response.headers)
        raise MayPass(f"the hub does not answer ({type(error).__name__})") from None
    if found.commit_hash is None:
        raise Refused("the hub does not state the commit of the file")
    url = huggingface_hub.hf_hub_url(repo, path, repo_type="dataset", revision=found.commit_hash)
    sha256 = found.etag if re.fullmatch("[0-9a-f]{64}", found.etag or "") else None
    return HubFile(url, utils.build_hf_headers(), found.commit_hash, found.size, sha256)
