"""Op to seconds."""
