"""A model from a Python function of the user's: `module:function`, in the working directory or installed.

    # mine.py
    def build():
        return clipjax.wrap(encode_image, encode_text, name="mine", image_size=224, ...)

    clipjax eval zeroshot --model mine:build --data pets/

The function takes no arguments. It returns what `clipjax.wrap` or `clipjax.load_model` return, or an object
with `card` and `encode_image` (and `encode_text`). It is trusted: its code runs in this process.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from clipjax.checkpoints.encoder import Encoder
from clipjax.checkpoints.identity.naming import taken_names
from clipjax.errors import ClipjaxError, DataError, UsageError, near_names, type_and_line
from clipjax.evaluation.own_model import OwnModel, encoder_of

SHOWN = 12  # names of a module's functions, in a message


def model_of_function(name: str) -> Encoder:
    """Call `module:function`.

    Raises:
        UsageError: no such module or function; it returns something else, or a published model's name.
        DataError: the module or the function raises.
    """
    module, _, path = name.partition(":")
    function = _function(name, module, path)
    try:
        made = function()
    except ClipjaxError:
        raise
    except (Exception, SystemExit) as error:
        raise _raised(name, error) from error
    try:
        model = encoder_of(made)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
    if not isinstance(model, OwnModel):
        return model
    if model.card.id in taken_names():
        raise UsageError(f"{name}: the card's id {model.card.id!r} is a published model's: choose another")
    return model.from_function(name)


def _function(name: str, module: str, path: str) -> Callable[[], Any]:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:  # a console script does not look there
        sys.path.insert(0, here)
    try:
        function = functools.reduce(getattr, path.split("."), importlib.import_module(module))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise DataError(f"{name}: its module needs {error.name}, which is not installed") from None
        raise UsageError(
            f"{name}: no module {module} is in {here} or installed; name a function as module:function"
        ) from None
    except AttributeError as error:
        if error.name not in path.split("."):
            raise _raised(name, error) from error
        raise UsageError(f"{name}: the module {module} has no {path}{_near(module, path)}") from None
    except (Exception, SystemExit) as error:
        raise _raised(name, error) from error
    if not callable(function):
        raise UsageError(f"{name} is a {type(function).__name__}, should be a function that returns a model")
    return function


def _near(module: str, path: str) -> str:
    """Near names, else the functions that the module defines itself."""
    functions = {each: value for each, value in vars(sys.modules[module]).items() if callable(value)}
    if near := near_names(path, list(functions)):
        return f"; did you mean {', '.join(near)}?"
    own = [each for each, value in functions.items() if getattr(value, "__module__", None) == module]
    return f"; it has {', '.join(own[:SHOWN])}" if own else ""


def _raised(name: str, error: BaseException) -> DataError:
    return DataError(f"{name} raised {type_and_line(error)}")
