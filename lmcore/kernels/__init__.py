"""Parts of the model, forward and backward by hand, for CPUs that do not compile. Plain forms stand beside them."""
