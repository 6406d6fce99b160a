// The alignment loss in one pass on Hopper: O = sum_c exp(x_c - max) t_c / |t_c| with x = s cos(z, t_c).
//
// A block of two warpgroups owns 64 rows of z and walks over its split of the classes, 64 at a time. A tile of class
// texts (64, D) is key and value at once. The bulk tensor copy brings two tiles ahead. For each tile:

//   S (64, 64) = z T^t    32 of the classes in each warpgroup
//   P = exp(S - max)      in shared memory, for both
//   O (64, D) += P T      half of the columns in each warpgroup: 128 registers a thread for D = 512

// Maximum and sums leave the label's class out. finish (rows_align.cu) adds the partial sums of the splits.
// D is at most 512, in chunks of 64 columns.
#include "kernels.h"
#include "rows.cuh"
#include "wgmma.cuh"

namespace mmcl { namespace cuda {
namespace {

constexpr int kRows = 64, kTile = 64 * 64 * 2;  // bytes of 64 x 64 numbers
constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// z, two tiles of texts, P, row statistics that the warpgroups exchange, and barriers.
// NC is 2, 4 or 8 chunks of 64 columns, at least D / 64.
template <int NC> constexpr size_t shared_bytes() {
  return 1024 + 3 * NC * kTile + kTile + 2 * kRows * sizeof(float) + 3 * 8;
}

template <typename T, int NC>
__global__ void __launch_bounds__(256, 1)
one_pass_kernel(const __grid_constant__ CUtensorMap map_z, const __grid_constant__ CUtensorMap map_t, OnePass a) {
  extern __shared__ unsigned char raw[];
  unsigned char* base = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t(1023));
  const uint32_t zt = shared_at(base), tt = zt + NC * kTile, pt = tt + 2 * NC * kTile;
  unsigned char* p_tile = base + 3 * NC * kTile;
  float* exchange = reinterpret_cast<float*>(p_tile + kTile);  // [2][64]
  const uint32_t bars = shared_at(exchange + 2 * kRows);       // one for z, one per stage
  const int tid = threadIdx.x, group = tid / 128, lane = tid % 32, quad = lane % 4;
  const int r0 = (tid % 128) / 32 * 16 + lane / 4;  // this thread's rows in the accumulators: r0 and r0 + 8
  const int64_t row0 = int64_t(blockIdx.x) * kRows, first = int64_t(blockIdx.y) * a.per_split;
  const int count = int(min(a.per_split, a.classes - first)), tiles = (count + 63) / 64;

  const auto load = [&](int i) {
    const uint32_t bar = bars + 8 + 8 * (i & 1);
    bar_expect(bar, NC * kTile);
    for (int k = 0; k < NC; ++k)
      copy_box(tt + ((i & 1) * NC + k) * kTile, &map_t, k * 64, int(first) + i * 64, bar);
  };
  if (tid == 0) {
    for (int k = 0; k < 3; ++k) bar_init(bars + 8 * k);
    bars_ready();
    bar_expect(bars, NC * kTile);
    for (int k = 0; k < NC; ++k) copy_box(zt + k * kTile, &map_z, k * 64, int(row0), bars);
    load(0);
    if (tiles > 1) load(1);
  }
  const float scale = a.scale_at ? *a.scale_at : a.scale;
  float row_scale[2], high[2] = {kLow, kLow}, sum[2] = {0.f, 0.f};
  int label[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t row = row0 + r0 + 8 * h;
    const bool live = row < a.rows;
    row_scale[h] = live ? a.inv_z[row] * scale * kLog2e : 0.f;  // logits in powers of two
    const int64_t y = live ? a.labels[row] - first : -1;
    label[h] = y >= 0 && y < count ? int(y) : -1;
  }
  float o[NC * 16];
#pragma unroll
  for (int k = 0; k < NC * 16; ++k) o[k] = 0.f;
  __syncthreads();
  bar_wait(bars, 0);

  for (int i = 0; i < tiles; ++i) {
    const uint32_t stage = tt + (i & 1) * NC * kTile;
    bar_wait(bars + 8 + 8 * (i & 1), (i >> 1) & 1);
    float s[16];
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < NC * 4; ++k) {
      const uint32_t at = k / 4 * kTile + k % 4 * 32;
      Wgmma<T, 32, 0>::run(s, k_major(zt + at), k_major(stage + at + group * 32 * 128), k > 0);
    }
    wgmma_end(s);

    // s[4 j + 2 h + b] belongs to row r0 + 8 h and class c0 + 8 j + b of this tile
    const int c0 = group * 32 + quad * 2;
    float unit[8], top[2] = {kLow, kLow};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int c = i * 64 + c0 + j / 2 * 8 + j % 2;
      unit[j] = c < count ? a.inv_t[first + c] : 0.f;
    }
#pragma unroll
    for (int k = 0; k < 16; ++k) {
      const int h = k / 2 % 2, j = k / 4 * 2 + k % 2, c = i * 64 + c0 + k / 4 * 8 + k % 2;
      s[k] *= row_scale[h] * unit[j];
      if (c == label[h]) a.label_logit[row0 + r0 + 8 * h] = s[k] * kLn2;
      if (c == label[h] || c >= count) s[k] = kNever;  // finish adds the label
      top[h] = fmaxf(top[h], s[k]);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 1));
      top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 2));
      if (quad == 0) exchange[group * kRows + r0 + 8 * h] = top[h];
    }
    __syncthreads();
    float fix[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float above = fmaxf(high[h], fmaxf(exchange[r0 + 8 * h], exchange[kRows + r0 + 8 * h]));
      fix[h] = exp2f(high[h] - above);
      sum[h] *= fix[h];
      high[h] = above;
    }
#pragma unroll
    for (int k = 0; k < 16; k += 2) {
      const int h = k / 2 % 2, j = k / 4 * 2, column = c0 + k / 4 * 8, row = r0 + 8 * h;
      float e[2];
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        e[b] = exp2f(s[k + b] - high[h]);
        sum[h] += e[b];
      }
      Pack<T, 2> pair{{narrow<T>(e[0] * unit[j]), narrow<T>(e[1] * unit[j + 1])}};
      *reinterpret_cast<Pack<T, 2>*>(p_tile + row * 128 + ((column * 2) ^ ((row & 7) << 4))) = pair;
    }
    publish();
    __syncthreads();
    if (__any_sync(0xffffffffu, fix[0] != 1.f || fix[1] != 1.f)) {
#pragma unroll
      for (int k = 0; k < NC * 16; ++k) o[k] *= fix[k / 2 % 2];
    }
    hold(o);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      Wgmma<T, NC * 32, 1>::run(o, k_major(pt + k * 32), n_major(stage + group * (NC / 2) * kTile + k * 2048, kTile),
                                1);
    wgmma_end(o);
    __syncthreads();  // both warpgroups have read this stage and P
    if (tid == 0 && i + 2 < tiles) load(i + 2);
  }

  const int64_t at = int64_t(blockIdx.y) * a.rows + row0;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
    sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
    if (quad == 0) exchange[group * kRows + r0 + 8 * h] = sum[h];
  }
  __syncthreads();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = r0 + 8 * h;
    if (row0 + row >= a.rows) continue;
    if (group == 0 && quad == 0) {
      a.row_sum[at + row] = exchange[row] + exchange[kRows + row];
      a.row_max[at + row] = high[h] * kLn2;
    }
    float* out = a.o + (at + row) * a.width;
#pragma unroll
    for (int k = 0; k < NC * 4; ++k) {
      const int column = group * NC * 32 + k * 8 + quad * 2;
      if (column < a.width) *reinterpret_cast<float2*>(out + column) = make_float2(o[4 * k + 2 * h],
                                                                                   o[4 * k + 2 * h + 1]);
    }
  }
}

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// Asked from the driver at run time: the library is not linked against it, and so loads on a machine without a GPU.
Encode find_encode() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult state;
#if CUDART_VERSION >= 12050
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                       &state)) return nullptr;
#else
  if (cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &state)) return nullptr;
#endif
  return state == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(found) : nullptr;
}

template <typename T> bool make_map(CUtensorMap* map, const void* x, int64_t ld, int64_t rows, int64_t width) {
  static const Encode encode = find_encode();
  if (!encode) return false;
  const cuuint64_t sizes[] = {cuuint64_t(width), cuuint64_t(rows)}, strides[] = {cuuint64_t(ld) * sizeof(T)};
  const cuuint32_t box[] = {64, 64}, steps[] = {1, 1};
  const auto type = std::is_same_v<T, __half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  return encode(map, type, 2, const_cast<void*>(x), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <typename T, int NC> int launch(const OnePass& a, cudaStream_t stream) {
  CUtensorMap map_z, map_t;
  if (!make_map<T>(&map_z, a.z, a.ldz, a.rows, a.width) || !make_map<T>(&map_t, a.text, a.ldt, a.classes, a.width))
    return int(cudaErrorInvalidValue);
  void (*const kernel)(CUtensorMap, CUtensorMap, OnePass) = one_pass_kernel<T, NC>;
  const cudaError_t raised = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                  cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes<NC>()));
  if (raised) return int(raised);
  const dim3 grid(unsigned((a.rows + kRows - 1) / kRows), unsigned((a.classes + a.per_split - 1) / a.per_split));
  one_pass_kernel<T, NC><<<grid, 256, shared_bytes<NC>(), stream>>>(map_z, map_t, a);
  return int(cudaGetLastError());
}

template <typename T> int by_width(const OnePass& a, cudaStream_t stream) {
  return a.width <= 128 ? launch<T, 2>(a, stream) : a.width <= 256 ? launch<T, 4>(a, stream) : launch<T, 8>(a, stream);
}

}  // namespace

int one_pass(const OnePass& a, cudaStream_t stream) {
  if (a.width > 512 || a.width % 8 || a.ldz % 8 || a.ldt % 8 || a.classes > INT32_MAX || a.rows > INT32_MAX)
    return int(cudaErrorInvalidValue);
  if (a.dtype == 1) return by_width<__nv_bfloat16>(a, stream);
  return a.dtype == 2 ? by_width<__half>(a, stream) : int(cudaErrorInvalidValue);
}

} }  // namespace mmcl::cuda
