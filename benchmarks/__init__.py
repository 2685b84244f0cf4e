"""Microbenchmarks of mish_cuda: `run` measures into a CSV file, `table` prints such a file."""
