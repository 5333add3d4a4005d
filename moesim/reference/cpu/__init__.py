"""The layer on a CPU: numpy and its BLAS for products, numba for the rest."""
