"""The compiled loops of the serving simulator: batches, blocks, steps, and the fleet they run on."""
