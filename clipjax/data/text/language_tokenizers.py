"""Text -> token ids and back, as a language model was trained: whatever its checkpoint holds decides.

    tokenizer = load_language_tokenizer("SmolLM2-135M-Instruct.Q4_1.gguf")
    tokenizer.encode(tokenizer.chat([{"role": "user", "content": "What is 2 + 2?"}]))

From a folder of transformers (tokenizer.json, or sentencepiece's tokenizer.model) or from GGUF metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from clipjax.data.text.chat_template import ChatTemplate, Message
from clipjax.data.text.language_vocabularies import DIGITS_FIRST, byte_level_bpe, sentencepiece_bpe
from clipjax.data.text.sentencepiece_model import BPE, NORMAL, Piece, parse_model
from clipjax.errors import DataError, UsageError
from clipjax.storage.formats.gguf import is_gguf, read_gguf
from clipjax.storage.reading import check_exists, exists, is_dir, read_bytes, read_json, read_text

FILES = ("tokenizer.json", "tokenizer.model")  # the preferred first
# Beside them: names of special tokens, when an answer ends, and how a conversation is written.
CONFIGS = ("tokenizer_config.json", "generation_config.json", "chat_template.jinja")
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


class LanguageTokenizer(Protocol):
    """Attributes:
    where: the file, for errors.
    vocab_size: one more than the highest id.
    bos: the token before every text, where the model has one.
    eos: the tokens that end an answer.
    """

    @property
    def where(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def bos(self) -> int | None: ...
    @property
    def eos(self) -> tuple[int, ...]: ...
    def encode(self, text: str, *, special: bool = False) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def chat(self, messages: Sequence[Message]) -> str: ...


@dataclass(frozen=True)
class BuiltTokenizer:
    """A `LanguageTokenizer` over the `tokenizers` library.

    Attributes:
        where: the file, for errors.
        before: what `special` puts before a text.
        after: what `special` puts after a text.
        template: the checkpoint's own; None: it has none.
        names: special tokens by name, for the template.
    """

    where: str
    core: tokenizers.Tokenizer
    vocab_size: int
    bos: int | None
    eos: tuple[int, ...]
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    template: ChatTemplate | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Names of special tokens in the text become these tokens.

        Args:
            special: also the tokens that the checkpoint puts around every text (as <s>).
        """
        if not isinstance(text, str):
            raise DataError(f"{text!r} ({type(text).__name__}) is not text")
        ids = self.core.encode(text.encode(errors="replace").decode(), add_special_tokens=False).ids
        return [*self.before, *ids, *self.after] if special else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Leaves out special tokens, and negative ids, which follow the end of an answer."""
        return self.core.decode([int(i) for i in ids if i >= 0], skip_special_tokens=True)

    def chat(self, messages: Sequence[Message]) -> str:
        """A conversation as one text, up to where the answer begins.

        Raises:
            UsageError: the checkpoint has no chat template, or a message is not one.
            DataError: the template does not take these messages.
        """
        if self.template is None:
            raise UsageError(f"{self.where} has no chat template: give the prompt as text")
        return self.template.render(messages, self.names)


def load_language_tokenizer(path: str | Path) -> BuiltTokenizer:
    """Load the tokenizer of a transformers folder, a GGUF file, or one of `FILES` with `CONFIGS` beside it.

    Raises:
        DataError: no tokenizer there, a damaged one, or of a kind that clipjax does not read.
    """
    path = Path(path)
    check_exists(path)
    if is_dir(path):
        found = next((path / name for name in FILES if exists(path / name)), None)
        if found is None:
            raise DataError(
                f"{path} has no tokenizer: neither {' nor '.join(FILES)}; copy it from the checkpoint"
            )
        path = found
    if is_gguf(path):
        return tokenizer_of_gguf(read_gguf(path).metadata, str(path))
    return _from_files(path)


def check_vocabulary(tokenizer: LanguageTokenizer, rows: int, where: str | Path) -> None:
    """Raises DataError if the tokenizer has ids without a row in the embedding."""
    if tokenizer.vocab_size > rows:
        raise DataError(
            f"{where}: the tokenizer has {tokenizer.vocab_size} ids and the embedding {rows} rows: they "
            "belong to different models, so name the model's own tokenizer"
        )


# --- transformers' files ---


def _from_files(path: Path) -> BuiltTokenizer:
    beside = path.parent / CONFIGS[0]
    config = read_json(beside) if exists(beside) else {}
    if path.suffix == ".json":
        if not config:
            raise DataError(
                f"{beside} is missing: it says which tokens begin and end a text; copy it from the checkpoint"
            )
        core = _built(path, lambda: tokenizers.Tokenizer.from_str(read_text(path)))
        core.no_truncation()
        core.no_padding()
        names: dict[str, str] = {}
        before, after = _around(core, str(path))
    else:
        core, names = _sentencepiece(path)
        before, after = _ids(core, names.get("bos_token")), ()
    names |= {name: token for name in _NAMES if (token := _token(config.get(name))) is not None}
    bos, eos = (_ids(core, names.get(name)) for name in ("bos_token", "eos_token"))
    if config.get("add_bos_token") is not None:
        before = bos if config["add_bos_token"] else ()
    if config.get("add_eos_token") is not None:
        after = eos if config["add_eos_token"] else ()
    return BuiltTokenizer(
        where=str(path),
        core=core,
        vocab_size=_size(core),
        bos=bos[0] if bos else None,
        eos=tuple(sorted({*eos, *_ends(path.parent)})),
        before=before,
        after=after,
        template=chat_template_in(path.parent),
        names=names,
    )


def _ids(core: tokenizers.Tokenizer, token: str | None) -> tuple[int, ...]:
    """The token's id, or none."""
    number = None if token is None else core.token_to_id(token)
    return () if number is None else (number,)


def _around(core: tokenizers.Tokenizer, where: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the file's own last step puts before and after a text."""
    whole, body = (core.encode("a", add_special_tokens=special).ids for special in (True, False))
    for start in range(len(whole) - len(body) + 1):
        if whole[start : start + len(body)] == body:
            return tuple(whole[:start]), tuple(whole[start + len(body) :])
    raise DataError(f"{where} changes a text where it adds special tokens, which clipjax does not read")


def _sentencepiece(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    def build() -> tuple[tokenizers.Tokenizer, dict[str, str]]:
        model = parse_model(read_bytes(path))
        if model.kind != BPE or model.squeezes:
            raise ValueError("it is not a BPE that keeps all spaces, as Llama's is")
        names = {
            f"{name}_token": model.pieces[i].text
            for name, i in model.special.items()
            if 0 <= i < len(model.pieces)
        }
        core = sentencepiece_bpe(
            model.pieces,
            unknown=model.special["unk"],
            prefix=model.prefix,
            characters=model.characters,
        )
        return core, names

    return _built(path, build)


def _token(value: Any) -> str | None:
    """A token of tokenizer_config.json: a text, or an object with its `content`."""
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) else None


def _ends(folder: Path) -> list[int]:
    """transformers ends an answer at these ids, of generation_config.json or, without one, config.json."""
    for name in (CONFIGS[1], "config.json"):
        if exists(folder / name):
            ids = read_json(folder / name).get("eos_token_id")
            ids = ids if isinstance(ids, list) else [ids]
            return [i for i in ids if type(i) is int and i >= 0]
    return []


def chat_template_in(folder: Path) -> ChatTemplate | None:
    """The folder's chat template: a file of its own, else in the tokenizer's configuration."""
    if exists(folder / CONFIGS[2]):
        return ChatTemplate(read_text(folder / CONFIGS[2]), str(folder / CONFIGS[2]))
    beside = folder / CONFIGS[0]
    template = read_json(beside).get("chat_template") if exists(beside) else None
    if isinstance(template, list):  # several, by name
        named = {each.get("name"): each.get("template") for each in template if isinstance(each, Mapping)}
        template = named.get("default")
    return ChatTemplate(template, str(beside)) if isinstance(template, str) else None


# --- GGUF metadata ---

_GGML = "tokenizer.ggml."


def _core_of_gguf(record: Mapping[str, Any]) -> tokenizers.Tokenizer:
    tokens = record["tokens"]
    kinds = record.get("token_type", [NORMAL] * len(tokens))
    if record["model"] == "gpt2":
        pieces = [Piece(text, 0.0, kind) for text, kind in zip(tokens, kinds, strict=True)]
        return byte_level_bpe(pieces, record["merges"], digits_first=DIGITS_FIRST[record["pre"]])
    pieces = [Piece(*each) for each in zip(tokens, record["scores"], kinds, strict=True)]
    prefix = record.get("add_space_prefix", True)
    return sentencepiece_bpe(pieces, unknown=record.get("unknown_token_id", 0), prefix=prefix)


def tokenizer_of_gguf(metadata: Mapping[str, Any], where: str) -> BuiltTokenizer:
    """The tokenizer in a GGUF file's metadata: a byte-level BPE ("gpt2") or sentencepiece's ("llama").

    Raises:
        DataError: another kind of tokenizer or splitting, or damage.
    """
    record = {key.removeprefix(_GGML): value for key, value in metadata.items() if key.startswith(_GGML)}
    model, splitting = record.get("model"), record.get("pre")
    if model == "gpt2" and not (isinstance(splitting, str) and splitting in DIGITS_FIRST):
        raise DataError(
            f"{where}: {_GGML}pre is {splitting!r}; clipjax splits texts as {', '.join(DIGITS_FIRST)}"
        )
    if model not in ("gpt2", "llama"):
        raise DataError(f"{where}: {_GGML}model is {model!r}; clipjax reads gpt2 and llama")
    core = _built(where, lambda: _core_of_gguf(record))
    ids = _special_ids(record, core)
    bos, eos = ids.get("bos_token"), ids.get("eos_token")
    # Without these keys llama.cpp begins a text of sentencepiece with BOS, and adds nothing else.
    adds_bos, adds_eos = record.get("add_bos_token", model == "llama"), record.get("add_eos_token", False)
    ends = [i for i in (eos, record.get("eot_token_id")) if type(i) is int and i >= 0]
    template = metadata.get("tokenizer.chat_template")
    return BuiltTokenizer(
        where=where,
        core=core,
        vocab_size=_size(core),
        bos=bos,
        eos=tuple(sorted(set(ends))),
        before=(bos,) if adds_bos and bos is not None else (),
        after=(eos,) if adds_eos and eos is not None else (),
        template=ChatTemplate(template, where) if isinstance(template, str) else None,
        names={name: core.id_to_token(i) for name, i in ids.items()},
    )


_LONG_NAMES = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
}


def _special_ids(record: Mapping[str, Any], core: tokenizers.Tokenizer) -> dict[str, int]:
    ids = {name: record.get(f"{long}_token_id") for name, long in _LONG_NAMES.items()}
    # A file may name ids beyond its vocabulary.
    return {name: i for name, i in ids.items() if type(i) is int and core.id_to_token(i) is not None}


def _size(core: tokenizers.Tokenizer) -> int:
    return max(core.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _built(where: str | Path, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except DataError:
        raise
    except Exception as error:  # `tokenizers` raises bare Exceptions for a bad vocabulary
        why = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{where}: the tokenizer is damaged, or not one that clipjax reads ({why})") from None
