"""Which number formats a device computes in."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Literal

import torch


@cache
def computes_bfloat16(device_type: str) -> bool:
    """Whether devices of this type compute in bfloat16 by themselves.

    A CPU without such instructions emulates it: a convolution then takes 16 times as long as in float32, a depthwise
    one 60 times (measured on an AMD EPYC of the third generation).
    """
    if device_type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device_type != "cuda" or torch.cuda.is_bf16_supported()


def autocast(device_type: str, amp: Literal["none", "bf16", "fp16"]) -> AbstractContextManager[object]:
    """What `train.amp` asks for; "bf16" is float32 on a device that does not compute in bfloat16."""
    if amp == "none" or (amp == "bf16" and not computes_bfloat16(device_type)):
        return nullcontext()
    return torch.autocast(device_type, torch.bfloat16 if amp == "bf16" else torch.float16)
