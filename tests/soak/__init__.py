"""A long run against everything that may happen: people, an admin, a caller and a saboteur work side by side.

The command is ``PYTHONPATH=tests python -m soak``; the books are checked at the end.
"""
