"""Asking servers that may be slow, busy, broken or gone, without waiting for ever."""
