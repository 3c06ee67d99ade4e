"""Pure kernels: arrays in, numbers and intervals out. Imports nothing of clipjax."""
