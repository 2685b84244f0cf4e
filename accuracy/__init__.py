"""How far mish_cuda's kernels are from the true f, f' and f'': ``python -m accuracy --help``."""
