"""Autoencoders between pixels and the space the network works in."""
