"""What DefaultTrainer leaves open about a model in several processes (DistributedDataParallel)."""

import contextlib
from functools import partial
from typing import Iterator, TypeVar
from unittest import mock

import torch
from detectron2.engine import create_ddp_model, defaults
from detectron2.utils import comm
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


@contextlib.contextmanager
def ddp_fit_for(device: str) -> Iterator[None]:
    """On CPU, let DefaultTrainer wrap the model without ``device_ids``, which DDP refuses there."""
    if torch.device(device).type != "cpu":
        yield
        return
    fit = partial(create_ddp_model, device_ids=None)
    with mock.patch.object(defaults, "create_ddp_model", fit):
        yield


def same_in_all_processes(model: Model) -> Model:
    """The model, with the buffers of the main process, which are those of its checkpoints.

    Gradients keep parameters equal, but running statistics are of the images that a process has
    seen.  All processes must call this.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                torch.distributed.broadcast(buffer, src=0)
    return model
