"""Weight files: ours, published checkpoints, and the manifest of those that come along."""
