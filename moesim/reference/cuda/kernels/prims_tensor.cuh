// Primitives of tensor cores and of asynchronous copies: one set of names, two bodies.
#pragma once
#include "prims.cuh"
#ifdef MOESIM_EMULATED
#include "prims_tensor_emu.hpp"
#else
#include "prims_tensor_dev.cuh"
#include "prims_wgmma_dev.cuh"
#endif
