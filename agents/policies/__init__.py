"""Policies: what samples tokens and is trained."""
