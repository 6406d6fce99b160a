// The alignment loss between library matrix products: norms, the fused row kernel, and the finish of a row.
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

// One row of a chunk: the maximum of the other classes, then exponentials in place. The second look at the row finds it
// in the cache.
template <typename T> __global__ void exp_kernel(ExpRows a) {
  __shared__ float scratch[32];
  const int64_t row = blockIdx.x, label = a.labels[row] - a.first;
  T* x = static_cast<T*>(a.x) + row * a.ldx;
  const float scale = a.scale_at ? *a.scale_at : a.scale;
  const float pull = scale * a.inv_z[row];
  const bool packed = can_pack(x, a.cols), mine = label >= 0 && label < a.cols;
  if (mine && threadIdx.x == 0) a.label_logit[row] = widen(x[label]) * pull * a.inv_t[label];
  float top = kLow;
  each<T, false>(x, a.cols, packed, [&](int64_t j, float v) {
    if (j != label) top = fmaxf(top, v * a.inv_t[j]);  // beside the label's, a float16 would lose the others
    return 0.f;
  });
  top = block_all(top, Max(), kLow, scratch) * pull;  // the block waits here, so label_logit was read before any store
  const float before = a.start ? kLow : a.row_max[row];
  top = fmaxf(top, before);
  float sum = 0.f;
  each<T, true>(x, a.cols, packed, [&](int64_t j, float v) {
    const float unit = a.inv_t[j], e = j == label ? 0.f : __expf(v * pull * unit - top);
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

// One row: the sums of all splits put together, then loss and gradients; NaN where the label is out of range.
template <typename T> __global__ void finish_kernel(Finish a) {
  using Out = std::conditional_t<std::is_same_v<T, __half>, float, T>;  // no loss scale has been applied yet
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
  for (int k = 0; k < a.splits; ++k) high = fmaxf(high, a.row_max[k * a.rows + row]);
  for (int k = 0; k < a.splits; ++k)
    others += __expf(a.row_max[k * a.rows + row] - high) * a.row_sum[k * a.rows + row];
  const float own = a.label_logit[row], d = others == 0.f ? kLow + own : logf(others) + high - own;  // NaN stays
  const float small = __expf(-fabsf(d)), q = (d > 0.f ? 1.f : small) / (1.f + small);  // 1 - p_label
  const float ratio = others == 0.f ? 0.f : q / others, pull = (eps - q) * a.inv_t[y];
  const T* z = static_cast<const T*>(a.z) + row * a.ldz;
  const T* t = static_cast<const T*>(a.text) + y * a.ldt;
  const auto gradient = [&](int64_t j) {
    float o = 0.f;
    for (int k = 0; k < a.splits; ++k)
      o += __expf(a.row_max[k * a.rows + row] - high) * a.o[(k * a.rows + row) * a.width + j];
    return o * ratio + pull * widen(t[j]) - (a.mean_text ? eps * a.mean_text[j] : 0.f);
  };
  float along = 0.f, mean_cos = 0.f;
  for (int64_t j = threadIdx.x; j < a.width; j += blockDim.x) {
    const float zj = widen(z[j]) * unit;
    along += gradient(j) * zj;
    if (a.mean_text) mean_cos += a.mean_text[j] * zj;
  }
  along = block_all(along, Sum(), 0.f, scratch);
  if (a.mean_text) mean_cos = block_all(mean_cos, Sum(), 0.f, scratch);
  if (threadIdx.x == 0) {
    a.loss[row] = fmaxf(d, 0.f) + log1pf(small) + (a.mean_text ? eps * (own - scale * mean_cos) : 0.f);
    a.dscale[row] = along;
    if (a.ratio) a.ratio[row] = ratio, a.label_coef[row] = eps - q;
  }
  for (int64_t j = threadIdx.x; dz && j < a.width; j += blockDim.x)
    dz[j] = narrow<Out>(scale * unit * (gradient(j) - along * widen(z[j]) * unit));
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
