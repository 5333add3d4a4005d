"""One iteration of training: its work, memory, communication and pipeline."""
