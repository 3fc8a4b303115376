"""Priors of the weights: a file each."""
