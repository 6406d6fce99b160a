// The calls of the CUDA runtime and the driver that the launchers make.
#include "sm90.cuh"

// Refuses what the driver would refuse.
static CUresult encode(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* x, const cuuint64_t* sizes,
                       const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* steps,
                       CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                       CUtensorMapFloatOOBfill fill) {
  const bool half = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const uint32_t element = half ? 2 : 4, bytes = swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 128 : 0;
  const bool fits = rank == 2 && strides[0] % 16 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0 && box[0] <= 256 &&
                    box[1] <= 256 && box[0] * element % 16 == 0 && (!bytes || box[0] * element <= bytes) && sizes[0] &&
                    sizes[1] && steps[0] == 1 && steps[1] == 1 && interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
                    fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
  const bool known = swizzle == CU_TENSOR_MAP_SWIZZLE_128B || swizzle == CU_TENSOR_MAP_SWIZZLE_NONE;
  if (!fits || !known) return CUDA_ERROR_INVALID_VALUE;
  const emulated::TensorMap m{static_cast<const unsigned char*>(x), {sizes[0], sizes[1]}, strides[0], {box[0], box[1]},
                              element, bytes};
  std::memcpy(map, &m, sizeof m);
  return CUDA_SUCCESS;
}

extern "C" {
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* n) { return *n = 0, cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "emulated"; }
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute what, int value) {
  if (what == cudaFuncAttributeMaxDynamicSharedMemorySize) emulated::allowed_shared = size_t(value);
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveClusters(int* count, const void*, const cudaLaunchConfig_t* config) {
  const unsigned blocks = config->attrs[0].val.clusterDim.x;
  *count = std::max(1, int(3 / blocks));  // a GPU of three multiprocessors: tests see several shares
  return emulated::refuse(config->gridDim, config->blockDim, blocks, config->dynamicSmemBytes) ? cudaErrorInvalidValue
                                                                                              : cudaSuccess;
}
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
