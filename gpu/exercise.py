"""A small run of every kernel, for compute-sanitizer: ``python -m gpu.exercise``."""

from __future__ import annotations

import torch

import mish_cuda


def main(device: str = "cuda") -> None:
    ops = torch.ops.mish_cuda
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        for size in (1, 7, 2047, 2048, 2049, 10_000):
            for offset in (0, 1):
                x = torch.randn(size + offset, device=device).to(dtype)[offset:]
                for view in (x, x.view(-1, 1).expand(-1, 3), x[::2]):
                    ops.mish_double_backward(view, view, view)
                    ops.mish_backward(view, mish_cuda.mish(view))
                mish_cuda.mish_(x)
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
