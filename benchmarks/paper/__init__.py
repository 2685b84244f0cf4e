"""The Mish paper's comparison: SE-ResNet-18 with Mish, Swish, ReLU and GELU over several seeds."""
