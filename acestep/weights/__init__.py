"""Weights in files and in memory."""
