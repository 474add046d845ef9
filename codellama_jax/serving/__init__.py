"""Serving: HTTP APIs over the engine, and the page."""
