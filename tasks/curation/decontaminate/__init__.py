"""Removing documents that contain evaluation problems."""
