"""What the compiler made of the CUDA kernels: instruction counts against budgets, without a GPU."""
