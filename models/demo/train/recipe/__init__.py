"""The demo model's networks and their training, in PyTorch."""
