// Row kernels of realign, e = (z + s) / |z + s| with s = (h gate) up, between library matrix products:
//
//     dv = (de - (de . e) e) / |v|,   dgate_m = sum_k d_mk h_mk,   d <- d gate
#include "kernels.h"
#include "rows.cuh"

namespace mmcl { namespace cuda {
namespace {

template <typename T> __global__ void gate_kernel(GateRows a) {
  const int64_t ranks = a.groups * a.rank, n = a.rows * ranks;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = i / ranks, group = (i - row * ranks) / a.rank;
    const float g = widen(static_cast<const T*>(a.gate)[row * a.ldg + group]);
    static_cast<T*>(a.out)[i] = narrow<T>(widen(static_cast<const T*>(a.h)[i]) * g);
  }
}

// One block for each row. An access has N numbers: 16 bytes of them, or one if an address or a width is not aligned.
template <typename T, int N> __global__ void add_kernel(AddNorm a) {
  __shared__ float scratch[32];
  using P = Pack<T, N>;
  const int64_t row = blockIdx.x, n = a.width / N;
  const P* z = reinterpret_cast<const P*>(static_cast<const T*>(a.z) + row * a.ldz);
  const P* s = reinterpret_cast<const P*>(static_cast<const T*>(a.s) + row * a.width);
  P* e = reinterpret_cast<P*>(static_cast<T*>(a.e) + row * a.width);
  float sum = 0.f;
  for (int64_t k = threadIdx.x; k < n; k += blockDim.x) {
    const P p = z[k], q = s[k];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float v = widen(p.v[i]) + widen(q.v[i]);
      sum += v * v;
    }
  }
  const float inv = 1.f / fmaxf(sqrtf(block_all(sum, Sum(), 0.f, scratch)), kEps);
  if (threadIdx.x == 0) a.inv[row] = inv;
  for (int64_t k = threadIdx.x; k < n; k += blockDim.x) {
    const P p = z[k], q = s[k];
    P out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.v[i] = narrow<T>((widen(p.v[i]) + widen(q.v[i])) * inv);
    e[k] = out;
  }
}

template <typename T, int N> __global__ void project_kernel(Project a) {
  __shared__ float scratch[32];
  using P = Pack<T, N>;
  const int64_t row = blockIdx.x, n = a.width / N;
  const P* de = reinterpret_cast<const P*>(static_cast<const T*>(a.de) + row * a.ldde);
  const P* e = reinterpret_cast<const P*>(static_cast<const T*>(a.e) + row * a.width);
  P* dv = reinterpret_cast<P*>(static_cast<T*>(a.dv) + row * a.width);
  float radial = 0.f;
  for (int64_t k = threadIdx.x; k < n; k += blockDim.x) {
    const P p = de[k], q = e[k];
#pragma unroll
    for (int i = 0; i < N; ++i) radial += widen(p.v[i]) * widen(q.v[i]);
  }
  radial = block_all(radial, Sum(), 0.f, scratch);
  const float inv = a.inv[row];
  for (int64_t k = threadIdx.x; k < n; k += blockDim.x) {
    const P p = de[k], q = e[k];
    P out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.v[i] = narrow<T>(inv * (widen(p.v[i]) - radial * widen(q.v[i])));
    dv[k] = out;
  }
}

// One warp for each row.
template <typename T> __global__ void gate_back_kernel(GateBack a) {
  const int64_t row = blockIdx.x * int64_t(blockDim.y) + threadIdx.y, ranks = a.groups * a.rank;
  if (row >= a.rows) return;
  T* d = static_cast<T*>(a.d) + row * ranks;
  const T* h = static_cast<const T*>(a.h) + row * ranks;
  T* scaled = static_cast<T*>(a.scaled) + row * ranks;
  for (int64_t m = 0; m < a.groups; ++m, d += a.rank, h += a.rank, scaled += a.rank) {
    const float g = widen(static_cast<const T*>(a.gate)[row * a.ldg + m]);
    float sum = 0.f;
    for (int64_t k = threadIdx.x; k < a.rank; k += 32) {
      const float dk = widen(d[k]), hk = widen(h[k]);
      sum += dk * hk;
      scaled[k] = narrow<T>(hk * g);
      d[k] = narrow<T>(dk * g);
    }
    sum = warp_all(sum, Sum());
    if (threadIdx.x == 0) static_cast<T*>(a.dgate)[row * a.groups + m] = narrow<T>(sum);
  }
}

bool aligned(const void* p, int64_t ld, int64_t width, int pack, int size) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && ld % pack == 0 && width % pack == 0 && pack * size == 16;
}

}  // namespace

int gate_rows(const GateRows& a, cudaStream_t stream) {
  const int64_t blocks = (a.rows * a.groups * a.rank + 255) / 256;
  MMCL_DTYPES(a.dtype, (gate_kernel<T><<<unsigned(blocks < 65536 ? blocks : 65536), 256, 0, stream>>>(a)));
}

#define MMCL_PACKED(KERNEL, OK)                                                                          \
  MMCL_DTYPES(a.dtype, {                                                                                 \
    constexpr int N = kPack<T>;                                                                          \
    const auto fits = [&](const void* p, int64_t ld) { return aligned(p, ld, a.width, N, sizeof(T)); };  \
    if (OK) KERNEL<T, N><<<unsigned(a.rows), threads_for(a.width, N), 0, stream>>>(a);                   \
    else KERNEL<T, 1><<<unsigned(a.rows), threads_for(a.width, 1), 0, stream>>>(a);                      \
  })

int add_norm(const AddNorm& a, cudaStream_t stream) {
  MMCL_PACKED(add_kernel, (fits(a.z, a.ldz) && fits(a.s, a.width) && fits(a.e, a.width)));
}
int project(const Project& a, cudaStream_t stream) {
  MMCL_PACKED(project_kernel, (fits(a.de, a.ldde) && fits(a.e, a.width) && fits(a.dv, a.width)));
}
int gate_back(const GateBack& a, cudaStream_t stream) {
  const dim3 block(32, 8);
  MMCL_DTYPES(a.dtype, (gate_back_kernel<T><<<unsigned((a.rows + 7) / 8), block, 0, stream>>>(a)));
}

} }  // namespace mmcl::cuda
