"""Everything that knows Label Studio's formats, and nothing else does."""
