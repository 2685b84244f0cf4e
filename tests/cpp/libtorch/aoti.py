"""Compiles a model that calls the library's op into a package that needs no Python: ``aoti.cpp``
runs it. The ops come from the library that will be there then. The Python package ``mish_cuda``
would put its formula into the graph in place of the op.

    python aoti.py <path of libmish_cuda.so> <path of the package, ending in .pt2>
"""

import sys

import torch
from torch import Tensor, nn
from torch.export import Dim, export


class Model(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.ops.mish_cuda.mish(x) + 1  # type: ignore[no-any-return]


library, package = sys.argv[1:]
torch.ops.load_library(library)
program = export(Model(), (torch.randn(2),), dynamic_shapes=({0: Dim("n")},))
torch._inductor.aoti_compile_and_package(program, package_path=package)
