"""Files of other toolkits, and our own, read as an ``AsrModel`` or ``TransducerModel``; one module a format.

Nothing in a checkpoint is ever run: weights are read as tensors only, archives within limits.  The exception
is the user's own ``loader``.  A folder, or OWNER/NAME, is a Hugging Face model, or an unpacked `.nemo`
archive.

Imported by: embedded, deployment, pipeline.
Imports: errors, files, lines, threads, config, speech, architectures, model.
Never imports: lowering, operators, embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""

from __future__ import annotations

import os

from torch import nn

from zeroq_asr.checkpoints.archive import GZIP_MAGIC
from zeroq_asr.checkpoints.heads import check_head, with_head
from zeroq_asr.checkpoints.hub import hub_name, resolved
from zeroq_asr.checkpoints.huggingface import is_huggingface, load_huggingface
from zeroq_asr.checkpoints.loader import load_with
from zeroq_asr.checkpoints.nemo import is_nemo_folder, load_nemo, load_nemo_folder
from zeroq_asr.checkpoints.pickles import ZIP_MAGIC
from zeroq_asr.checkpoints.torchfile import load_torch_file, save_checkpoint
from zeroq_asr.config.choices import AUTO, CTC
from zeroq_asr.errors import CheckpointError, ConfigError
from zeroq_asr.files import open_file
from zeroq_asr.model import AsrModel, TransducerModel
from zeroq_asr.threads import one_thread

__all__ = ["is_huggingface", "kind_of", "load_checkpoint", "load_model", "save_checkpoint"]

#: a pickle of protocol 2 or later: torch.save's old format
_PICKLE_MAGIC = b"\x80"
#: ModelProto's first field, a small number
_ONNX_MAGIC = b"\x08"
_ONNX_REMEDY = (
    "name the checkpoint that it was made of; verify, transcribe, evaluate, bench and inspect take ONNX files"
)
_BUNDLE_REMEDY = (
    "name the checkpoint that it was made of; verify, transcribe, evaluate, bench and inspect take bundles"
)
_TAR_MAGIC_AT, _TAR_MAGIC = 257, b"ustar"


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    loader: str | None = None,
    language: str | None = None,
) -> AsrModel:
    """Read a recogniser with a CTC head from a checkpoint of any format, chosen by its content.

    ``config`` is the model_config.yaml of weights that come without one.  ``loader`` names a
    function, ``package.module:function``, that reads the file instead and returns an AsrModel.  A folder with
    model_config.yaml is an unpacked `.nemo` archive.  A folder with config.json is a Hugging Face model; it
    takes transformers.  OWNER/NAME, or OWNER/NAME@REVISION, where no such file is, is a repository on the
    Hugging Face hub, with such a model or one .nemo archive.  ``language`` chooses one of a model of many
    languages.

    Raises CheckpointError when the file cannot be read, is damaged, or is not supported, and
    UnsupportedModelError for a transducer, which ``load_model`` reads.
    """
    model = load_model(path, config=config, loader=loader, language=language, head=CTC)
    assert isinstance(model, AsrModel)
    return model


@one_thread()
def load_model(
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    loader: str | None = None,
    language: str | None = None,
    head: str = AUTO,
) -> AsrModel | TransducerModel:
    """Read a recogniser from a checkpoint of any format; else as ``load_checkpoint``.

    ``head`` is "ctc" or "transducer", or "auto": the one that there is, of a hybrid the CTC head.

    Raises UnsupportedModelError where the model has no such head.
    """
    check_head(head)
    if isinstance(path, nn.Module):
        raise ConfigError(
            type(path).__name__,
            "is a bare network, without the frontend and the tokens that surround it",
            "give zq.AsrModel(network, zq.FrontendConfig(…), zq.Tokenizer(…), name)",
        )
    if not isinstance(path, str | os.PathLike):
        problem = f"is no checkpoint: expected a path or an AsrModel, received {type(path).__name__}"
        raise ConfigError("load", problem)
    return with_head(path, _load(path, config, loader, language, head), head)


def _load(
    path: str | os.PathLike[str],
    config: str | os.PathLike[str] | None,
    loader: str | None,
    language: str | None,
    head: str,
) -> AsrModel | TransducerModel:
    name = hub_name(path) if loader is None else None
    if name is not None:
        path = resolved(path, name)
    if language is not None and (loader is not None or not is_huggingface(path)):
        raise CheckpointError(path, "has no choice of languages", "leave --language out")
    if loader is not None:
        if config is not None:
            raise CheckpointError(loader, "a loader takes no --config", "leave one of them out")
        return load_with(loader, path)
    if is_huggingface(path):
        if config is not None:
            raise CheckpointError(
                path, "a Hugging Face model brings its own configuration", "leave --config out"
            )
        return load_huggingface(path, language, head)
    if is_nemo_folder(path):
        if config is not None:
            raise CheckpointError(
                path, "the folder of a .nemo archive brings its own configuration", "leave --config out"
            )
        return load_nemo_folder(path, head)
    first = _read_head(path)
    if first.startswith(GZIP_MAGIC) or first[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        if config is not None:
            raise CheckpointError(path, "a .nemo archive brings its own configuration", "leave --config out")
        return load_nemo(path, head)
    if first.startswith((ZIP_MAGIC, _PICKLE_MAGIC)):
        return load_torch_file(path, config, head)
    if first.startswith(_ONNX_MAGIC) and len(first) > 1 and first[1] < 0x80:
        raise CheckpointError(path, "is an ONNX file, a checkpoint was expected", _ONNX_REMEDY)
    raise CheckpointError(
        path, "is neither a .nemo archive nor a file of torch.save or torch.export.save", "is it whole?"
    )


def kind_of(head: bytes) -> str:
    """Return what kind of checkpoint begins with ``head``, in words; "" if none does."""
    if head.startswith(GZIP_MAGIC) or head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        return "a .nemo archive"
    return "a file of torch.save or torch.export.save" if head.startswith((ZIP_MAGIC, _PICKLE_MAGIC)) else ""


def _read_head(path: str | os.PathLike[str]) -> bytes:
    """Return the first bytes of a file, enough to know its format."""
    if os.path.isfile(os.path.join(path, "bundle.json")):
        raise CheckpointError(path, "is a bundle of ONNX files, a checkpoint was expected", _BUNDLE_REMEDY)
    if os.path.isdir(path):
        raise CheckpointError(
            path,
            "is a folder, a checkpoint file was expected",
            "only the folder of a .nemo archive (model_config.yaml, model_weights.ckpt) or of a Hugging Face "
            "model (config.json) will do",
        )
    with open_file(path, CheckpointError) as stream:
        try:
            head = stream.read(_TAR_MAGIC_AT + len(_TAR_MAGIC))
        except OSError as error:
            raise CheckpointError(
                path, f"cannot be read ({error.strerror or error})", "check the disk"
            ) from None
    if not head:
        raise CheckpointError(path, "is empty", "download it again")
    return head
