// Row kernels of the alignment loss, CE = log(1 + sum_{c != y} exp(x_c - x_y)) with x_c = s cos(z, t_c).
//
// They work between library matrix products: the norms, the exponentials of a chunk, and the finish of a row. One block
// takes one row. Sums and maximum leave the label's class out. Otherwise a confident row's other exponentials would be
// too small for float16.
#include "kernels.h"
#include "rows.cuh"

#include <type_traits>

namespace mmcl { namespace cuda {
namespace {

template <typename T> __global__ void norm_kernel(Norm a) {
  __shared__ float scratch[32];
  T* x = const_cast<T*>(static_cast<const T*>(a.x)) + int64_t(blockIdx.x) * a.ldx;
  float sum = 0.f;
  each<T, false>(x, a.width, can_pack(x, a.width), [&](int64_t, float v) { sum += v * v; return 0.f; });
  sum = block_all(sum, Sum(), 0.f, scratch);
  if (threadIdx.x == 0) a.inv[blockIdx.x] = 1.f / fmaxf(sqrtf(sum), kEps);
}

// x <- exp(s x / |z| |t| - max) / |t|, 0 at the label. The row is read twice; the second time it is in the cache.
template <typename T> __global__ void exp_kernel(ExpRows a) {
  __shared__ float scratch[32];
  const int64_t row = blockIdx.x, label = a.labels[row] - a.first;
  T* x = static_cast<T*>(a.x) + row * a.ldx;
  const float scale = a.scale_at ? *a.scale_at : a.scale;
  const float row_scale = scale * a.inv_z[row];
  const bool packed = can_pack(x, a.cols), has_label = label >= 0 && label < a.cols;
  if (has_label && threadIdx.x == 0) a.label_logit[row] = widen(x[label]) * row_scale * a.inv_t[label];
  float top = kLow;
  each<T, false>(x, a.cols, packed, [&](int64_t j, float v) {
    if (j != label) top = fmaxf(top, v * a.inv_t[j]);
    return 0.f;
  });
  top = block_all(top, Max(), kLow, scratch) * row_scale;  // waits: label_logit is read before x is stored
  const float before = a.start ? kLow : a.row_max[row];
  top = fmaxf(top, before);
  float sum = 0.f;
  each<T, true>(x, a.cols, packed, [&](int64_t j, float v) {
    const float unit = a.inv_t[j], e = j == label ? 0.f : __expf(v * row_scale * unit - top);
    sum += e;
    return e * unit;
  });
  sum = block_all(sum, Sum(), 0.f, scratch);
  if (threadIdx.x == 0) {
    const float fix = a.start ? 0.f : __expf(before - top);
    a.row_sum[row] = (a.start ? 0.f : a.row_sum[row] * fix) + sum;
    a.row_fix[row] = fix;
    a.row_max[row] = top;
  }
}

// loss and gradients of one row, from the sums of all splits. NaN if the label is out of range.
template <typename T> __global__ void finish_kernel(Finish a) {
  using Out = std::conditional_t<std::is_same_v<T, __half>, float, T>;  // a later loss scale must find small values
  __shared__ float scratch[32];
  const int64_t row = blockIdx.x, y = a.labels[row];
  const bool inside = y >= 0 && y < a.classes;
  Out* dz = a.dz ? static_cast<Out*>(a.dz) + row * a.width : nullptr;
  if (!inside) {
    const float bad = y == a.ignore ? 0.f : nanf("");
    for (int64_t j = threadIdx.x; dz && j < a.width; j += blockDim.x) dz[j] = narrow<Out>(bad);
    if (threadIdx.x == 0) {
      a.loss[row] = a.dscale[row] = bad;
      if (a.ratio) a.ratio[row] = bad, a.label_coef[row] = 0.f;
    }
    return;
  }
  const float scale = a.scale_at ? *a.scale_at : a.scale, unit = a.inv_z[row], eps = a.smoothing;
  float high = kLow, others = 0.f;
  const auto filled = [&](int k) { return a.row_sum[k * a.rows + row] != 0.f; };
  for (int k = 0; k < a.splits; ++k)
    if (filled(k)) high = fmaxf(high, a.row_max[k * a.rows + row]);
  for (int k = 0; k < a.splits; ++k)
    if (filled(k)) others += __expf(a.row_max[k * a.rows + row] - high) * a.row_sum[k * a.rows + row];
  const float label_logit = a.label_logit[row];
  const float d = others == 0.f ? kLow + label_logit : logf(others) + high - label_logit;  // a NaN stays NaN
  const float small = __expf(-fabsf(d)), q = (d > 0.f ? 1.f : small) / (1.f + small);  // 1 - p_label
  const float ratio = others == 0.f ? 0.f : q / others, row_scale = (eps - q) * a.inv_t[y];
  const T* z = static_cast<const T*>(a.z) + row * a.ldz;
  const T* t = static_cast<const T*>(a.text) + y * a.ldt;
  const auto gradient = [&](int64_t j) {
    float o = 0.f;
    for (int k = 0; k < a.splits; ++k)
      if (filled(k)) o += __expf(a.row_max[k * a.rows + row] - high) * a.o[(k * a.rows + row) * a.width + j];
    return o * ratio + row_scale * widen(t[j]) - (a.mean_text ? eps * a.mean_text[j] : 0.f);
  };
  float radial = 0.f, mean_cos = 0.f;
  for (int64_t j = threadIdx.x; j < a.width; j += blockDim.x) {
    const float zj = widen(z[j]) * unit;
    radial += gradient(j) * zj;
    if (a.mean_text) mean_cos += a.mean_text[j] * zj;
  }
  radial = block_all(radial, Sum(), 0.f, scratch);
  if (a.mean_text) mean_cos = block_all(mean_cos, Sum(), 0.f, scratch);
  if (threadIdx.x == 0) {
    a.loss[row] = fmaxf(d, 0.f) + log1pf(small) + (a.mean_text ? eps * (label_logit - scale * mean_cos) : 0.f);
    a.dscale[row] = radial;
    if (a.ratio) a.ratio[row] = ratio, a.label_coef[row] = eps - q;
  }
  for (int64_t j = threadIdx.x; dz && j < a.width; j += blockDim.x)
    dz[j] = narrow<Out>(scale * unit * (gradient(j) - radial * widen(z[j]) * unit));
}

}  // namespace

int row_norm(const Norm& a, cudaStream_t stream) {
  MMCL_DTYPES(a.dtype, (norm_kernel<T><<<unsigned(a.rows), threads_for(a.width, kPack<T>), 0, stream>>>(a)));
}
int exp_rows(const ExpRows& a, cudaStream_t stream) {
  MMCL_DTYPES(a.dtype, (exp_kernel<T><<<unsigned(a.rows), threads_for(a.cols, 2 * kPack<T>), 0, stream>>>(a)));
}
int finish(const Finish& a, cudaStream_t stream) {
  MMCL_DTYPES(a.dtype, (finish_kernel<T><<<unsigned(a.rows), threads_for(a.width, 4), 0, stream>>>(a)));
}

} }  // namespace mmcl::cuda
