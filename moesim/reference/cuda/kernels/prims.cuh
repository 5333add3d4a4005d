// Primitives of the kernels: one set of names, two bodies. On the device: CUDA's own and a little inline PTX.
// On the host: fibers. Kernels use CUDA's names where CUDA has them without a header.
#pragma once
#ifdef MOESIM_EMULATED
#include "prims_emu.hpp"
#else
#include "prims_dev.cuh"
#endif
