"""The user's own loaders: ``package.module:function``."""

from __future__ import annotations

import importlib
import os
import sys

import torch
from torch import nn

from zeroq_asr.checkpoints.weights import freeze, require_finite
from zeroq_asr.errors import CheckpointError, ZeroqError
from zeroq_asr.lines import said
from zeroq_asr.model import AsrModel
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer


def load_with(loader: str, path: str | os.PathLike[str]) -> AsrModel:
    """Import ``loader`` and return ``function(path)``, its network in float32 and inference mode.

    The current folder is searched too.  Raises CheckpointError when there is no such function, it
    fails, or it does not return an AsrModel.
    """
    module_name, colon, function_name = loader.partition(":")
    if not (colon and module_name and function_name):
        raise CheckpointError(loader, "is no loader", "write package.module:function")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except AttributeError:
        raise CheckpointError(loader, f"{module_name} has no {function_name}") from None
    # importing runs the user's module, which may raise anything, or call sys.exit
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        problem = f"{module_name} cannot be imported ({type(error).__name__}: {said(error)})"
        raise CheckpointError(loader, problem) from error
    try:
        model = function(os.fspath(path))
    except (ZeroqError, KeyboardInterrupt):
        raise
    # so may the user's function
    except BaseException as error:
        raise CheckpointError(loader, f"failed ({type(error).__name__}: {said(error)})") from error
    if not isinstance(model, AsrModel):
        raise CheckpointError(loader, f"returned {type(model).__name__}", "return a zeroq_asr.AsrModel")
    kinds = {"network": nn.Module, "frontend": FrontendConfig, "tokenizer": Tokenizer, "name": str}
    for field, kind in kinds.items():
        found = getattr(model, field)
        if not isinstance(found, kind):
            problem = f"returned an AsrModel whose {field} is {type(found).__name__}"
            raise CheckpointError(loader, problem, f"it must be {kind.__name__}")
    require_finite(path, model.network.state_dict())
    if any(t.is_floating_point() and t.dtype != torch.float32 for t in model.network.state_dict().values()):
        model.network.float()
    freeze(model.network)
    return model
