"""Shapes of the activations of known networks, one input each; the first axis is the batch.

Of shapes with equally many elements one stands for all: on dense tensors a kernel sees only those.
"""

from __future__ import annotations

Shape = tuple[int, ...]

PRESETS: dict[str, tuple[Shape, ...]] = {
    # All Mish, input 3x512x512: the outputs of the convolutions in
    # https://github.com/pjreddie/darknet/blob/master/cfg/yolov4-csp.cfg
    "yolov4-csp": (
        (1, 32, 512, 512),
        (1, 64, 256, 256),
        (1, 32, 256, 256),
        (1, 64, 128, 128),
        (1, 128, 64, 64),
        (1, 256, 32, 32),
        (1, 512, 16, 16),
    ),
    # ReLU, input 3x224x224: table 1 of https://arxiv.org/abs/1512.03385, strides as in
    # https://github.com/pytorch/vision/blob/main/torchvision/models/resnet.py
    "resnet50": (
        (1, 64, 112, 112),
        (1, 128, 56, 56),
        (1, 64, 56, 56),
        (1, 128, 28, 28),
        (1, 256, 14, 14),
        (1, 512, 7, 7),
    ),
    # GELU, between the two linear layers, tokens x 4 times the width: ViT-B/16 at 224x224 (table 1
    # of https://arxiv.org/abs/2010.11929), BERT-base (section 3 of https://arxiv.org/abs/1810.04805)
    # and GPT-2 XL (https://huggingface.co/openai-community/gpt2-xl/blob/main/config.json)
    "transformer-mlp": (
        (1, 197, 4 * 768),
        (1, 512, 4 * 768),
        (1, 1024, 4 * 1600),
    ),
}


def shapes_of(preset: str, batch: int) -> list[Shape]:
    """The shapes of a preset for so many inputs at a time."""
    return [(batch, *shape[1:]) for shape in PRESETS[preset]]
