// Shared by the CUDA row kernels: conversion of dtypes, 16-byte accesses, reductions over a warp or a block.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace mmcl { namespace cuda {

constexpr float kEps = 1e-12f;
constexpr float kLow = -1e30f;    // the maximum of no class; finite, so that differences never make a NaN
constexpr float kNever = -3e38f;  // a logit that no sum may see: its exponential is 0 even if the maximum is kLow

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
template <typename T> __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ float narrow(float x) { return x; }
template <> __device__ __forceinline__ __nv_bfloat16 narrow(float x) { return __float2bfloat16(x); }
template <> __device__ __forceinline__ __half narrow(float x) { return __float2half(x); }

// N numbers that are loaded or stored by one access of at most 16 bytes.
template <typename T, int N> struct alignas(sizeof(T) * N) Pack { T v[N]; };
template <typename T> constexpr int kPack = 16 / sizeof(T);

struct Sum { __device__ float operator()(float a, float b) const { return a + b; } };
struct Max { __device__ float operator()(float a, float b) const { return fmaxf(a, b); } };

template <typename Op> __device__ __forceinline__ float warp_all(float x, Op op) {
#pragma unroll
  for (int d = 16; d; d >>= 1) x = op(x, __shfl_xor_sync(0xffffffffu, x, d));
  return x;
}

// Reduces x over a block of at most 1024 threads; every thread gets the result. scratch holds 32 floats.
template <typename Op> __device__ __forceinline__ float block_all(float x, Op op, float none, float* scratch) {
  x = warp_all(x, op);
  if (blockDim.x <= 32) return x;
  __syncthreads();  // threads may still read scratch for the call before
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_all(threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : none, op);
}

// Calls f(j, x_j) for the numbers of a row, and stores its result in x_j if Store. `packed` rows are read by 16 bytes,
// others number by number.
template <typename T, bool Store, typename F>
__device__ __forceinline__ void each(T* row, int64_t n, bool packed, F f) {
  if (packed) {
    using P = Pack<T, kPack<T>>;
    P* packs = reinterpret_cast<P*>(row);
    for (int64_t k = threadIdx.x; k < n / kPack<T>; k += blockDim.x) {
      P p = packs[k];
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) {
        const float r = f(k * kPack<T> + i, widen(p.v[i]));
        if (Store) p.v[i] = narrow<T>(r);
      }
      if (Store) packs[k] = p;
    }
  } else {
    for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
      const float r = f(j, widen(row[j]));
      if (Store) row[j] = narrow<T>(r);
    }
  }
}

template <typename T> __device__ __forceinline__ bool can_pack(const T* row, int64_t n) {
  return n % kPack<T> == 0 && reinterpret_cast<uintptr_t>(row) % 16 == 0;
}

inline unsigned threads_for(int64_t width, int each_thread) {
  unsigned t = 32;
  while (t < 1024 && int64_t(t) * each_thread < width) t *= 2;
  return t;
}

// Runs the statement with T as the type of the dtype code, and returns the launch's error.
#define MMCL_DTYPES(CODE, ...)                                                    \
  switch (CODE) {                                                                 \
    case 0: { using T = float; __VA_ARGS__; break; }                                     \
    case 1: { using T = __nv_bfloat16; __VA_ARGS__; break; }                             \
    case 2: { using T = __half; __VA_ARGS__; break; }                                    \
    default: return int(cudaErrorInvalidValue);                                   \
  }                                                                               \
  return int(cudaGetLastError())

} }  // namespace mmcl::cuda
