"""Samplers: what plays a policy's episodes in its place, faster than its own model does."""
