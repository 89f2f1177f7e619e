"""The model, the axes of its parameters, and its FLOPs."""
