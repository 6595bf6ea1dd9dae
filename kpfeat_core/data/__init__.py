"""Training data: photographs in memory, and pairs of views made from them on the device."""
