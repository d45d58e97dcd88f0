"""OpenVINO on the CPU: the same weights on paged attention, several times as fast as the forward of transformers.

The package `openvino` is imported where it is needed, and not before.
"""
