"""Underpaint: pre-labels for landscape paintings in Label Studio that get better with every accepted label."""
