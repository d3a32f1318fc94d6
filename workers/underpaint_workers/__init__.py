"""What RQ runs: snapshots, training, evaluation, crawling and the scenes that the project paints itself."""
