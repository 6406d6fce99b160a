// The calls of the CUDA runtime that the launchers make, and a Python module in place of mmcl_fast._C.cuda.
#include "emulate.h"

#include "bindings.h"

static CUresult encode(CUtensorMap* map, CUtensorMapDataType, cuuint32_t, void* x, const cuuint64_t* sizes,
                       const cuuint64_t* strides, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                       CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  const struct { void* x; int64_t ld, rows, width; } m{x, int64_t(strides[0] / 2), int64_t(sizes[1]), int64_t(sizes[0])};
  std::memcpy(map, &m, sizeof m);
  return CUDA_SUCCESS;
}

extern "C" {
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* n) { return *n = 0, cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "emulated"; }
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
#if CUDART_VERSION >= 12050
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** found, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* state) {
#else
cudaError_t cudaGetDriverEntryPoint(const char*, void** found, unsigned long long, cudaDriverEntryPointQueryResult* state) {
#endif
  *found = reinterpret_cast<void*>(&encode);
  *state = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
}

PYBIND11_MODULE(_emulated, m) { mmcl::cuda::bind(m); }
