"""Trainer's own pushes, of public files only."""

from transformers.utils.hub import hf_api

from ..engine.sampling_settings import attributes
from .privacy import PUBLIC_ONLY


class PublicPushMixin:
    """Let Trainer push, at the end and with each checkpoint, the files of `output_dir` that [`push`] sends, no others."""

    def push_to_hub(self, *args, **kwargs):
        with _only_public():
            return super().push_to_hub(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder):
        with _only_public():
            super()._push_from_checkpoint(checkpoint_folder)


def _only_public():
    """Let `transformers` upload nothing else for the length of the block."""
    upload_folder = hf_api().upload_folder
    return attributes(hf_api(), {"upload_folder": lambda **kwargs: upload_folder(**kwargs | PUBLIC_ONLY)})
