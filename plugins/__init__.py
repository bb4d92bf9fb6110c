"""The built-in activations, one file a family; found by entry point, like anyone's plugin."""
