"""Retrieval: what a memory returns of what is stored in it, and how much it can store."""
