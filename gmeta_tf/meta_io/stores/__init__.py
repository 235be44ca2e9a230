"""Remote stores: one face, and the two ways to reach them."""
