"""Serving: champions in memory, tasks to predictions, and the HTTP front that Label Studio talks to."""
