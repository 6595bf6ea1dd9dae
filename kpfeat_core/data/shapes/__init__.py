"""The nine primitives of Synthetic Shapes: options, drawing, and a cache on disk."""
