"""A package, so that no other package called csrc hides cuda/nvrtc.py."""
