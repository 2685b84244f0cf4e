"""Everything that measures mish_cuda: ``python -m benchmarks --help``."""
