"""Every ready-made recipe on a small trained network of its family."""
