"""What happens over a step, and over many."""
