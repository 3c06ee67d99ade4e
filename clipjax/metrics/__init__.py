"""Pure kernels: arrays in, numbers out. Imports nothing of clipjax."""
