"""Gaussian averages of activations; knows no network."""
