"""What Underpaint is measured by; `make bench` and `make bench-learning` run it."""
