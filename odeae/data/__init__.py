"""Data: arrays in files, patches of images."""
