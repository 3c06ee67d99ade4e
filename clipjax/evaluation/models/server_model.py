"""A vision-language model that a server of OpenAI's protocol runs, as evaluation needs one.

The server prepares the pixels and has the tokenizer, the chat template and the weights. The card's
fingerprint covers what it says of all that, which does not prove the weights: rows say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from clipjax.checkpoints.card import Preprocess
from clipjax.checkpoints.encoder import Framework, Image
from clipjax.checkpoints.identity.model_reference import ModelReference
from clipjax.checkpoints.identity.naming import NOTHING, StatedIdentity
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.errors import UsageError
from clipjax.evaluation.models.statements import stated_name, with_facts
from clipjax.evaluation.own_model import OwnCard, OwnModel
from clipjax.served.address import server_address
from clipjax.served.client import Client
from clipjax.served.identity import ServerIdentity, server_identity
from clipjax.served.probe import ServerProbe
from clipjax.storage.digests import sha256_json


class ServedRecipe(PixelRecipe):
    """Images are sent as they are decoded; of the fields only `pre_crop` says something."""

    def key(self) -> dict[str, Any]:
        return {"sent": "PNG in its own size", "pre_crop": self.pre_crop}


class ServedPreprocess(Preprocess):
    """The server prepares the images: sizes are 0, as they are not known."""

    def recipe(
        self, *, rgb: Literal["first", "last"] = "first", pre_crop: int = 0, already_cropped: bool = False
    ) -> ServedRecipe:
        return ServedRecipe(1, 1, rgb=rgb, pre_crop=pre_crop)


class ServerModel(OwnModel):
    """Attributes:
    client: asks the server.
    identity: what the server says of itself and the model.
    found: what the probe of the last run found.
    """

    found: ServerProbe | None = None

    def __init__(self, card: OwnCard, client: Client, identity: ServerIdentity) -> None:
        super().__init__(card, None, None)
        self.client, self.identity = client, identity
        versions = {} if identity.build is None else {identity.kind: identity.build}
        self.framework = Framework(f"server:{identity.kind}", versions)
        self.outside = self

    def embed(
        self, images: Sequence[Image], names: Sequence[str], recipe: PixelRecipe
    ) -> tuple[np.ndarray, list[str | None]]:
        """Raises UsageError: a server gives no embeddings."""
        raise UsageError(f"{self.card.id} answers questions, and gives no embeddings: use multiple_choice")

    def encode_image(self, images: Any) -> Any:
        """Raises UsageError as `embed`."""
        return self.embed((), (), self.card.preprocess.recipe())

    def encode_text(self, texts: Any) -> Any:
        """Raises UsageError as `embed`."""
        return self.embed((), (), self.card.preprocess.recipe())


def server_model(reference: ModelReference, stated: StatedIdentity = NOTHING) -> ServerModel:
    """Find out which model a server has; no question is asked yet.

    Raises:
        UsageError: the server has no such model; the stated name is a published model's.
        DataError: no server answers, or the model reads no images.
    """
    address = server_address(reference.value)
    client = Client(address.url)
    identity = server_identity(client, address.model)
    card = OwnCard(
        id=stated_name(stated, f"server:{identity.kind}:{identity.name}", reference),
        kind="vision_language",
        preprocess=ServedPreprocess(0, 0, "shortest", "bicubic", (0, 0, 0), (1, 1, 1)),
        unknown={"weights": f"{identity.proven}: the server does not show them"}
        if identity.digest is None
        else {},
        fingerprint=sha256_json(identity.record()),
    )
    return ServerModel(with_facts(card, stated, "a model that a server runs"), client, identity)
